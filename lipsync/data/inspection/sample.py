"""The few seconds of a few clips that all measurements look at, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.audio.spec import TRAINING_FPS, WAV2LIP
from lipsync.data.base_clip import BaseClip

Floats = npt.NDArray[np.float32]

SIDE = 48
"""Side of the grey pictures, pixels: enough for lips and for a head that jumps, quick to correlate."""
MIN_FRAMES = 30
"""Shorter runs hold too little to correlate over 31 lags."""


@dataclass(frozen=True)
class ClipSample:
    """Consecutive pictures of one clip and all of its sound."""

    name: str
    first: int
    """Frame index of the first picture."""
    frames: Floats
    """``(n, SIDE, SIDE)`` grey, 0 to 255."""
    mel: Floats
    """``(80, T)`` in [-4, 4]."""
    offset: int
    """Frames by which the data set moves the clip's speech: picture ``f`` goes with speech ``f + offset``."""
    stretch: float
    """Duration of the pictures at 25 fps over that of the sound."""


def draw_sample(
    clips: Sequence[BaseClip],
    *,
    count: int = 40,
    max_frames: int = 75,
    size: int = 96,
    offsets: Mapping[str, int | None] | None = None,
    seed: int = 0,
) -> list[ClipSample]:
    """Read the middle of ``count`` clips chosen at random; the same arguments give the same sample.

    Speakers come in turn, so that one with most of the clips does not fill the sample alone.

    Args:
        clips: Preprocessed clips, named ``speaker/id``.
        count: Clips to read at most.
        max_frames: Consecutive pictures of each.
        size: Side at which the clips deliver their pictures.
        offsets: The data set's table of moved (an integer) and dropped (None) clips.
        seed: Chooses the clips.

    Returns:
        The samples in the order of ``clips``; clips without ``MIN_FRAMES`` consecutive pictures and a sound
        that long are left out, so fewer than ``count`` or none may remain.
    """
    table = offsets or {}
    usable = [index for index, clip in enumerate(clips) if table.get(clip.name, 0) is not None]
    samples: dict[int, ClipSample] = {}
    for index in _in_turn(clips, usable, np.random.default_rng(seed)):
        if len(samples) == count:
            break
        clip = clips[index]
        span = _middle_of_longest_run(clip.present, max_frames)
        if len(span) >= MIN_FRAMES and clip.mel_steps >= MIN_FRAMES * _COLUMNS_PER_FRAME:
            samples[index] = _read(clip, span, size, table.get(clip.name) or 0)
    return [samples[index] for index in sorted(samples)]


_COLUMNS_PER_FRAME = WAV2LIP.steps_per_second / TRAINING_FPS


def _in_turn(clips: Sequence[BaseClip], usable: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Indices in random order, one of each speaker before the second of any."""
    shuffled = [usable[at] for at in rng.permutation(len(usable))]
    seen: dict[str, int] = {}
    turns = []
    for index in shuffled:
        speaker = clips[index].name.rpartition("/")[0]
        turns.append(seen.get(speaker, 0))
        seen[speaker] = turns[-1] + 1
    return [shuffled[at] for at in np.argsort(turns, kind="stable")]


def _middle_of_longest_run(present: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    run = max(np.split(present, np.flatnonzero(np.diff(present) != 1) + 1), key=len)
    first = max(0, (len(run) - length) // 2)
    return run[first : first + length]


def _read(clip: BaseClip, span: npt.NDArray[np.int64], size: int, offset: int) -> ClipSample:
    pictures = clip.frames(span, size)
    grey = [
        cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for picture in pictures
    ]
    return ClipSample(
        name=clip.name,
        first=int(span[0]),
        frames=np.stack(grey).astype(np.float32),
        mel=clip.mel(),
        offset=offset,
        stretch=clip.length * _COLUMNS_PER_FRAME / max(1, clip.mel_steps - 1),
    )
