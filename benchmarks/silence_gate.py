"""Does the mouth rest where nobody speaks? The three silence modes against each other, in one run.

    python benchmarks/silence_gate.py CHECKPOINT VIDEO... --landmarks PFLD.onnx --detector YUNET.onnx
    python benchmarks/silence_gate.py CHECKPOINT VIDEO... --landmarks PFLD.onnx --snr 30 10 --json out.json

Every video is lip-synced to the speech of the next one, into which silence was inserted at two quiet places:
digital zeros, and the same under white noise (dB below the speech). The picture is ``still`` (its first frame
throughout, so that all motion is the generator's) or ``moving`` (the video, there and back again, whose own
mouth speaks whatever is heard). The row ``picture`` is that picture unchanged. ``heard silent``: where the
voice-activity gate hears nobody, of the inserted silence and of everything else.

Columns, in the inserted silence (0.3 s inside, since mouths open before the sound) and elsewhere: opening of
the inner lips in eye-corner distances; its mean change from a frame to the next, times 1000; share
of open mouths (opening above 0.25 of their width); mean change of the lower face from a frame to the next in
grey levels. ``x`` is the motion against that of ``speak`` with the same picture and sound. ``step`` is the
largest change of the lower face around the ends of the silence, where a gate could pop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from measuring import reported

from lipsync.audio.mel import log_mel
from lipsync.audio.spec import SAMPLES_PER_FRAME, TRAINING_FPS, WAV2LIP
from lipsync.audio.voice import speech_activity
from lipsync.audio.windows import MelWindows
from lipsync.errors import DataError
from lipsync.faces.crop import crop
from lipsync.faces.detector import YunetDetector
from lipsync.faces.landmarks import LandmarkNet
from lipsync.inference.composite import FeatherCompositor
from lipsync.inference.detect import FollowFace
from lipsync.inference.silence import SILENCE_MODES, SilenceGate, gated_mel
from lipsync.inference.synthesize import Wav2LipSynthesizer
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.metrics.landmarks import OPEN, aperture, mouth_aspect_ratio
from lipsync.types import Box, FaceFrame, Image, Waveform

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FPS = Fraction(TRAINING_FPS)
PAUSES = (1.4, 1.4)
"""Seconds of the inserted silence."""
MARGIN = 8
"""Frames at either end of inserted silence that may belong to speech: 0.32 s."""
EDGE = 8
"""Frames on either side of an end of silence where a step would be a pop."""
SIDE = 96
PICTURES = ("still", "moving")
MODES = ("picture", *SILENCE_MODES)
"""``picture``: the source, unchanged."""


class Sound(NamedTuple):
    """Speech with silence in it."""

    name: str
    waveform: Waveform
    silent: Bools
    """By frame: inserted silence."""


@dataclass(frozen=True)
class Mouths:
    """What is measured of one video, by frame."""

    aperture: Floats
    ratio: Floats
    lower: Floats
    """Mean change of the lower face since the frame before, grey levels; the first one 0."""

    def where(self, silent: Bools) -> dict[str, float]:
        """Means over the frames chosen; changes are those between two chosen frames."""
        pairs = silent[1:] & silent[:-1]
        return {
            "aperture": float(self.aperture[silent].mean()),
            "motion": float(np.abs(np.diff(self.aperture))[pairs].mean()) * 1000,
            "open": float((self.ratio[silent] > OPEN).mean()),
            "change": float(self.lower[1:][pairs].mean()),
        }


def paused(speech: Waveform, pauses: Sequence[float]) -> tuple[Waveform, Bools]:
    """Speech with zeros inserted at the quietest frame of each part, and which frames of 40 ms they are."""
    frames = speech[: speech.size // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME)
    if len(frames) < 5 * len(pauses):
        raise DataError(f"{len(frames)} frames of sound are too few; give longer videos")
    loudness = np.square(frames, dtype=np.float64).mean(axis=1)
    # Of each part, the ends left out: silence there would join that of the recording.
    edges = np.linspace(len(frames) * 0.25, len(frames) * 0.75, len(pauses) + 1).round().astype(int)
    pieces, silent, done = [], [], 0
    for seconds, first, last in zip(pauses, edges[:-1], edges[1:], strict=True):
        place, length = int(first + loudness[first:last].argmin()), round(seconds * TRAINING_FPS)
        pieces += [frames[done:place], np.zeros((length, SAMPLES_PER_FRAME), np.float32)]
        silent += [np.zeros(place - done, np.bool_), np.ones(length, np.bool_)]
        done = place
    pieces.append(frames[done:])
    silent.append(np.zeros(len(frames) - done, np.bool_))
    return np.concatenate(pieces).reshape(-1).astype(np.float32), np.concatenate(silent)


def with_noise(speech: Waveform, decibels: float, seed: int = 0) -> Waveform:
    """White noise under all of it, that far below the power of the louder half of the frames."""
    frames = speech[: speech.size // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    level = np.sqrt(power[power >= np.median(power)].mean()) * 10 ** (-decibels / 20)
    noise = np.random.default_rng(seed).standard_normal(speech.size)
    return np.asarray(speech + level * noise, np.float32)


def sounds_of(video: Path, levels: Sequence[float]) -> list[Sound]:
    """The video's speech with silence in it, clean and under noise."""
    speech, silent = paused(load_waveform(video, WAV2LIP.sample_rate), PAUSES)
    noisy = [Sound(f"noise at {level:g} dB", with_noise(speech, level), silent) for level in levels]
    return [Sound("digital silence", speech, silent), *noisy]


