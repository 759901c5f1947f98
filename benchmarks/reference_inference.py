"""The steps of the original inference script, each timed on a few frames of a video.

The original works one step after the other and frame by frame, so what it takes for a frame is the sum: read
all frames into a list, S3FD on every full frame, the network in float32 in batches of 128, boxes pasted
whole, an MPEG-4 AVI, and that encoded again to H.264.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lipsync.faces.detector import S3FDDetector
from lipsync.media.reader import VideoReader
from lipsync.media.writer import VideoWriter
from lipsync.models.s3fd import S3FD
from lipsync.models.wav2lip import Wav2Lip
from lipsync.types import Frame, Image

BATCH = 128


def reference_steps(video: Path, detected: int, generated: int) -> dict[str, float]:
    """Seconds a frame of each step of the original.

    Args:
        video: Its frames are used; the face is taken to be in the middle, whatever the detector says.
        detected: Frames that the detector is timed on.
        generated: Frames that everything else is timed on; the network's batch where below 128.
    """
    torch.manual_seed(0)
    network = Wav2Lip().eval()
    frames, seconds = _timed(lambda: _read(video, generated))
    steps = {"read": seconds / len(frames)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(S3FD().state_dict(), folder / "s3fd.pth")
        detector = S3FDDetector(folder / "s3fd.pth", "cpu", max_side=None, channel_order="rgb")
        _, seconds = _timed(
            lambda: [detector.detect([Frame(i, 0.0, image)]) for i, image in enumerate(frames[:detected])]
        )
        steps["detect"] = seconds / min(detected, len(frames))
        patches, seconds = _timed(lambda: _generate(network, frames))
        steps["generate"] = seconds / len(frames)
        _, seconds = _timed(lambda: _write(frames, patches, folder / "result.avi"))
        steps["paste, write AVI"] = seconds / len(frames)
        _, seconds = _timed(lambda: _encode_again(folder / "result.avi", folder / "result.mp4"))
        steps["encode again"] = seconds / len(frames)
    return steps


def _read(video: Path, count: int) -> list[Image]:
    stream = cv2.VideoCapture(str(video))
    frames = [np.asarray(image, np.uint8) for _, image in itertools.islice(_decoded(stream), count)]
    stream.release()
    return frames


def _decoded(stream: cv2.VideoCapture) -> Iterator[tuple[bool, Any]]:
    while True:
        found, image = stream.read()
        if not found:
            return
        yield found, image


def _middle(image: Image) -> tuple[slice, slice]:
    height, width = image.shape[:2]
    half = round(0.2 * min(height, width))
    return slice(height // 2 - half, height // 2 + half), slice(width // 2 - half, width // 2 + half)


def _generate(network: Wav2Lip, frames: list[Image]) -> list[Image]:
    """The data of the original: float64 until the last moment, and the whole batch at once."""
    patches: list[Image] = []
    for start in range(0, len(frames), BATCH):
        crops = np.asarray([cv2.resize(f[_middle(f)], (96, 96)) for f in frames[start : start + BATCH]])
        masked = crops.copy()
        masked[:, 48:] = 0
        batch = np.concatenate((masked, crops), axis=3) / 255.0
        mels = np.random.default_rng(0).uniform(-4, 4, (len(batch), 1, 80, 16))
        with torch.no_grad():
            fake = network(torch.FloatTensor(mels), torch.FloatTensor(np.transpose(batch, (0, 3, 1, 2))))
        patches.extend((fake.numpy().transpose(0, 2, 3, 1) * 255.0).astype(np.uint8))
    return patches


def _write(frames: list[Image], patches: list[Image], path: Path) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"DIVX"), 25, (width, height))
    for image, patch in zip(frames, patches, strict=True):
        result = image.copy()
        region = result[_middle(image)]
        region[:] = cv2.resize(patch, (region.shape[1], region.shape[0]))
        writer.write(result)
    writer.release()


def _encode_again(source: Path, target: Path) -> None:
    """With the settings that the ffmpeg program takes for an mp4."""
    reader = VideoReader(source)
    with VideoWriter(target, reader.info.width, reader.info.height, Fraction(25), crf=23) as writer:
        for frame in reader:
            writer.write(frame.image)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
