"""How sure a mean over videos is: bootstrap intervals, and paired differences of two systems.

The bootstrap is Efron's bias-corrected and accelerated one ("Better Bootstrap Confidence Intervals", 1987)
with the video as the unit that is drawn. For a mean its acceleration is known in closed form, and all vectors
of one length share their draws, so that a report with a hundred means costs little more than one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from lipsync.evaluation.columns import Column

RESAMPLES = 9999
CONFIDENCE = 0.95
SEED = 20200823
METHOD = (
    "Mean over videos, each weighing the same; BCa bootstrap interval with videos drawn with replacement. "
    "Differences are taken video by video on the names both sides have. Videos count as independent: where "
    "several show one speaker, the intervals are too narrow."
)
_DRAWS_AT_ONCE = 200_000
"""Few enough to stay in a processor's cache."""

Better: TypeAlias = Literal["lower", "higher", ""]
Verdict: TypeAlias = Literal["better", "worse", "no difference shown", "higher", "lower"]
Array: TypeAlias = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean of a value over ``n`` videos."""

    mean: float
    low: float | None
    """Lower end of the 95 % interval of the mean; None for a single video."""
    high: float | None
    n: int
    median: float
    std: float | None
    """Sample standard deviation over the videos; None for a single one."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for summary.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first over the ``n`` videos that both have."""

    mean: float
    low: float | None
    high: float | None
    n: int
    better_share: float | None
    """Share of the videos where the second is strictly better; None where neither way is better."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for summary.json."""
        return asdict(self)

    def verdict(self, better: Better) -> Verdict:
        """Whether the second is better, in words; the interval must exclude 0 for a claim."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "no difference shown"
        grew = self.low > 0
        if not better:
            return "higher" if grew else "lower"
        return "better" if grew == (better == "higher") else "worse"


def describe() -> dict[str, Any]:
    """What summary.json says about the method."""
    return {"method": METHOD, "seed": SEED, "confidence": CONFIDENCE, "resamples": RESAMPLES}


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and interval of finite ``values``; None without any."""
    return estimate_all({0: values}).get(0)


def estimate_all(values: Mapping[Key, Sequence[float]]) -> dict[Key, Estimate]:
    """:func:`estimate` of many vectors at once, which shares the draws; empty ones are left out.

    Raises:
        ValueError: A value is not finite.
    """
    vectors = {key: np.asarray(vector, dtype=np.float64) for key, vector in values.items() if len(vector)}
    return {
        key: Estimate(
            mean=_mean(vectors[key]),
            low=low,
            high=high,
            n=len(vectors[key]),
            median=float(np.median(vectors[key])),
            std=float(vectors[key].std(ddof=1)) if len(vectors[key]) > 1 else None,
        )
        for key, (low, high) in _intervals(vectors).items()
    }


def difference(
    first: Mapping[str, float], second: Mapping[str, float], better: Better = ""
) -> Difference | None:
    """Second minus first on the videos that both have, by name; None without any."""
    return difference_all({0: (first, second, better)}).get(0)


def difference_all(
    pairs: Mapping[Key, tuple[Mapping[str, float], Mapping[str, float], Better]],
) -> dict[Key, Difference]:
    """:func:`difference` of many ``(first, second, better)`` at once; without a common video, left out.

    Raises:
        ValueError: A value is not finite.
    """
    vectors = {
        key: np.array([second[name] - first[name] for name in first if name in second], dtype=np.float64)
        for key, (first, second, _) in pairs.items()
    }
    vectors = {key: vector for key, vector in vectors.items() if len(vector)}
    return {
        key: Difference(
            _mean(vectors[key]), low, high, len(vectors[key]), _share(vectors[key], pairs[key][2])
        )
        for key, (low, high) in _intervals(vectors).items()
    }


def paired(
    first: Mapping[str, Mapping[str, float]],
    second: Mapping[str, Mapping[str, float]],
    columns: Sequence[Column],
) -> dict[str, Difference]:
    """Differences of two systems, by column key.

    Args:
        first: Value by video name, by column key.
        second: As ``first``.
        columns: Those that matter, which also say which way is better.
    """
    return difference_all(
        {
            column.key: (first[column.key], second[column.key], column.better)
            for column in columns
            if column.key in first and column.key in second
        }
    )


def _mean(values: Array) -> float:
    return math.fsum(values) / len(values)


def _share(differences: Array, better: Better) -> float | None:
    if not better:
        return None
    signed = differences if better == "higher" else -differences
    return float(np.mean(signed > 0))


def _intervals(
    vectors: Mapping[Key, Array],
) -> dict[Key, tuple[float, float] | tuple[None, None]]:
    """Ends of the interval of every vector's mean, in the order of ``vectors``."""
    if not all(np.isfinite(vector).all() for vector in vectors.values()):
        raise ValueError("a mean was asked of values that are not finite")
    ends: dict[Key, tuple[float, float] | tuple[None, None]] = dict.fromkeys(vectors, (None, None))
    for n in sorted({len(vector) for vector in vectors.values()} - {1}):
        keys = [key for key, vector in vectors.items() if len(vector) == n]
        stacked = np.stack([vectors[key] for key in keys], axis=1)
        centre = np.array([_mean(vectors[key]) for key in keys])
        deviations = stacked - centre
        replicates = _replicates(deviations)
        for index, key in enumerate(keys):
            low, high = _bca(deviations[:, index], replicates[:, index])
            ends[key] = (float(centre[index] + low), float(centre[index] + high))
    return ends


def _replicates(deviations: Array) -> Array:
    """Means ``(RESAMPLES, k)`` of the columns of ``(n, k)``, every column drawn with the same videos."""
    n = len(deviations)
    generator = np.random.default_rng([SEED, n])
    at_once = max(1, _DRAWS_AT_ONCE // n)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        parts.append(counts.astype(np.float64) @ deviations)
    means: Array = np.concatenate(parts) / n
    return means


def _bca(deviations: Array, replicates: Array) -> tuple[float, float]:
    """Ends of the interval relative to the mean, from deviations from the mean and from their replicates."""
    spread = float(np.abs(deviations).max())
    tie = 1e-9 * spread
    below = np.mean(replicates < -tie) + 0.5 * np.mean(np.abs(replicates) <= tie)
    squares = float(np.sum((deviations / spread) ** 2)) if spread else 0.0
    if not squares or not 0 < below < 1:
        return 0.0, 0.0
    bias = ndtri(below)
    acceleration = float(np.sum((deviations / spread) ** 3)) / (6 * squares**1.5)
    normal = bias + ndtri([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(replicates, ndtr(bias + normal / (1 - acceleration * normal)))
    return float(low), float(high)
