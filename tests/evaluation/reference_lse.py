"""LSE as published, step by step: real ``ffmpeg`` calls, folders of JPEGs, lists of frames, Python loops.

Slow and plain on purpose: what the package computes in streams is held against this. Written from a
description of the published steps (``evaluate`` and ``run_pipeline`` of SyncNet v2 as the LSE scripts call
them); the network and the face detector are passed in.
"""

from __future__ import annotations

import math
import subprocess
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import imageio_ffmpeg
import numpy as np
import torch

Detect = Callable[[np.ndarray], Sequence[Sequence[float]]]
"""Corners ``x1, y1, x2, y2`` of the faces in a BGR image, best first."""

VSHIFT = 15
BATCH = 20


class Score(NamedTuple):
    distance: float
    confidence: float
    offset: int
    curve: list[float]


class FaceTrack(NamedTuple):
    frames: np.ndarray
    boxes: np.ndarray


def ffmpeg(*arguments: str | Path) -> None:
    # One thread: slices of several threads would make the MPEG-4 depend on the machine.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")


# --- evaluate ---------------------------------------------------------------------------------------------


def evaluate(video: Path, net: torch.nn.Module, work: Path) -> Score:
    work.mkdir(parents=True)
    ffmpeg("-i", video, "-f", "image2", work / "%06d.jpg")
    ffmpeg(
        "-i", video, "-async", "1", "-ac", "1", "-vn", "-acodec", "pcm_s16le", "-ar", "16000", work / "a.wav"
    )
    images = [cv2.resize(cv2.imread(str(name)), (224, 224)) for name in sorted(work.glob("*.jpg"))]
    samples = read_wav(work / "a.wav")
    columns = mfcc(samples).T  # (13, F)

    length = min(len(images), math.floor(len(samples) / 640))
    last = length - 5
    video_rows, audio_rows = [], []
    with torch.no_grad():
        for i in range(0, last, BATCH):
            faces, sounds = [], []
            for frame in range(i, min(last, i + BATCH)):
                window = np.stack(images[frame : frame + 5], axis=0)  # (5, H, W, 3)
                faces.append(torch.from_numpy(window.transpose(3, 0, 1, 2).astype(np.float32)))
                sound = columns[:, 4 * frame : 4 * frame + 20]
                sounds.append(torch.from_numpy(sound.astype(np.float32))[None])
            video_rows.append(net.forward_lip(torch.stack(faces)))
            audio_rows.append(net.forward_aud(torch.stack(sounds)))
    return compare(torch.cat(video_rows).numpy(), torch.cat(audio_rows).numpy())


def compare(video: np.ndarray, audio: np.ndarray) -> Score:
    rows, size = video.shape
    padded = np.zeros((rows + 2 * VSHIFT, size), dtype=np.float32)
    padded[VSHIFT : VSHIFT + rows] = audio
    distances = np.zeros((rows, 2 * VSHIFT + 1), dtype=np.float32)
    for i in range(rows):
        for j in range(2 * VSHIFT + 1):
            difference = video[i] - padded[i + j] + np.float32(1e-6)
            distances[i, j] = math.sqrt(float(np.sum(difference.astype(np.float64) ** 2)))
    mean = distances.mean(axis=0)
    best = int(np.argmin(mean))
    middle = float(sorted(mean.tolist())[VSHIFT])
    raw = (middle - distances[:, best]).tolist()
    curve = []
    for i in range(rows):
        window = [raw[k] if 0 <= k < rows else 0.0 for k in range(i - 4, i + 5)]
        curve.append(sorted(window)[4])
    return Score(float(mean[best]), middle - float(mean[best]), VSHIFT - best, curve)


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def mfcc(samples: np.ndarray) -> np.ndarray:
    signal = samples.astype(np.float64)
    emphasised = [signal[0], *(signal[n] - 0.97 * signal[n - 1] for n in range(1, len(signal)))]
    count = 1 if len(signal) <= 400 else 1 + math.ceil((len(signal) - 400) / 160)
    emphasised.extend([0.0] * ((count - 1) * 160 + 400 - len(signal)))
    filters = _filters()
    cosines = np.zeros((13, 26))
    for k in range(13):
        for n in range(26):
            cosines[k, n] = math.cos(math.pi * k * (2 * n + 1) / 52) * math.sqrt((1 if k == 0 else 2) / 26)
    result = np.zeros((count, 13))
    tiny = np.finfo(np.float64).eps
    for f in range(count):
        spectrum = np.fft.rfft(emphasised[160 * f : 160 * f + 400], 512)
        power = np.abs(spectrum) ** 2 / 512
        energy = power.sum()
        bands = [float(np.dot(power, row)) for row in filters]
        logs = [math.log(band if band != 0 else tiny) for band in bands]
        for k in range(13):
            lifter = 1 + 11 * math.sin(math.pi * k / 22)
            result[f, k] = lifter * float(np.dot(cosines[k], logs))
        result[f, 0] = math.log(energy if energy != 0 else tiny)
    return result


def _filters() -> np.ndarray:
    top = 2595 * math.log10(1 + 8000 / 700)
    bins = []
    for i in range(28):
        hertz = 700 * (10 ** (top * i / 27 / 2595) - 1)
        bins.append(math.floor(513 * hertz / 16000))
    bank = np.zeros((26, 257))
    for band in range(26):
        for k in range(bins[band], bins[band + 1]):
            bank[band, k] = (k - bins[band]) / (bins[band + 1] - bins[band])
        for k in range(bins[band + 1], bins[band + 2]):
            bank[band, k] = (bins[band + 2] - k) / (bins[band + 2] - bins[band + 1])
    return bank


