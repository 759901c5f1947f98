"""Generated corpus in the layout of LRS2: talking heads in perfect sync with speech-like sound.

Needs nothing downloaded. Made for a first run, for continuous integration and for convergence tests::

    root/main/<speaker>/<id>.mp4            picture and sound
    root/main/<speaker>/<id>.faces.json     true face boxes, read by the annotation-based detector
    root/main/<speaker>/<id>.mouth.json     true aperture, rounding and mouth box of every frame
    root/filelists/{train,val,test}.txt
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lipsync.data.filelist import write_filelist
from lipsync.data.synthetic_face import Portrait, Pose, draw_background
from lipsync.data.synthetic_mouth import MOUTH_REGION, measure_aperture
from lipsync.data.synthetic_photo import TalkingPhoto
from lipsync.data.synthetic_speech import SAMPLE_RATE, Speech, Voice, synthesize_speech
from lipsync.files import write_text
from lipsync.media.writer import VideoWriter
from lipsync.types import Box, Image

__all__ = [
    "MOUTH_REGION",
    "SyntheticClip",
    "draw_clip",
    "make_corpus",
    "make_photo_clip",
    "measure_aperture",
    "photo_clip",
    "write_clip",
]

_SPEAKER, _CLIP, _PHOTO = 0, 1, 2  # separate random streams of one seed


@dataclass(frozen=True)
class SyntheticClip:
    """One generated clip; frames are drawn as they are asked for."""

    size: int
    """Side of the square frames, pixels."""
    fps: Fraction
    waveform: npt.NDArray[np.float32]
    """``(N,)`` at 16 kHz in [-1, 1]."""
    aperture: npt.NDArray[np.float64]
    """``(F,)``: mouth opening shown in each frame, 0 closed to 1 wide open."""
    rounding: npt.NDArray[np.float64]
    """``(F,)``: 0 spread to 1 rounded."""
    faces: Sequence[Box]
    mouths: Sequence[Box]
    landmarks: Sequence[npt.NDArray[np.float32]]
    av_offset: int
    draw: Callable[[int], Image]

    def __len__(self) -> int:
        return len(self.aperture)

    def frames(self) -> Iterator[Image]:
        """The pictures in order, ``(size, size, 3)`` uint8 BGR."""
        return map(self.draw, range(len(self)))


def make_corpus(
    root: Path | str,
    clips: int = 24,
    speakers: int = 6,
    seconds: float = 3.0,
    seed: int = 0,
    *,
    size: int = 192,
    fps: Fraction | int = 25,
    av_offset: int | Sequence[int] = 0,
    unseen_speakers: bool = True,
) -> Path:
    """Write a corpus; the same arguments give the same pictures and samples.

    The last speakers are held out: their clips make the val and test lists, so that validation is on unseen
    faces (with too few speakers or clips, or without ``unseen_speakers``, on unseen clips).

    Args:
        root: Folder to write into; existing clips of the same names are replaced.
        clips: Number of clips, dealt to the speakers in turn.
        speakers: Number of looks and voices.
        seconds: Length of each clip.
        seed: Chooses everything random.
        size: Side of the square frames, pixels, even.
        fps: Frame rate.
        av_offset: Frames by which the sound runs ahead of the picture, the sign in which SyncNet and LSE
            report an offset; a sequence is dealt to the clips in turn.
        unseen_speakers: Hold out speakers; otherwise the last eighth of the clips, at least two.

    Returns:
        ``root``.
    """
    if clips < 1 or speakers < 1 or size % 2:
        raise ValueError(f"need clips >= 1, speakers >= 1 and an even size, got {clips}, {speakers}, {size}")
    root = Path(root)
    offsets = [av_offset] if isinstance(av_offset, int) else list(av_offset)
    names: dict[int, list[str]] = {}
    for number in range(clips):
        speaker = number % speakers
        name = f"speaker{speaker:02d}/{number:05d}"
        offset = offsets[number % len(offsets)]
        clip = draw_clip(speaker, number, seconds, seed=seed, size=size, fps=fps, av_offset=offset)
        write_clip(clip, root / "main" / f"{name}.mp4")
        names.setdefault(speaker, []).append(name)
    for split, members in _splits(names, unseen_speakers).items():
        write_filelist(root / "filelists" / f"{split}.txt", members)
    return root


def draw_clip(
    speaker: int,
    number: int,
    seconds: float,
    *,
    seed: int = 0,
    size: int = 192,
    fps: Fraction | int = 25,
    av_offset: int = 0,
) -> SyntheticClip:
    """Clip ``number`` of a speaker; looks, voice and background depend on ``seed`` and ``speaker`` only."""
    identity = np.random.default_rng([seed, _SPEAKER, speaker])
    portrait, voice = Portrait.draw(identity), Voice.draw(identity)
    background = draw_background(size, identity)  # one studio a speaker
    rng = np.random.default_rng([seed, _CLIP, number])
    rate = Fraction(fps)
    waveform, aperture, rounding = _speak(voice, seconds, rate, av_offset, rng)
    poses = _poses(size, float(rate), aperture, rounding, rng)
    return SyntheticClip(
        size=size,
        fps=rate,
        waveform=waveform,
        aperture=aperture,
        rounding=rounding,
        faces=[portrait.face_box(pose) for pose in poses],
        mouths=[portrait.mouth_box(pose) for pose in poses],
        landmarks=[portrait.landmarks(pose) for pose in poses],
        av_offset=av_offset,
        draw=lambda index: portrait.render(background, poses[index]),
    )


def photo_clip(
    seconds: float, seed: int = 0, *, size: int = 256, fps: Fraction | int = 25, av_offset: int = 0
) -> SyntheticClip:
    """A real face whose jaw follows generated speech; see :mod:`lipsync.data.synthetic_photo`.

    Raises:
        ConfigError: Scikit-image is not installed.
    """
    rng = np.random.default_rng([seed, _PHOTO])
    rate = Fraction(fps)
    waveform, aperture, rounding = _speak(Voice.draw(rng), seconds, rate, av_offset, rng)
    photo = TalkingPhoto(size)
    shots = list(photo.shots(aperture, rng))
    return SyntheticClip(
        size=size,
        fps=rate,
        waveform=waveform,
        aperture=aperture,
        rounding=rounding,
        faces=[photo.face_box(shot) for shot in shots],
        mouths=[photo.mouth_box(shot) for shot in shots],
        landmarks=[photo.landmarks(shot) for shot in shots],
        av_offset=av_offset,
        draw=lambda index: photo.render(shots[index]),
    )


def make_photo_clip(
    path: Path | str, seconds: float = 3.0, seed: int = 0, *, size: int = 256, av_offset: int = 0
) -> Path:
    """Write :func:`photo_clip` to ``path`` (a video file) with its sidecars.

    Raises:
        ConfigError: Scikit-image is not installed.
    """
    return write_clip(photo_clip(seconds, seed, size=size, av_offset=av_offset), Path(path))


def write_clip(clip: SyntheticClip, path: Path) -> Path:
    """Encode a clip and write ``<stem>.faces.json`` and ``<stem>.mouth.json`` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = f"{clip.fps.numerator}/{clip.fps.denominator}"
    faces = [
        [[*_corners(box), 1.0, [[round(float(v), 2) for v in point] for point in points]]]
        for box, points in zip(clip.faces, clip.landmarks, strict=True)
    ]
    write_text(path.with_suffix(".faces.json"), json.dumps({"fps": rate, "faces": faces}))
    mouth = {
        "fps": rate,
        "av_offset": clip.av_offset,
        "aperture": [round(float(value), 4) for value in clip.aperture],
        "rounding": [round(float(value), 4) for value in clip.rounding],
        "boxes": [_corners(box) for box in clip.mouths],
    }
    write_text(path.with_suffix(".mouth.json"), json.dumps(mouth))
    with VideoWriter(
        path, clip.size, clip.size, clip.fps, clip.waveform, sample_rate=SAMPLE_RATE, preset="veryfast"
    ) as writer:
        for image in clip.frames():
            writer.write(image)
    return path


