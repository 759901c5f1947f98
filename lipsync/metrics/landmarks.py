"""Shape and motion of the mouth from face landmarks: distances to a reference, opening, fit to the sound.

Points are ``(98, 2)`` or ``(T, 98, 2)`` in pixels, in the scheme of :mod:`lipsync.faces.landmarks`. Distances
in percent are of the distance between the outer eye corners. Nothing here knows a trained judge of sync.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from lipsync.errors import NotScorableError
from lipsync.faces.landmarks import EYE_CORNERS, INNER_CORNERS, INNER_PAIRS, MOUTH, POINTS
from lipsync.types import Waveform

Floats = npt.NDArray[np.float64]

OPEN = 0.25
"""Mouth aspect ratio above which a mouth counts as open."""
MIN_FRAMES = 25
"""Fewest frames that a correlation is computed from."""
MAX_LAG = 5
"""Largest shift of the sound that is tried, in frames of 40 ms, either way."""
LAG_UNIT = Fraction(1, 25)
"""Seconds."""
BAND = (300.0, 3000.0)
"""Hz of the sound that count: an open mouth lets the formants through, voicing alone passes closed lips."""
SLOW = Fraction(15, 25)
"""Seconds of the running mean that is taken off before the sound is correlated with."""
SILENCE = 1e-4
"""RMS (-80 dB) below which a frame counts as silent."""


def inter_ocular(points: npt.ArrayLike) -> Floats:
    """Distance between the outer eye corners, pixels; ``(...,)`` for ``(..., 98, 2)``."""
    left, right = EYE_CORNERS
    return _distance(_checked(points), left, right)


def landmark_distance(points: npt.ArrayLike, reference: npt.ArrayLike, part: slice = slice(None)) -> Floats:
    """Mean distance of the points of a part of the face after both parts were centred on their mean point.

    With ``part=MOUTH`` this is LMD of Chen et al., "Lip Movements Generation at a Glance", 2018, section 4.1:
    size, tilt and shape of the mouth count, its place does not.

    Returns:
        Pixels, ``(...,)`` for ``(..., 98, 2)``.

    Raises:
        ValueError: The shapes differ or are others.
    """
    ours, theirs = _checked(points), _checked(reference)
    if ours.shape != theirs.shape:
        raise ValueError(f"points of {ours.shape} and {theirs.shape} cannot be compared")
    ours, theirs = ours[..., part, :], theirs[..., part, :]
    difference = (ours - ours.mean(axis=-2, keepdims=True)) - (theirs - theirs.mean(axis=-2, keepdims=True))
    return np.asarray(np.linalg.norm(difference, axis=-1).mean(axis=-1))


def lmd(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """LMD of the mouth in pixels, the mean over the frames; see :func:`landmark_distance`."""
    return float(np.mean(landmark_distance(points, reference, MOUTH)))


def opening(points: npt.ArrayLike) -> Floats:
    """Mean distance of the inner lips at three places, pixels."""
    array = _checked(points)
    return np.asarray(np.mean([_distance(array, *pair) for pair in INNER_PAIRS], axis=0))


def aperture(points: npt.ArrayLike) -> Floats:
    """Opening of the inner lips in eye-corner distances; 0 for a closed mouth, about 0.1 to 0.3 in vowels."""
    return opening(points) / np.maximum(inter_ocular(points), np.finfo(np.float64).tiny)


def mouth_aspect_ratio(points: npt.ArrayLike) -> Floats:
    """Opening of the inner lips over their width."""
    width = _distance(_checked(points), *INNER_CORNERS)
    return opening(points) / np.maximum(width, np.finfo(np.float64).tiny)


def loudness(waveform: Waveform, fps: Fraction, frames: int, rate: int = 16000) -> Floats:
    """Loudness of the speech during each frame of a video.

    The square root of the RMS amplitude (a mild compression, as hearing does it) of the 300 to 3000 Hz band,
    from the start of a frame to the start of the next one.

    Args:
        waveform: ``(N,)`` whose sample 0 belongs to the start of frame 0.
        fps: Frame rate of the video.
        frames: Length of the result.
        rate: Of the waveform, Hz.

    Returns:
        ``(frames,)``, 0 in silence; nan for frames after the end of the sound.
    """
    from scipy.signal import butter, sosfilt

    edges = [min(int(Fraction(index * rate) / fps), len(waveform)) for index in range(frames + 1)]
    counts = np.diff(edges)
    levels = np.full(frames, np.nan)
    covered = counts > 0
    if not covered.any():
        return levels
    # Forwards, then backwards: no delay.
    filtered = np.asarray(waveform, np.float64)
    for _ in range(2):
        filtered = sosfilt(butter(2, BAND, "bandpass", fs=rate, output="sos"), filtered)[::-1]
    energy = np.concatenate([[0.0], np.cumsum(np.square(filtered))])
    rms = np.sqrt(np.maximum(np.diff(energy[edges])[covered] / counts[covered], 0))
    levels[covered] = np.sqrt(np.where(rms < SILENCE, 0, rms))
    return levels


def without_slow_changes(values: npt.ArrayLike, fps: Fraction) -> Floats:
    """``(T,)`` less its running mean over 0.6 s; nan where the values are nan, which the mean leaves out.

    Speech between silence goes with an open mouth whatever is said. What is left goes with the syllables.
    """
    array = np.asarray(values, np.float64)
    width = 2 * int(SLOW * fps / 2) + 1
    known = np.isfinite(array)
    sums = _running_sum(np.where(known, array, 0.0), width)
    return array - sums / np.maximum(_running_sum(known.astype(np.float64), width), 1)


def _running_sum(values: Floats, width: int) -> Floats:
    """Sum over ``width`` (odd) places around each one; nothing beyond the ends."""
    if values.size == 0:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(values.size)
    high = np.minimum(places + width // 2 + 1, values.size)
    return np.asarray(total[high] - total[np.maximum(places - width // 2, 0)])


def correlation(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Pearson's r over the places where both are finite.

    Raises:
        NotScorableError: Fewer than 25 such places, or no variation in one of them.
    """
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if x.size < MIN_FRAMES:
        raise NotScorableError(f"{x.size} frames to correlate; at least {MIN_FRAMES} are needed")
    if min(float(np.ptp(x)), float(np.ptp(y))) < 1e-6:
        raise NotScorableError("a signal is constant and correlates with nothing")
    return float(np.corrcoef(x, y)[0, 1])


