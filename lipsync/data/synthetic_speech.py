"""Speech-like sound with the mouth movement that belongs to it.

Syllables of a consonant (noise burst or short closure) and a vowel (harmonics of a gliding pitch shaped by
three moving formants, the source-filter model) with pauses between words. The mouth is a function of the
sound: it opens with the smoothed loudness and rounds as the second formant falls, so that both can be read
from the log-mel. Nothing here claims to be intelligible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfilt

SAMPLE_RATE = 16000
_CONTROL_RATE = 400  # Hz; articulation is built at this rate, then interpolated to samples

# F1, F2, F3 in Hz (rounded means of Peterson and Barney 1952) and relative loudness.
_VOWELS = np.array(
    [
        (730, 1090, 2440, 1.00),  # as in "father"
        (660, 1720, 2410, 0.85),  # "bat"
        (530, 1840, 2480, 0.65),  # "bet"
        (270, 2290, 3010, 0.40),  # "beet"
        (570, 840, 2410, 0.75),  # "bought"
        (300, 870, 2240, 0.45),  # "boot"
    ]
)
_BANDWIDTHS = (90.0, 110.0, 170.0)  # Hz


@dataclass(frozen=True, slots=True)
class Speech:
    """Sound and the articulation behind it."""

    waveform: npt.NDArray[np.float32]
    """``(N,)`` at 16 kHz in [-1, 1]."""
    aperture: npt.NDArray[np.float64]
    """``(N / 40,)`` at 400 Hz: 0 closed, 1 wide open."""
    rounding: npt.NDArray[np.float64]
    """``(N / 40,)`` at 400 Hz: 0 spread, 1 rounded."""

    def at(self, times: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Aperture and rounding at ``times`` (seconds), linearly interpolated."""
        grid = np.arange(len(self.aperture)) / _CONTROL_RATE
        return np.interp(times, grid, self.aperture), np.interp(times, grid, self.rounding)


@dataclass(frozen=True, slots=True)
class Voice:
    """What distinguishes one speaker's sound."""

    pitch: float
    """Hz."""
    formant_scale: float
    """Vocal tract length: formants are multiplied by this."""
    rate: float
    """Syllables a second."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Voice:
        """A random voice."""
        pitch = float(rng.uniform(95, 230))
        scale = 0.92 + 0.18 * (pitch - 95) / 135 + rng.uniform(-0.03, 0.03)
        return cls(pitch, float(scale), float(rng.uniform(3.2, 4.6)))


@dataclass(slots=True)
class _Score:
    """Control tracks at 400 Hz."""

    voicing: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]
    formants: npt.NDArray[np.float64]


def synthesize_speech(seconds: float, voice: Voice, rng: np.random.Generator) -> Speech:
    """Draw syllables for ``seconds`` and render them; the same generator state gives the same samples."""
    score = _score(seconds, voice, rng)
    count = round(seconds * SAMPLE_RATE)
    waveform = _voiced(score, voice, count, rng) + _hiss(score, count, rng)
    loudness = _loudness(waveform, len(score.voicing))
    peak = float(np.abs(waveform).max())
    waveform *= 0.7 / max(peak, 1e-6)
    waveform += rng.normal(0, 10 ** (-60 / 20), count)  # room noise: no digital silence
    aperture = np.clip(loudness / max(float(np.percentile(loudness, 98)), 1e-6), 0, 1)
    rounding = np.clip((1900.0 - score.formants[1]) / 1100.0, 0, 1)
    return Speech(np.clip(waveform, -1, 1).astype(np.float32), aperture, rounding)


def _score(seconds: float, voice: Voice, rng: np.random.Generator) -> _Score:
    """Lay out syllables and pauses one after another."""
    length = round(seconds * _CONTROL_RATE)
    voicing, noise = np.zeros(length), np.zeros(length)
    formants = np.empty((3, length))
    formants[:] = np.array([500.0, 1400.0, 2450.0])[:, None]
    cursor = round(rng.uniform(0.0, 0.25) * _CONTROL_RATE)
    until_pause = int(rng.integers(2, 6))
    while cursor < length:
        duration = rng.uniform(0.75, 1.3) / voice.rate
        onset = rng.uniform(0.15, 0.4) * duration
        vowel = _VOWELS[rng.integers(len(_VOWELS))]
        middle, end = cursor + round(onset * _CONTROL_RATE), cursor + round(duration * _CONTROL_RATE)
        if rng.random() < 0.55:
            noise[cursor:middle] = rng.uniform(0.08, 0.2)
        voicing[middle:end] = vowel[3] * rng.uniform(0.8, 1.0)
        formants[:, cursor:end] = vowel[:3, None]
        cursor, until_pause = end, until_pause - 1
        if until_pause == 0:
            cursor += round(rng.uniform(0.15, 0.55) * _CONTROL_RATE)
            until_pause = int(rng.integers(2, 7))
    return _Score(
        gaussian_filter1d(voicing, 0.022 * _CONTROL_RATE),
        gaussian_filter1d(noise, 0.008 * _CONTROL_RATE),
        gaussian_filter1d(formants, 0.030 * _CONTROL_RATE, axis=1, mode="nearest"),
    )


def _voiced(score: _Score, voice: Voice, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A pulse train through three formants, as a sum of harmonics below the Nyquist frequency."""
    length = len(score.voicing)
    drift = gaussian_filter1d(rng.normal(size=length), 0.15 * _CONTROL_RATE, mode="nearest")
    pitch = voice.pitch * (1 + 0.08 * drift / max(float(drift.std()), 1e-9)).clip(0.7, 1.4)
    phase = 2 * np.pi * np.cumsum(_to_samples(pitch, count)) / SAMPLE_RATE
    formants = score.formants * voice.formant_scale
    voiced = np.zeros(count)
    for harmonic in range(1, int(5000 / voice.pitch) + 1):
        frequency = harmonic * pitch
        gain = np.zeros(length)
        for formant, bandwidth, level in zip(formants, _BANDWIDTHS, (1.0, 0.6, 0.3), strict=True):
            gain += level / (1 + ((frequency - formant) / bandwidth) ** 2)
        gain *= score.voicing / (1 + (frequency / 1200.0) ** 2) ** 0.25
        voiced += _to_samples(gain, count) * np.sin(harmonic * phase)
    return voiced


def _hiss(score: _Score, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Fricatives: white noise above 3 kHz."""
    noise = sosfilt(butter(4, 3000, "highpass", fs=SAMPLE_RATE, output="sos"), rng.normal(size=count))
    return np.asarray(noise * _to_samples(score.noise, count))


def _loudness(waveform: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
    """Root of the smoothed power, compressed, on the control grid; what the mouth opening follows."""
    step = SAMPLE_RATE // _CONTROL_RATE
    power = np.square(waveform[: length * step]).reshape(length, step).mean(axis=1)
    smooth = gaussian_filter1d(power, 0.020 * _CONTROL_RATE)
    return np.asarray(gaussian_filter1d(smooth**0.35, 0.015 * _CONTROL_RATE))


def _to_samples(track: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    return np.interp(np.arange(count) * (_CONTROL_RATE / SAMPLE_RATE), np.arange(len(track)), track)