def _speak(
    voice: Voice, seconds: float, fps: Fraction, av_offset: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sound, and the mouth of each frame at the middle of the time it is shown."""
    margin = float(abs(av_offset) / fps)
    speech: Speech = synthesize_speech(seconds + margin, voice, rng)
    lead = float(av_offset / fps)  # the sound at time t was due at t + lead
    first = round(max(lead, 0.0) * SAMPLE_RATE)
    waveform = speech.waveform[first : first + round(seconds * SAMPLE_RATE)]
    count = round(seconds * fps)
    times = (np.arange(count, dtype=np.float64) + 0.5) / float(fps) + max(-lead, 0.0)
    aperture, rounding = speech.at(times)
    return waveform, aperture, rounding


def _poses(
    size: int,
    fps: float,
    aperture: npt.NDArray[np.float64],
    rounding: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> list[Pose]:
    """Slow sway of the head, and blinks."""
    time = np.arange(len(aperture)) / fps
    base = rng.uniform((0.46, 0.46, 0.30), (0.54, 0.52, 0.35)) * size
    phases, periods = rng.uniform(0, 2 * np.pi, (5, 1)), rng.uniform(1.8, 5.0, (5, 1))
    sway = np.sin(2 * np.pi * time / periods + phases)
    blink_times = rng.uniform(0, max(float(time[-1]), 1.0), max(1, len(time) // 75))
    lids = np.clip(np.abs(time[:, None] - blink_times).min(axis=1) / 0.12, 0, 1)
    return [
        Pose(
            x=float(base[0] + 0.018 * size * sway[0, i]),
            y=float(base[1] + 0.014 * size * sway[1, i]),
            scale=float(base[2] * (1 + 0.025 * sway[2, i])),
            roll=float(0.05 * sway[3, i]),
            yaw=float(0.04 * sway[4, i]),
            aperture=float(aperture[i]),
            rounding=float(rounding[i]),
            eyelids=float(lids[i]),
        )
        for i in range(len(time))
    ]


def _splits(names: dict[int, list[str]], unseen_speakers: bool) -> dict[str, list[str]]:
    """Hold out the last speakers until there are clips for both val and test, or the last clips."""
    ordered = [name for speaker in sorted(names) for name in names[speaker]]
    held = 0
    for speaker in sorted(names, reverse=True):
        held += len(names[speaker])
        if held >= 2:
            break
    if held == len(ordered) or not unseen_speakers:  # one speaker, or a handful of clips
        ordered.sort(key=lambda name: name.rpartition("/")[2])
        held = min(max(2, len(ordered) // 8), len(ordered) - 1)
    train, rest = ordered[: len(ordered) - held], ordered[len(ordered) - held :]
    return {"train": train, "val": rest[::2], "test": rest[1::2]}


def _corners(box: Box) -> list[float]:
    return [round(value, 2) for value in (box.x1, box.y1, box.x2, box.y2)]
