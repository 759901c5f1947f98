"""Audio offsets without a trained judge: of the corpus, of each clip, and a wrong frame rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from lipsync.audio.spec import TRAINING_FPS
from lipsync.data.inspection.lag_table import LAGS, Floats, LagTable, lag_table
from lipsync.data.inspection.sample import ClipSample

OTHER_RATES = (24, 30, 50, 60)
"""Frame rates that pictures read as 25 fps may really have."""
FAR = 3
"""Frames from which a clip's offset counts as another than the common one."""
_STARTS = (-6, 0, 6)
_CHANCE = 0.002
_ROUNDS = 9


@dataclass(frozen=True)
class Relation:
    """How well lip movement follows from speech, pictures taken at one frame rate."""

    lag: int
    """Frames by which the speech lies after the picture, in the middle of the highest correlation."""
    correlation: float
    """Highest mean over the clips, held out."""
    t: float
    """Mean over its standard error; without any relation the best of all lags reaches about 3."""
    curve: Floats
    """``(31,)`` mean correlation at each lag."""
    clips: Floats
    """``(n,)`` correlation of each clip at the highest mean."""

    @property
    def certain(self) -> bool:
        """Whether it is more than the best of all lags by chance; a few clips need a higher t."""
        by_chance = len(LAGS) * float(student.sf(self.t, max(1, len(self.clips) - 1)))
        return by_chance < _CHANCE and self.correlation > 0.05


@dataclass(frozen=True)
class ClipOffsets:
    """Offsets of single clips, found by aligning all of them with one another."""

    lags: npt.NDArray[np.int64]
    """``(n,)``: best lag of each clip."""
    peaks: Floats
    """``(n,)``: correlation there."""
    chance_peak: float
    """95th percentile of what the same weights reach with the sound of another clip."""
    t: float
    """Mean peak against that of corpora with exchanged sounds, over the standard error."""

    @property
    def confident(self) -> npt.NDArray[np.bool_]:
        """``(n,)``: clips whose lag is no chance."""
        return self.peaks > self.chance_peak

    @property
    def common(self) -> int:
        """The lag most confident clips share, to within a frame."""
        return common_lag(self.lags[self.confident])

    @property
    def astray(self) -> npt.NDArray[np.bool_]:
        """``(n,)``: confident clips at least ``FAR`` frames from the common lag."""
        return self.confident & (np.abs(self.lags - self.common) >= FAR)


def common_lag(lags: npt.NDArray[np.int64]) -> int:
    """Centre of the three neighbouring lags that hold most of ``lags``; 0 for none."""
    if not len(lags):
        return 0
    near = (np.abs(lags[None, :] - LAGS[:, None]) <= 1).sum(axis=1)
    best = LAGS[near == near.max()]
    return int(best[np.argmin(np.abs(best - np.median(lags)))])


def relation(table: LagTable) -> Relation:
    """The lag at which all clips together relate best."""
    scan = table.scan()
    curve = scan.mean(axis=0)
    best = int(curve.argmax())
    return Relation(
        lag=_centre(curve, best),
        correlation=float(curve[best]),
        t=_t(scan[:, best]),
        curve=curve,
        clips=scan[:, best],
    )


def _centre(curve: Floats, best: int) -> int:
    """Lag in the middle of the top of a curve, which is a few frames wide."""
    near = np.abs(LAGS - LAGS[best]) <= 2
    height = np.where(near, np.maximum(0, curve - 0.85 * curve[best]), 0) if curve[best] > 0 else 1.0 * near
    return round(float((height * LAGS).sum() / height.sum()))


def gain(other: Relation, this: Relation) -> float:
    """Paired t value of ``other`` correlating better than ``this``, clip by clip."""
    return _t(other.clips - this.clips)


def with_exchanged_sound(samples: Sequence[ClipSample]) -> list[ClipSample]:
    """Each clip with the sound of the next one, backwards: what chance gives.

    Backwards, because clips of one corpus may all begin to speak at the same moment.
    """
    return [
        replace(sample, mel=other.mel[:, ::-1], first=min(sample.first, _last_start(sample, other)))
        for sample, other in zip(samples, [*samples[1:], samples[0]], strict=True)
    ]


def clip_offsets(
    movement: Sequence[Floats], samples: Sequence[ClipSample], fps: float = TRAINING_FPS
) -> ClipOffsets:
    """Offset of every clip, even where no two clips share one.

    Expectation maximisation: weights are learned with every clip at its likely lags, then the lags follow
    from the weights of the other clips. Starts from several common lags and keeps the best end.
    """
    table = lag_table(movement, samples, fps)
    exchanged = lag_table(movement, with_exchanged_sound(samples), fps)
    curves, weights = _aligned(table)
    chance, _ = _aligned(exchanged)
    # The weights that fit the clips, tried on wrong sounds: what a clip without relation reaches.
    wrong = _apply(table, exchanged, weights)
    peaks, chance_peaks = curves.max(axis=1), chance.max(axis=1)
    error = np.sqrt((peaks.var(ddof=1) + chance_peaks.var(ddof=1)) / len(peaks))
    return ClipOffsets(
        lags=LAGS[curves.argmax(axis=1)],
        peaks=peaks,
        chance_peak=float(np.percentile(wrong.max(axis=1), 95)),
        t=float((peaks.mean() - chance_peaks.mean()) / max(error, 1e-9)),
    )


def _aligned(table: LagTable) -> tuple[Floats, Floats]:
    """Curves ``(n, 31)`` and weights ``(n, 31)`` of the best of several runs."""
    pooled = int(LAGS[table.scan().mean(axis=0).argmax()])
    runs = [_run(table, start) for start in dict.fromkeys((pooled, *_STARTS))]
    return max(runs, key=lambda run: float(run[0].max(axis=1).mean()))


def _run(table: LagTable, start: int) -> tuple[Floats, Floats]:
    weights = np.tile(_softmax(-0.5 * np.square(LAGS - start)[None]), (len(table), 1))
    curves = table.curves(weights)
    for step in range(_ROUNDS):
        weights = _softmax(curves / max(0.02, 0.12 * 0.7**step))
        curves = table.curves(weights)
    return curves, weights


def _apply(table: LagTable, exchanged: LagTable, weights: Floats) -> Floats:
    """Curves of the exchanged sounds with what the true pairs teach, ``(n, 31)``."""
    both = LagTable(*(np.concatenate(parts) for parts in zip(_parts(table), _parts(exchanged), strict=True)))
    padded = np.concatenate([weights, np.zeros_like(weights)])
    return both.curves(padded)[len(table) :]


def _parts(table: LagTable) -> tuple[Floats, Floats, Floats]:
    return table.xx, table.xy, table.yy


def _softmax(values: npt.NDArray[np.floating]) -> Floats:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def _t(values: Floats) -> float:
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()) / max(spread / np.sqrt(len(values)), 1e-9)


def _last_start(sample: ClipSample, other: ClipSample) -> int:
    """Latest first frame at which the pictures still lie inside the other sound."""
    return max(0, int((other.mel.shape[1] - 1) / 3.2) - len(sample.frames))
