"""Log-mel spectrogram of Wav2Lip: one implementation for training and inference.

``y[n] = x[n] - 0.97 x[n-1]``; ``A = mel @ |STFT(y)|``; ``S = 20 log10(max(1e-5, A)) - 20``;
``out = clip(8 (S + 100) / 100 - 4, -4, 4)``. Digital silence is exactly -4.
"""

from __future__ import annotations

from functools import lru_cache
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipsync.audio.spec import WAV2LIP, AudioSpec

AMPLITUDE_FLOOR = 1e-5
_BLOCK = 4096
"""Columns computed at once: memory beyond input and result stays flat for any length."""


@lru_cache(maxsize=4)
def mel_basis(spec: AudioSpec = WAV2LIP) -> Tensor:
    """``(n_mels, 1 + n_fft // 2)`` float32 triangles on the Slaney scale with Slaney area norm."""
    from librosa.filters import mel

    basis = mel(
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        n_mels=spec.n_mels,
        fmin=spec.fmin,
        fmax=spec.fmax,
        htk=False,
        norm="slaney",
    )
    return torch.from_numpy(np.ascontiguousarray(basis, dtype=np.float32))


@overload
def log_mel(waveform: npt.NDArray[np.floating], spec: AudioSpec = ...) -> npt.NDArray[np.float32]: ...
@overload
def log_mel(waveform: Tensor, spec: AudioSpec = ...) -> Tensor: ...
def log_mel(
    waveform: npt.NDArray[np.floating] | Tensor, spec: AudioSpec = WAV2LIP
) -> npt.NDArray[np.float32] | Tensor:
    """Log-mel spectrogram in [-4, 4], 80 steps a second.

    Args:
        waveform: ``(N,)`` floating point in [-1, 1] at ``spec.sample_rate``; any ``N >= 1``.
        spec: Parameters of the front end.

    Returns:
        ``(80, 1 + N // 200)`` float32; an ndarray for an ndarray, a tensor on the same device for a tensor.

    Raises:
        ValueError: The waveform is empty, not one-dimensional, not floating point, or (ndarray) not finite.
    """
    if isinstance(waveform, Tensor):
        return _log_mel(waveform, spec)
    if not np.isfinite(waveform).all():
        raise ValueError("waveform holds values that are not finite")
    result: npt.NDArray[np.float32] = _log_mel(torch.from_numpy(np.ascontiguousarray(waveform)), spec).numpy()
    return result


def _log_mel(waveform: Tensor, spec: AudioSpec) -> Tensor:
    if waveform.ndim != 1 or waveform.numel() == 0 or not waveform.is_floating_point():
        raise ValueError(
            f"waveform must be (N,) floating point with N >= 1, got {tuple(waveform.shape)} {waveform.dtype}"
        )
    steps = spec.steps(waveform.numel())
    blocks = (range(steps)[first : first + _BLOCK] for first in range(0, steps, _BLOCK))
    return torch.cat([_columns(waveform, block, spec) for block in blocks], dim=1)


def _columns(waveform: Tensor, steps: range, spec: AudioSpec) -> Tensor:
    """The columns ``steps`` of the spectrogram, ``(80, len(steps))``."""
    spectrum = torch.stft(
        _emphasised(waveform, steps, spec),
        spec.n_fft,
        hop_length=spec.hop,
        win_length=spec.win,
        window=torch.hann_window(spec.win, periodic=True, device=waveform.device),
        center=False,
        return_complex=True,
    )
    amplitude = mel_basis(spec).to(waveform.device) @ spectrum.abs()
    level = 20 * torch.log10(amplitude.clamp(min=AMPLITUDE_FLOOR)) - spec.ref_level_db
    scaled = 2 * spec.max_abs * (level - spec.min_level_db) / -spec.min_level_db - spec.max_abs
    return scaled.clamp(-spec.max_abs, spec.max_abs)


def _emphasised(waveform: Tensor, steps: range, spec: AudioSpec) -> Tensor:
    """The samples under the columns ``steps``, high-passed, then reflected at both ends of the sound.

    Sound shorter than half a window is reflected as often as needed. The difference of neighbours is taken
    in float64, because it cancels leading digits.
    """
    half = spec.n_fft // 2
    place = torch.arange(steps.start * spec.hop - half, steps[-1] * spec.hop + half, device=waveform.device)
    period = max(1, 2 * (waveform.numel() - 1))
    index = place % period
    index = torch.minimum(index, period - index)
    before = torch.where(index > 0, waveform[index - 1].double(), 0.0)
    return (waveform[index].double() - spec.preemphasis * before).float()