class SoundFit(NamedTuple):
    """How the opening of the mouth goes with the loudness of the speech."""

    r: float
    """Pearson's r as they are."""
    lag: float
    """Frames of 40 ms by which the sound would have to be delayed for the largest r; 0 in sync."""
    best: float
    """Pearson's r at that lag."""


def sound_fit(apertures: npt.ArrayLike, levels: npt.ArrayLike, fps: Fraction = Fraction(25)) -> SoundFit:
    """Correlation of the mouth's opening with the loudness, and the lag where it is largest.

    Changes slower than 0.6 s are taken off both. Otherwise any speech would go with any speaking mouth where
    clips are built alike (silence, speech, silence); of such clips only edges at the same frames still count.

    Args:
        apertures: ``(T,)`` of :func:`aperture`; nan where there is no face.
        levels: ``(T,)`` of :func:`loudness`.
        fps: Rate of both. Lags up to 0.2 s are tried, in steps of a frame.

    Raises:
        NotScorableError: Fewer than 25 common frames at some lag, or no variation.
    """
    for values, what in ((apertures, "the mouth does not move"), (levels, "the sound is silent or constant")):
        _check_variation(np.asarray(values, np.float64), what)
    x, y = without_slow_changes(apertures, fps), without_slow_changes(levels, fps)
    most = int(MAX_LAG * LAG_UNIT * fps)
    by_lag = {lag: correlation(*_delayed(x, y, lag)) for lag in range(-most, most + 1)}
    # Of equal ones the smallest shift.
    lag = max(by_lag, key=lambda lag: (by_lag[lag], -abs(lag)))
    return SoundFit(by_lag[0], float(lag / fps / LAG_UNIT), by_lag[lag])


def _check_variation(values: Floats, reason: str) -> None:
    known = values[np.isfinite(values)]
    if known.size >= MIN_FRAMES and float(np.ptp(known)) < 1e-6:
        raise NotScorableError(reason)


def _delayed(x: Floats, y: Floats, lag: int) -> tuple[Floats, Floats]:
    """The overlap of ``x`` and of ``y`` delayed by ``lag`` frames."""
    return (x[lag:], y[: len(y) - lag]) if lag >= 0 else (x[:lag], y[-lag:])


def _checked(points: npt.ArrayLike) -> Floats:
    array = np.asarray(points, np.float64)
    if array.ndim < 2 or array.shape[-2:] != (POINTS, 2):
        raise ValueError(f"need (..., {POINTS}, 2) points, got {array.shape}")
    return array


def _distance(points: Floats, first: int, second: int) -> Floats:
    return np.asarray(np.linalg.norm(points[..., first, :] - points[..., second, :], axis=-1))


class LandmarkDistance(Metric):
    """Distances of a face to its reference, averaged over frames; exact under data-parallel evaluation.

    Args:
        kwargs: Of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    names = ("lmd", "lmd_percent", "lmd_face_percent", "aperture_error")

    total: Tensor
    frames: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        size = len(self.names)
        self.add_state("total", default=torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("frames", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, points: npt.ArrayLike, reference: npt.ArrayLike) -> None:
        """Add a frame ``(98, 2)``, or several ``(T, 98, 2)``."""
        mouth = np.atleast_1d(landmark_distance(points, reference, MOUTH))
        scale = 100 / np.maximum(np.atleast_1d(inter_ocular(reference)), np.finfo(np.float64).tiny)
        face = np.atleast_1d(landmark_distance(points, reference)) * scale
        gap = np.atleast_1d(np.abs(aperture(points) - aperture(reference)))
        sums = np.stack([mouth, mouth * scale, face, gap]).sum(axis=1)
        self.total += torch.as_tensor(sums).to(self.total)
        self.frames += mouth.size

    def compute(self) -> dict[str, Tensor]:
        """``lmd`` in pixels, mouth and face in percent, and the mean difference of the apertures.

        nan without frames.
        """
        return dict(zip(self.names, self.total / self.frames, strict=True))


class SoundFitMean(Metric):
    """Mean over clips of :attr:`SoundFit.r`; clips without a defined correlation are counted apart.

    Args:
        kwargs: Of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    clips: Tensor
    undefined: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("undefined", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, apertures: npt.ArrayLike, levels: npt.ArrayLike, fps: Fraction = Fraction(25)) -> None:
        """Add one clip: ``(T,)`` of :func:`aperture` and ``(T,)`` of :func:`loudness`."""
        try:
            self.total += sound_fit(apertures, levels, fps).r
            self.clips += 1
        except NotScorableError:
            self.undefined += 1

    def compute(self) -> Tensor:
        """Mean r over the clips that have one; nan without any."""
        return self.total / self.clips
