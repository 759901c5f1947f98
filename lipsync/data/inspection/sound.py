"""Whether there is speech in the sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lipsync.audio.spec import MEL_STEPS
from lipsync.audio.windows import SILENCE
from lipsync.data.inspection.sample import ClipSample, Floats

_SILENT = SILENCE + 0.1
"""Level in mel units (12.5 dB each) below which nothing is heard."""
_FLAT = 0.4
"""Range of the level, 5th to 95th percentile: 5 dB, a hum or a noise; speech has more than 20."""


@dataclass(frozen=True)
class SoundMeasurements:
    """Shares of what carries no speech."""

    silent_windows: float
    """Of all 0.2 s windows, those that are digital silence throughout."""
    flat_clips: float
    """Of all clips, those whose level does not move."""
    level: float
    """Median level of the clips, mel units."""


def measure_sound(samples: Sequence[ClipSample]) -> SoundMeasurements:
    """Silence and steady noise in the mels of all clips."""
    levels = [sample.mel.mean(axis=0) for sample in samples]
    silent = np.concatenate([_silent_windows(level) for level in levels])
    flat = [float(np.subtract(*np.percentile(level, (95, 5)))) < _FLAT for level in levels]
    return SoundMeasurements(
        silent_windows=float(silent.mean()),
        flat_clips=float(np.mean(flat)),
        level=float(np.median([np.median(level) for level in levels])),
    )


def has_speech(sample: ClipSample) -> bool:
    """Whether the level of a clip's sound moves as that of speech does."""
    return float(np.subtract(*np.percentile(sample.mel.mean(axis=0), (95, 5)))) >= _FLAT


def _silent_windows(level: Floats) -> Floats:
    if len(level) < MEL_STEPS:
        return np.array([float(level.max() < _SILENT)], dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(level, MEL_STEPS)
    return np.asarray(windows.max(axis=1) < _SILENT, dtype=np.float32)
