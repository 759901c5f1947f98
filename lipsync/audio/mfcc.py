"""MFCC of SyncNet v2, for LSE: the numbers of ``python_speech_features`` 0.6 with its default settings.

Pre-emphasis 0.97; rectangular frames of 25 ms every 10 ms, the last one padded with zeros; 512-point
power spectrum; 26 HTK-mel triangles from 0 to 8000 Hz on whole FFT bins; log; orthonormal DCT-II, first
13; lifter 22; coefficient 0 replaced by the log energy of the frame.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.fft import dct

SAMPLE_RATE = 16000
FRAME = 400
STEP = 160
N_FFT = 512
N_FILTERS = 26
N_COEFFICIENTS = 13
LIFTER = 22
PREEMPHASIS = 0.97
_EPS = np.finfo(np.float64).eps
_BLOCK = 4096
"""Frames analysed at once: memory stays flat for any length."""


def mfcc(waveform_int16: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Mel-frequency cepstral coefficients, 100 frames a second.

    Args:
        waveform_int16: ``(N,)`` int16 samples at 16 kHz, ``N >= 1``; the scale matters (full scale 32767).

    Returns:
        ``(F, 13)`` float32, ``F = 1 + ceil((N - 400) / 160)``, at least 1.

    Raises:
        ValueError: The waveform is empty, not one-dimensional or not int16.
    """
    if waveform_int16.ndim != 1 or waveform_int16.size == 0 or waveform_int16.dtype != np.int16:
        raise ValueError(
            f"waveform must be (N,) int16 with N >= 1, got {waveform_int16.shape} {waveform_int16.dtype}"
        )
    signal = waveform_int16.astype(np.float64)
    signal[1:] -= PREEMPHASIS * signal[:-1].copy()
    frames = 1 + max(0, -(-(signal.size - FRAME) // STEP))
    padded = np.zeros((frames - 1) * STEP + FRAME)
    padded[: signal.size] = signal
    views = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP]
    return np.concatenate([_cepstrum(views[i : i + _BLOCK]) for i in range(0, frames, _BLOCK)])


def _cepstrum(frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """``(F, 400)`` frames -> ``(F, 13)``."""
    power = np.abs(np.fft.rfft(frames, N_FFT)) ** 2 / N_FFT
    energy = power.sum(axis=1)
    filtered = power @ _filterbank().T
    # Digital silence: the log of zero is replaced by the log of the smallest step at 1.
    log_filtered = np.log(np.where(filtered == 0, _EPS, filtered))
    cepstrum = dct(log_filtered, type=2, axis=1, norm="ortho")[:, :N_COEFFICIENTS]
    cepstrum = cepstrum * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(N_COEFFICIENTS) / LIFTER))
    cepstrum[:, 0] = np.log(np.where(energy == 0, _EPS, energy))
    result: npt.NDArray[np.float32] = cepstrum.astype(np.float32)
    return result


@lru_cache(maxsize=1)
def _filterbank() -> npt.NDArray[np.float64]:
    """``(26, 257)`` triangles whose corners lie on whole FFT bins."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, N_FILTERS + 2) / 2595) - 1)
    corners = np.floor((N_FFT + 1) * hertz / SAMPLE_RATE)
    left, centre, right = (corners[i : i + N_FILTERS, None] for i in range(3))
    bins = np.arange(N_FFT // 2 + 1)[None]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    # The corner itself belongs to the falling side, as in the original loops.
    bank = np.where((bins >= left) & (bins < centre), rising, 0.0)
    bank = np.where((bins >= centre) & (bins < right), falling, bank)
    result: npt.NDArray[np.float64] = bank
    return result