# --- run_pipeline -----------------------------------------------------------------------------------------


def run_pipeline(video: Path, detect: Detect, work: Path) -> list[Path]:
    """One cropped video, with its sound, for every face track."""
    (work / "frames").mkdir(parents=True)
    avi, sound = work / "video.avi", work / "audio.wav"
    ffmpeg("-i", video, "-qscale:v", "2", "-async", "1", "-r", "25", "-threads", "1", avi)
    ffmpeg("-i", avi, "-qscale:v", "2", "-threads", "1", "-f", "image2", work / "frames" / "%06d.jpg")
    ffmpeg("-i", avi, "-ac", "1", "-vn", "-acodec", "pcm_s16le", "-ar", "16000", sound)
    names = sorted((work / "frames").glob("*.jpg"))
    faces = []
    for number, name in enumerate(names):
        boxes = detect(cv2.imread(str(name)))
        faces.append([{"frame": number, "box": [float(v) for v in box]} for box in boxes])
    tracks = []
    for first, last in shots(avi):
        if last - first >= 100:
            tracks.extend(track_shot(faces[first:last]))
    crops = []
    for index, track in enumerate(tracks):
        crops.append(crop_video(track, names, sound, work / f"crop{index:05d}"))
    return crops


def shots(avi: Path) -> list[tuple[int, int]]:
    capture = cv2.VideoCapture(str(avi))
    width = capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    step = 1
    for limit, factor in ((3200, 12), (2100, 8), (1700, 6), (1200, 5), (900, 4), (600, 3), (400, 2)):
        if width >= limit:
            step = factor
            break
    cuts: list[int] = []
    before = None
    number = 0
    while True:
        more, image = capture.read()
        if not more:
            break
        channels = [
            c.astype(np.int32) for c in cv2.split(cv2.cvtColor(image[::step, ::step], cv2.COLOR_BGR2HSV))
        ]
        if before is not None:
            changes = [np.abs(a - b).sum() / a.size for a, b in zip(channels, before, strict=True)]
            if sum(changes) / 3 >= 30 and (not cuts or number - cuts[-1] >= 15):
                cuts.append(number)
        before = channels
        number += 1
    edges = [0, *cuts, number]
    return [(edges[i], edges[i + 1]) for i in range(len(edges) - 1)]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def track_shot(faces: list[list[dict]]) -> list[FaceTrack]:
    tracks = []
    while True:
        track: list[dict] = []
        for frame_faces in faces:
            for face in frame_faces:  # the list shrinks while it is walked through, as published
                if not track:
                    track.append(face)
                    frame_faces.remove(face)
                elif face["frame"] - track[-1]["frame"] <= 25:
                    if overlap(face["box"], track[-1]["box"]) > 0.5:
                        track.append(face)
                        frame_faces.remove(face)
                else:
                    break
        if not track:
            return tracks
        if len(track) > 100:
            known = [face["frame"] for face in track]
            frames = np.arange(known[0], known[-1] + 1)
            sides = [np.interp(frames, known, [face["box"][i] for face in track]) for i in range(4)]
            boxes = np.stack(sides, axis=1)
            if max(np.mean(boxes[:, 2] - boxes[:, 0]), np.mean(boxes[:, 3] - boxes[:, 1])) > 100:
                tracks.append(FaceTrack(frames, boxes))


def _median13(values: list[float]) -> list[float]:
    count = len(values)
    result = []
    for i in range(count):
        window = [values[k] if 0 <= k < count else 0.0 for k in range(i - 6, i + 7)]
        result.append(sorted(window)[6])
    return result


def crop_video(track: FaceTrack, names: list[Path], sound: Path, target: Path) -> Path:
    silent, part = target.with_suffix(".t.avi"), target.with_suffix(".wav")
    writer = cv2.VideoWriter(str(silent), cv2.VideoWriter_fourcc(*"XVID"), 25, (224, 224))
    half = _median13([max(b[3] - b[1], b[2] - b[0]) / 2 for b in track.boxes])
    middle_y = _median13([(b[1] + b[3]) / 2 for b in track.boxes])
    middle_x = _median13([(b[0] + b[2]) / 2 for b in track.boxes])
    for i, frame in enumerate(track.frames):
        s = half[i]
        border = int(s * 1.8)
        image = cv2.imread(str(names[frame]))
        padded = np.pad(
            image, ((border, border), (border, border), (0, 0)), "constant", constant_values=(110, 110)
        )
        y, x = middle_y[i] + border, middle_x[i] + border
        face = padded[int(y - s) : int(y + s * 1.8), int(x - s * 1.4) : int(x + s * 1.4)]
        writer.write(cv2.resize(face, (224, 224)))
    writer.release()
    start, end = track.frames[0] / 25, (track.frames[-1] + 1) / 25
    ffmpeg("-i", sound, "-ss", f"{start:.3f}", "-to", f"{end:.3f}", part)
    result = target.with_suffix(".avi")
    ffmpeg("-i", silent, "-i", part, "-c:v", "copy", "-c:a", "copy", result)
    return result