def pictures_of(video: Path, detector: YunetDetector, seconds: float) -> list[FaceFrame]:
    """The first seconds of a video with its face.

    Raises:
        DataError: A frame has none.
    """
    frames = islice(VideoReader(video, FPS), max(2, round(seconds * TRAINING_FPS)))
    faces = list(FollowFace(detector)(frames))
    if any(item.face is None for item in faces):
        raise DataError(f"{video}: a frame has no face; give videos that show one throughout")
    return faces


def shown(faces: Sequence[FaceFrame], kind: str, count: int) -> Iterator[FaceFrame]:
    """``count`` numbered frames: the first one, or all of them there and back again."""
    source = faces[:1] if kind == "still" else [*faces, *faces[-2:0:-1]]
    for number, item in enumerate(islice(cycle(source), count)):
        yield replace(item, frame=replace(item.frame, index=number, time=float(number / FPS)))


class Scene(NamedTuple):
    """What is lip-synced to what."""

    faces: Sequence[FaceFrame]
    kind: str
    """Of :data:`PICTURES`."""
    sound: Sound


def made(scene: Scene, mode: str, synthesizer: Wav2LipSynthesizer) -> Iterator[tuple[Image, Box]]:
    """Frames of a scene in a mode, with the face's box."""
    faces = list(shown(scene.faces, scene.kind, scene.sound.silent.size))
    boxes = [item.face.box for item in faces if item.face is not None]
    if mode == "picture":
        yield from zip((item.frame.image for item in faces), boxes, strict=True)
        return
    active, mel = speech_activity(scene.sound.waveform), log_mel(scene.sound.waveform)
    speech = MelWindows(gated_mel(mel, active) if mode == "close" else mel, FPS, synthesizer.mel_shift)
    patches = synthesizer(faces, speech)
    if mode == "source":
        patches = SilenceGate(active, FPS)(patches)
    finished = FeatherCompositor()(patches)
    yield from zip((item.frame.image for item in finished), boxes, strict=True)


def observe(frames: Iterator[tuple[Image, Box]], landmarks: LandmarkNet) -> Mouths:
    """Mouth of every frame."""
    points, changes = [], [0.0]
    before: npt.NDArray[np.int16] | None = None
    for image, box in frames:
        points.append(landmarks.points(image, box))
        lower = crop(image, box, SIDE)[SIDE // 2 :].astype(np.int16)
        if before is not None:
            changes.append(float(np.abs(lower - before).mean()))
        before = lower
    found = np.stack(points)
    return Mouths(aperture(found), mouth_aspect_ratio(found), np.array(changes))


def figures(mouths: Mouths, silent: Bools) -> dict[str, float]:
    """Numbers of one video."""
    inside, outside = (_eroded(chosen, MARGIN) for chosen in (silent, ~silent))
    ends = np.flatnonzero(np.diff(silent.astype(np.int8)))
    near = np.unique(np.concatenate([np.arange(end - EDGE, end + EDGE) for end in ends]))
    rows = {"silence": mouths.where(inside), "speech": mouths.where(outside)}
    values = {f"{part}_{key}": value for part, row in rows.items() for key, value in row.items()}
    return {**values, "step": float(mouths.lower[near[(near >= 0) & (near < silent.size)]].max())}


def _eroded(chosen: Bools, frames: int) -> Bools:
    """Chosen frames with as many chosen ones on either side."""
    padded = np.pad(chosen, frames, mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * frames + 1).all(axis=1))


