"""Per-video values of a run as vectors, and which columns are worth a place in tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lipsync.evaluation.columns import FILE, SYNC, Column
from lipsync.evaluation.results import Evaluation, SystemResult
from lipsync.evaluation.statistics import Difference, Estimate, estimate_all, paired

CEILING = "real"
FLOOR = "shuffled"
UNRANKED = frozenset({CEILING, FLOOR, "shifted", "silence"})
"""Systems that put the others into proportion and never compete with them."""


@dataclass(frozen=True)
class Numbers:
    """All statistics of a run, computed once."""

    columns: tuple[Column, ...]
    """Of the run, then those every run has."""
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    """By system, column key and video name; finite values only."""
    estimates: Mapping[str, Mapping[str, Estimate]]
    """By system and column key."""
    differences: Mapping[str, Mapping[str, Difference]]
    """Each system minus the unmodified clips on the same videos, by system and column key."""


def is_metric(column: Column) -> bool:
    """Whether a column measures quality; counts and facts of the file do not."""
    return column.family != "file" and bool(column.better or column.digits)


def of_each_family(columns: Sequence[Column], limit: int) -> list[Column]:
    """At most ``limit`` of the columns in their order: the first of each family, then the second ..."""
    turns: Counter[str] = Counter()
    ranked = []
    for place, column in enumerate(columns):
        turns[column.family] += 1
        ranked.append((turns[column.family], place))
    return [columns[place] for place in sorted(place for _, place in sorted(ranked)[:limit])]


def all_columns(evaluation: Evaluation) -> tuple[Column, ...]:
    """Columns of the run, completed by the sync and file columns that every report has."""
    known = {column.key: column for column in (*evaluation.columns, *SYNC, *FILE)}
    return tuple(known.values())


def video_values(system: SystemResult, columns: Sequence[Column]) -> dict[str, dict[str, float]]:
    """Finite values by column key and video name, with whether the offset is within one frame as 0 or 1."""
    found: dict[str, dict[str, float]] = {}
    for column in columns:
        mine = {r.name: float(r.values[column.key]) for r in system.results if column.key in r.values}
        finite = {name: value for name, value in mine.items() if math.isfinite(value)}
        if finite:
            found[column.key] = finite
    if "offset" in found:
        found["offset_within_1"] = {name: float(abs(k) <= 1) for name, k in found["offset"].items()}
    return found


def compute(evaluation: Evaluation) -> Numbers:
    """Means and intervals of every system, and its paired difference to the unmodified clips."""
    columns = all_columns(evaluation)
    values = {system.name: video_values(system, columns) for system in evaluation.systems}
    flat = {(name, key): list(v.values()) for name, found in values.items() for key, v in found.items()}
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in values}
    for (name, key), estimate in estimate_all(flat).items():
        estimates[name][key] = estimate
    metrics = [column for column in columns if is_metric(column)]
    differences = {
        name: paired(values[CEILING], found, metrics)
        for name, found in values.items()
        if CEILING in values and name != CEILING
    }
    return Numbers(columns, values, estimates, differences)
