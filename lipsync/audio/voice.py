"""Where in a sound somebody speaks: a voice-activity gate on energy above an adaptive noise floor.

The sound is cut into 24 bands under the same windows as :mod:`lipsync.audio.mel`, so that a column of the
mel is silent exactly where its own 50 ms are. In each band the floor is the minimum of the smoothed power
around a column (Martin, "Noise Power Spectral Density Estimation Based on Optimal Smoothing and Minimum
Statistics", 2001); a column is loud where the power is well above the floor in the mean over the bands, which
finds the formants of a voice over noise that is as loud as they are in other bands, such as hum. Steady
sounds become floor, whatever their level; music and other people are speech to it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label, minimum_filter1d, uniform_filter1d

from lipsync.audio.spec import WAV2LIP
from lipsync.types import Waveform

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

BANDS = 24
LOWEST, HIGHEST = 80.0, 7600.0
"""Hz."""
REACH = 4.0
"""Seconds before and behind a column in which its noise floor is looked for."""
SMOOTHING = 0.1
"""Seconds of the mean whose minimum the floor is: a pause as long as this shows the floor."""
RANGE = 40.0
"""dB below a band's loudest speech where nothing is speech any more; also the floor of digital silence."""
ABSENT = 70.0
"""dB below the loudest column where there is no signal, so no evidence of a noise floor either."""
LOUDEST = 99.0
"""Percentile of the columns with a signal that stands for the loudest, so that a click does not."""

_RATE = WAV2LIP.steps_per_second
_BLOCK = 4096
"""Columns analysed at once."""
_TINY = 1e-20


def speech_activity(
    waveform: Waveform,
    *,
    on: float = 10.0,
    off: float = 6.0,
    min_speech: float = 0.06,
    min_silence: float = 0.2,
    lead: float = 0.05,
    hangover: float = 0.1,
) -> Bools:
    """Which columns of the mel belong to speech.

    Args:
        waveform: ``(N,)`` floating point at 16 kHz, of any loudness; ``N >= 1``.
        on: dB above the noise floor that begin speech.
        off: dB above the noise floor below which a stretch of speech ends.
        min_speech: Seconds; what is shorter is a click.
        min_silence: Seconds; what is shorter is a stop consonant or a breath within speech.
        lead: Seconds before each stretch that count as speech: soft onsets.
        hangover: Seconds behind each stretch that count as speech: sounds that die away.

    Returns:
        ``(1 + N // 200,)``, one value for each column of :func:`lipsync.audio.mel.log_mel`, 80 a second.

    Raises:
        ValueError: The waveform is empty, not one-dimensional or not finite, or ``off`` is above ``on``.
    """
    if waveform.ndim != 1 or waveform.size == 0 or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(
            f"waveform must be (N,) floating point with N >= 1, got {waveform.shape} {waveform.dtype}"
        )
    if off > on:
        raise ValueError(f"off={off} dB must not be above on={on} dB")
    excess = _excess(waveform)
    active = _hysteresis(excess, on, off)
    active = _without_short(active, min_speech)
    active = _widened(active, lead, hangover)
    return ~_without_short(~active, min_silence, at_ends=False)


def _excess(waveform: Waveform) -> Floats:
    """``(T,)`` dB by which each column lies above the noise floor."""
    power = _band_powers(waveform)
    total = power.sum(axis=0)
    present = total > _loudest(total) * 10 ** (-ABSENT / 10)
    if not present.any():
        return np.full(total.size, -np.inf, np.float32)
    least = np.array([_loudest(band[present]) for band in power], np.float32)[:, None] * 10 ** (-RANGE / 10)
    floor = np.maximum(_noise_floor(power, present), np.maximum(least, _TINY))
    return np.asarray(10 * np.log10(np.maximum((power / floor).mean(axis=0), _TINY)), np.float32)


def _loudest(power: Floats) -> float:
    signal = power[power > 0]
    return float(np.percentile(signal, LOUDEST)) if signal.size else 0.0


def _noise_floor(power: Floats, present: Bools) -> Floats:
    """Minimum over :data:`REACH` of the power's running mean; infinite where no signal is near."""
    width = 2 * round(SMOOTHING * _RATE / 2) + 1
    # Windows half in digital silence hold half of the noise: neighbours of absent columns are left out.
    reach = 2 * (WAV2LIP.win // (2 * WAV2LIP.hop)) + 1
    weight = minimum_filter1d(present, reach, mode="nearest").astype(np.float32)
    share = uniform_filter1d(weight, width, mode="nearest")
    mean = uniform_filter1d(power * weight, width, axis=1, mode="nearest")
    known = np.where(share > 0.5, mean / np.maximum(share, 0.5), np.inf)
    return np.asarray(
        minimum_filter1d(known, 2 * round(REACH * _RATE) + 1, axis=1, mode="nearest"), np.float32
    )


def _band_powers(waveform: Waveform) -> Floats:
    """``(BANDS, T)`` mean power in each band under the window of each column."""
    hop, size = WAV2LIP.hop, WAV2LIP.win
    steps = WAV2LIP.steps(waveform.size)
    if not np.isfinite(waveform).all():
        raise ValueError("waveform holds values that are not finite")
    padded = np.pad(waveform, (size // 2, size // 2), mode="symmetric")
    views = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    powers = np.empty((BANDS, steps), np.float32)
    for first in range(0, steps, _BLOCK):
        spectrum = np.fft.rfft(views[first : first + _BLOCK] * window, axis=1)
        powers[:, first : first + _BLOCK] = _bands() @ np.square(np.abs(spectrum)).T
    return powers


@lru_cache(maxsize=1)
def _bands() -> Floats:
    """``(BANDS, 401)``: which share each FFT bin has in the mean of each band; bands lie evenly in mel."""
    hertz = np.arange(WAV2LIP.n_fft // 2 + 1) * WAV2LIP.sample_rate / WAV2LIP.n_fft
    mel = 2595 * np.log10(1 + hertz / 700)
    low, high = (2595 * np.log10(1 + edge / 700) for edge in (LOWEST, HIGHEST))
    place = np.floor((mel - low) / (high - low) * BANDS)
    member = place[None] == np.arange(BANDS)[:, None]
    return np.asarray(member / member.sum(axis=1, keepdims=True), np.float32)


def _hysteresis(values: Floats, on: float, off: float) -> Bools:
    """Stretches above ``off`` that rise above ``on`` somewhere."""
    runs, count = label(values > off)
    rises = np.zeros(count + 1, np.bool_)
    rises[runs[values > on]] = True
    rises[0] = False
    return rises[runs]


def _without_short(active: Bools, seconds: float, *, at_ends: bool = True) -> Bools:
    """Without runs shorter than ``seconds``; those at the ends of the sound go on beyond it."""
    runs, count = label(active)
    lengths = np.bincount(runs, minlength=count + 1)
    kept = lengths >= seconds * _RATE
    if not at_ends and active.size:
        kept[[runs[0], runs[-1]]] = True
    kept[0] = False
    return kept[runs]


def _widened(active: Bools, lead: float, hangover: float) -> Bools:
    """Every run begins ``lead`` seconds earlier and ends ``hangover`` seconds later."""
    before, after = round(lead * _RATE), round(hangover * _RATE)
    if active.size == 0 or before + after == 0:
        return active
    padded = np.pad(active, (after, before))
    size = before + after + 1
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, size).any(axis=1))
