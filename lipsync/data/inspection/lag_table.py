"""Which speech a picture belongs to, by linear regression alone.

At each lag the movement of the lower face is predicted from the log-mel at that distance (ridge regression,
weights learned on other clips); the lag with the highest held-out correlation is the audio offset. All fits
come from one table of moments of each clip and lag, so that hundreds of them cost less than a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import dct
from scipy.ndimage import uniform_filter1d

from lipsync.audio.spec import TRAINING_FPS, WAV2LIP
from lipsync.data.inspection.sample import ClipSample, Floats

Ints = npt.NDArray[np.int64]

MAX_LAG = 15
LAGS: Ints = np.arange(-MAX_LAG, MAX_LAG + 1)
"""Frames by which the speech lies after the picture."""
_FOLDS = 4
_RIDGE = 0.1  # of the mean variance of a feature
_CEPSTRA = 13
_COMPONENTS = 16
_POOL = 2  # pixels of the sample a side
_SLOW = 9  # frames; slower changes (head, pitch, loudness of a sentence) correlate with anything
_CONTEXT = (-1, 0, 1)  # frames
_MIN_ROWS = 20


@dataclass(frozen=True)
class LagTable:
    """Second moments of speech ``x`` and movement ``y`` for ``n`` clips at each of the lags."""

    xx: Floats
    """``(n, 31, d, d)``."""
    xy: Floats
    """``(n, 31, d, k)``."""
    yy: Floats
    """``(n, 31)``: total power of the movement."""

    def __len__(self) -> int:
        return len(self.yy)

    def curves(self, weights: Floats) -> Floats:
        """Held-out correlation ``(n, 31)`` of each clip at each lag with weights learned on other clips.

        Args:
            weights: ``(n, 31)``: how much a clip takes part in learning at each lag (0: not at all).
        """
        xx, xy = _mixed(weights, self.xx), _mixed(weights, self.xy)
        fold = np.arange(len(self)) % _FOLDS
        out = np.zeros_like(self.yy)
        for held in range(_FOLDS):
            inside = fold == held
            weight = _ridge(xx[~inside].sum(axis=0), xy[~inside].sum(axis=0))
            out[inside] = self._correlation(np.flatnonzero(inside), weight)
        return out

    def scan(self) -> Floats:
        """Held-out correlation ``(n, 31)`` of each clip where learning took place at that same lag."""
        columns = []
        for lag in range(len(LAGS)):
            one = LagTable(*(part[:, lag : lag + 1] for part in (self.xx, self.xy, self.yy)))
            columns.append(one.curves(np.ones((len(self), 1), dtype=np.float32)))
        return np.concatenate(columns, axis=1)

    def _correlation(self, clips: Ints, weight: Floats) -> Floats:
        agreement = (self.xy[clips] * weight).sum(axis=(2, 3))
        power = ((self.xx[clips] @ weight) * weight).sum(axis=(2, 3)) * self.yy[clips]
        return np.asarray(agreement / np.sqrt(np.maximum(power, 1e-12)), dtype=np.float32)


def lag_table(
    movement: Sequence[Floats], samples: Sequence[ClipSample], fps: float = TRAINING_FPS
) -> LagTable:
    """Moments of all clips, taking the pictures to be ``fps`` a second.

    Args:
        movement: ``(n_i, k)`` of each clip, from :func:`face_movement`.
        samples: The clips; their sound may be of another clip (to see what chance gives).
        fps: True rate of the pictures, which training takes for 25.
    """
    moments = [_moments(y, sample, fps) for y, sample in zip(movement, samples, strict=True)]
    xx, xy, yy = (np.stack(parts) for parts in zip(*moments, strict=True))
    return LagTable(xx, xy, yy)


def face_movement(samples: Sequence[ClipSample], *, upper: bool = False) -> list[Floats]:
    """Movement of the lower (or upper) half of each picture, ``(n_i, 16)`` principal components.

    Each pixel loses its running mean, so that pose, light and looks drop out.
    """
    half = samples[0].frames.shape[1] // 2
    fast = []
    for sample in samples:
        part = sample.frames[:, :half] if upper else sample.frames[:, half:]
        n, h, w = part.shape
        pooled = part.reshape(n, h // _POOL, _POOL, w // _POOL, _POOL).mean(axis=(2, 4)).reshape(n, -1)
        fast.append(_without_slow(pooled, _SLOW))
    pixels = np.concatenate(fast)
    _, basis = np.linalg.eigh(pixels.T @ pixels)
    return [np.asarray(clip @ basis[:, : -_COMPONENTS - 1 : -1], dtype=np.float32) for clip in fast]


def _moments(movement: Floats, sample: ClipSample, fps: float) -> tuple[Floats, Floats, Floats]:
    """``(31, d, d)``, ``(31, d, k)`` and ``(31,)`` of one clip."""
    n, reach = len(movement), MAX_LAG + 1
    per_frame = WAV2LIP.steps_per_second / TRAINING_FPS
    frames = sample.first + np.arange(-reach, n + reach, dtype=np.float64)
    speech, inside = _speech_at(
        sample.mel, (frames + 0.5) * WAV2LIP.steps_per_second / fps + sample.offset * per_frame
    )
    size = speech.shape[1] * len(_CONTEXT)
    xx = np.zeros((len(LAGS), size, size), dtype=np.float32)
    xy = np.zeros((len(LAGS), size, movement.shape[1]), dtype=np.float32)
    yy = np.zeros(len(LAGS), dtype=np.float32)
    for row, lag in enumerate(LAGS.tolist()):
        at = np.arange(n) + reach + lag
        usable = np.logical_and.reduce([inside[at + step] for step in _CONTEXT])
        if usable.sum() < _MIN_ROWS:
            continue
        x = _centred(np.concatenate([speech[at + step] for step in _CONTEXT], axis=1)[usable])
        y = _centred(movement[usable])
        xx[row], xy[row], yy[row] = x.T @ x, x.T @ y, np.square(y).sum()
    return xx, xy, yy


def _speech_at(mel: Floats, columns: npt.NDArray[np.float64]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Cepstra at fractional mel columns ``(m, 13)``, and which of the columns exist."""
    cepstra = dct(mel, axis=0, norm="ortho")[:_CEPSTRA].T
    fast = _without_slow(cepstra, round(_SLOW * WAV2LIP.steps_per_second / TRAINING_FPS))
    inside = (columns >= 0) & (columns <= len(fast) - 1)
    clipped = np.clip(columns, 0, len(fast) - 1)
    low = np.floor(clipped).astype(np.int64)
    share = (clipped - low)[:, None]
    mixed = fast[low] * (1 - share) + fast[np.minimum(low + 1, len(fast) - 1)] * share
    return mixed.astype(np.float32), inside


def _without_slow(values: npt.NDArray[Any], window: int) -> Floats:
    return np.asarray(values - uniform_filter1d(values, window, axis=0, mode="nearest"), dtype=np.float32)


def _mixed(weights: Floats, moments: Floats) -> Floats:
    """``(n, 31)`` and ``(n, 31, a, b)`` -> ``(n, a, b)``: the weighted sum over the lags."""
    n, lags, *shape = moments.shape
    return np.asarray((weights[:, None] @ moments.reshape(n, lags, -1)).reshape(n, *shape))


def _centred(values: Floats) -> Floats:
    return values - values.mean(axis=0)


def _ridge(xx: Floats, xy: Floats) -> Floats:
    strength = _RIDGE * float(np.trace(xx)) / len(xx) + 1e-6
    return np.linalg.solve(xx + strength * np.eye(len(xx), dtype=np.float32), xy)
