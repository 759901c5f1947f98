"""Which part of the spectrogram belongs to which video frame: the only file that knows ``80 / fps``.

All rules here are those of Wav2Lip. A window is 16 mel steps (200 ms) and starts at the frame's own time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipsync.audio.spec import MEL_STEPS, TRAINING_FPS, WAV2LIP

Mel = TypeVar("Mel", npt.NDArray[np.float32], Tensor)

_RATE = WAV2LIP.steps_per_second
SILENCE = -WAV2LIP.max_abs
"""Mel value of digital silence."""


def training_start(frame: int) -> int:
    """First mel step of the window of ``frame`` (25 fps) in training: ``int(80 * (frame / 25))``."""
    return int(_RATE * (frame / float(TRAINING_FPS)))


def mel_window(mel: Mel, start: int) -> Mel:
    """The 16 columns from ``start``, moved inside the spectrogram where they would overrun an edge.

    Args:
        mel: ``(80, T)``; ``T < 16`` is padded with silence at the end.
        start: First column; negative values act as 0, values above ``T - 16`` as ``T - 16``.

    Returns:
        ``(80, 16)``, a view where possible.
    """
    mel = _at_least_one_window(mel)
    start = min(max(start, 0), mel.shape[1] - MEL_STEPS)
    return mel[:, start : start + MEL_STEPS]


def mel_windows(mel: Mel, fps: float | Fraction) -> Mel:
    """Windows of consecutive video frames by the inference rule of Wav2Lip.

    Window ``i`` starts at ``int(i * (80 / fps))`` in float arithmetic; the first that would overrun is
    replaced by the last 16 columns and ends the list.

    Args:
        mel: ``(80, T)``; ``T < 16`` is padded with silence (-4) at the end.
        fps: Frames per second of the video.

    Returns:
        ``(n, 80, 16)``, ``n >= 2``; same kind as ``mel``.

    Raises:
        ValueError: ``fps`` is not positive or ``mel`` not two-dimensional.
    """
    mel = _at_least_one_window(mel)
    starts = _starts(mel.shape[1], fps)
    columns = np.asarray(starts)[:, None] + np.arange(MEL_STEPS)
    if isinstance(mel, Tensor):
        return mel[:, torch.from_numpy(columns).to(mel.device)].transpose(0, 1).contiguous()
    return np.ascontiguousarray(mel[:, columns].transpose(1, 0, 2))


class MelWindows:
    """Windows by video frame index, cut on demand.

    ``windows[i]`` exists for any ``i >= 0``: frames after the end of the sound get the last window (a video
    may be longer than its sound). ``len()`` and iteration cover the frames of the reference rule.

    Args:
        mel: ``(80, T)`` float32 in [-4, 4].
        fps: Frame rate of the video.
        shift: Frames of 40 ms (one frame of the 25 fps training clips) added to every start. -1 restores
            the alignment of the released Wav2Lip weights, whose trainer paired frame ``f`` with the sound
            of frame ``f - 1``.

    Raises:
        ValueError: ``fps`` is not positive or ``mel`` not two-dimensional.
    """

    def __init__(self, mel: npt.NDArray[np.float32], fps: Fraction, shift: int = 0) -> None:
        self.mel = _at_least_one_window(np.asarray(mel, dtype=np.float32))
        self.fps = fps
        self.shift = shift
        self._steps = mel.shape[1]
        self._length = len(_starts(self.mel.shape[1], fps))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        if index < 0:
            raise IndexError(f"frame index must not be negative, got {index}")
        return mel_window(self.mel, self.start(index))

    def start(self, index: int) -> int:
        """First mel step of frame ``index`` before clamping to the spectrogram."""
        return math.floor(index * (_RATE / float(self.fps)) + self.shift * _RATE / TRAINING_FPS)

    @property
    def frames_to_cover(self) -> int:
        """Frames a video needs to last at least as long as the sound, at least 1.

        The reference rule (``len``) stops 0.07 to 0.17 s earlier.
        """
        return max(1, math.ceil((self._steps - 1) * self.fps / Fraction(_RATE)))


def _starts(steps: int, fps: float | Fraction) -> list[int]:
    """First columns by the reference inference rule; float arithmetic on purpose, for equal rounding."""
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    stride = _RATE / float(fps)
    starts: list[int] = []
    while (start := int(len(starts) * stride)) + MEL_STEPS <= steps:
        starts.append(start)
    return [*starts, steps - MEL_STEPS]


@overload
def _at_least_one_window(mel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...
@overload
def _at_least_one_window(mel: Tensor) -> Tensor: ...
def _at_least_one_window(mel: npt.NDArray[np.float32] | Tensor) -> npt.NDArray[np.float32] | Tensor:
    if mel.ndim != 2:
        raise ValueError(f"mel must be (80, T), got {tuple(mel.shape)}")
    missing = MEL_STEPS - mel.shape[1]
    if missing <= 0:
        return mel
    if isinstance(mel, Tensor):
        return torch.nn.functional.pad(mel, (0, missing), value=SILENCE)
    return np.pad(mel, ((0, 0), (0, missing)), constant_values=SILENCE)