def heard_silent(sound: Sound) -> tuple[float, float]:
    """Share of the inserted silence, and of the rest, in which the gate hears nobody."""
    active = speech_activity(sound.waveform)
    columns = np.floor(np.arange(active.size) * WAV2LIP.hop / SAMPLES_PER_FRAME).astype(int)
    frames = np.zeros(sound.silent.size, np.bool_)
    np.logical_or.at(frames, np.minimum(columns, frames.size - 1), active)
    quiet = ~frames
    return float(quiet[_eroded(sound.silent, MARGIN)].mean()), float(quiet[~sound.silent].mean())


def measure(options: argparse.Namespace, done: Callable[[str], None]) -> dict[str, Any]:
    """All rows, means over the videos."""
    detector, landmarks = YunetDetector(options.detector), LandmarkNet(options.landmarks)
    synthesizer = Wav2LipSynthesizer.from_checkpoint(options.checkpoint, device=options.device)
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    heard: dict[str, list[tuple[float, float]]] = {}
    following = [*options.videos[1:], options.videos[0]]
    for video, speaker in zip(options.videos, following, strict=True):
        faces = pictures_of(video, detector, options.seconds)
        for sound in sounds_of(speaker, options.snr):
            heard.setdefault(sound.name, []).append(heard_silent(sound))
            for kind in PICTURES:
                for mode in MODES:
                    scene = Scene(faces, kind, sound)
                    mouths = observe(made(scene, mode, synthesizer), landmarks)
                    found.setdefault((kind, sound.name, mode), []).append(figures(mouths, sound.silent))
        done(video.name)
    rows = []
    for (kind, name, mode), several in sorted(found.items(), key=lambda item: PICTURES.index(item[0][0])):
        means = {key: float(np.mean([one[key] for one in several])) for key in several[0]}
        rows.append({"picture": kind, "sound": name, "mode": mode, **means})
    return {
        "checkpoint": Path(options.checkpoint).name,
        "videos": len(options.videos),
        "heard_silent": {name: np.mean(shares, axis=0).tolist() for name, shares in heard.items()},
        "rows": _with_ratios(rows),
    }


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its motion in silence against that of ``speak``."""
    base = {(row["picture"], row["sound"]): row for row in rows if row["mode"] == "speak"}
    return [
        {
            **row,
            "ratio": row["silence_motion"] / max(base[row["picture"], row["sound"]]["silence_motion"], 1e-9),
        }
        for row in rows
    ]


def report(result: dict[str, Any]) -> str:
    """The table as text."""
    within = "".join(f"{name:>9}" for name in ("opening", "motion", "x", "open", "change"))
    others = "".join(f"{name:>9}" for name in ("opening", "motion", "change", "step"))
    lines = [
        f"{result['checkpoint']}, {result['videos']} videos",
        f"{'':<10}{'in silence':>45}{'elsewhere':>27}",
    ]
    group = None
    for row in result["rows"]:
        if (row["picture"], row["sound"]) != group:
            group = (row["picture"], row["sound"])
            silence, rest = result["heard_silent"][row["sound"]]
            lines.append(
                f"{group[0]}, {group[1]}: heard silent {silence:.1%} of the silence, {rest:.1%} elsewhere"
            )
            lines.append(f"{'':<10}{within}{others}")
        line = f"{row['mode']:<10}{row['silence_aperture']:>9.4f}{row['silence_motion']:>9.2f}"
        line += f"{row['ratio']:>9.2f}{row['silence_open']:>9.0%}{row['silence_change']:>9.2f}"
        line += f"{row['speech_aperture']:>9.4f}"
        lines.append(f"{line}{row['speech_motion']:>9.2f}{row['speech_change']:>9.2f}{row['step']:>9.2f}")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="generator: a file, or a name of the catalogue")
    parser.add_argument("videos", nargs="+", type=Path, help="with sound and one face; two or more is better")
    parser.add_argument("--landmarks", required=True, type=Path, help="PFLD with 98 points, .onnx")
    parser.add_argument("--detector", default="yunet", help="YuNet's file (default: the catalogue's)")
    parser.add_argument("--snr", nargs="*", type=float, default=[20.0], help="of the noise, dB (default: 20)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each picture (default: 3)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--verbose", action="store_true", help="name every video when it is done")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)

    def done(name: str) -> None:
        if options.verbose:
            print(name, file=sys.stderr, flush=True)

    return reported(lambda: measure(options, done), report, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
