"""From results to rows of ``scores.csv`` and the content of ``summary.json``."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeAlias, get_args

import torch

from lipsync.evaluation import statistics
from lipsync.evaluation.columns import FILE, Column, Family
from lipsync.evaluation.report.numbers import CEILING, Numbers
from lipsync.evaluation.results import Evaluation, GeneratorInfo, SystemResult, VideoResult

Row: TypeAlias = dict[str, str | int | float | None]

PACKAGES = (
    "lipsync",
    "torch",
    "torchmetrics",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "av",
    "scenedetect-headless",
)


def rows(evaluation: Evaluation) -> list[Row]:
    """One row for each video of each system, all with the same keys; what is missing is None."""
    columns = [c for c in dict.fromkeys((*evaluation.columns, *FILE)) if c.per_video]
    present = {column.family for column in columns} - {"file"}
    present |= {family for system in evaluation.systems for r in system.results for family in r.reasons}
    families = [family for family in get_args(Family) if family in present]
    keys = list(dict.fromkeys(column.key for column in columns))
    return [
        _row(system.name, result, keys, families)
        for system in evaluation.systems
        for result in system.results
    ]


def _row(system: str, result: VideoResult, keys: list[str], families: list[Family]) -> Row:
    reason = result.reason
    row: Row = {
        "system": system,
        "name": result.name,
        "status": "scored" if reason is None else "not scored",
        "reason": reason or next(iter(result.reasons.values()), None),
    }
    row |= {f"{family}_reason": result.reasons.get(family) for family in families}
    row["notes"] = "; ".join(result.notes) or None
    return row | {key: _number(result.values.get(key)) for key in keys}


def _number(value: float | None) -> float | int | None:
    return None if value is None or math.isnan(value) else value


def summarize(evaluation: Evaluation, numbers: Numbers) -> dict[str, Any]:
    """Content of ``summary.json``: the main system on top, every system below ``systems``.

    Means run over the videos that have the value, each weighing the same.
    """
    main, judge = evaluation.main_system, evaluation.judge
    failed = failures(main)
    return {
        **_main_values(main, numbers),
        **_offsets(main),
        **_against_references(main),
        "n_videos": len(main.results),
        "n_failed": len(failed),
        "failures": failed,
        "main": evaluation.main,
        "protocol": evaluation.protocol,
        "protocol_description": evaluation.protocol_description,
        "judge": {"name": judge.name, "kind": judge.kind, "sha256": judge.sha256} if judge else None,
        "generators": [_generator(generator) for generator in evaluation.generators],
        "weights": dict(evaluation.weights),
        "judge_trained_generator": evaluation.judge_trained_generator,
        "systems": {system.name: _system(system, numbers) for system in evaluation.systems},
        "differences": {
            name: {"against": CEILING, "values": {key: d.to_json() for key, d in found.items()}}
            for name, found in numbers.differences.items()
        },
        "statistics": statistics.describe(),
        "columns": {column.key: column_facts(column) for column in numbers.columns},
        "notes": list(evaluation.notes),
        "settings": _plain(evaluation.settings),
        "versions": versions(),
    }


def _main_values(main: SystemResult, numbers: Numbers) -> dict[str, float | None]:
    estimates = numbers.estimates[main.name]
    means = {key: estimate.mean for key, estimate in estimates.items()}
    aggregates = _aggregates(main)
    return {c.key: means.get(c.key, aggregates.get(c.key)) for c in numbers.columns}


def _offsets(main: SystemResult) -> dict[str, Any]:
    offsets = {r.name: round(r.values["offset"]) for r in main.results if "offset" in r.values}
    counts = Counter(offsets.values())
    return {
        "n_scored": len(offsets),
        "offset_histogram": {str(offset): counts[offset] for offset in sorted(counts)},
        "out_of_sync": [name for name, offset in offsets.items() if abs(offset) > 1],
    }


def _against_references(main: SystemResult) -> dict[str, Any]:
    compared = [r for r in main.results if r.values.get("n_frames_compared")]
    return {
        "image_failures": [
            {"name": r.name, "reason": r.reasons["image"]} for r in main.results if "image" in r.reasons
        ],
        "n_frames_compared": sum(int(r.values["n_frames_compared"]) for r in compared),
        "n_with_reference": len(compared),
        "n_identical_to_reference": sum(
            r.values.get("n_frames_identical") == r.values["n_frames_compared"] for r in compared
        ),
        "lengths_differ": [
            r.name
            for r in compared
            if r.values.get("n_frames_reference", 0) != r.values.get("n_frames", 0)
            and "n_frames_reference" in r.values
        ],
    }


def _system(system: SystemResult, numbers: Numbers) -> dict[str, Any]:
    failed = failures(system)
    return {
        "label": system.label,
        "about": system.about,
        "n_videos": len(system.results),
        "n_failed": len(failed),
        "failures": failed,
        "values": {key: found.to_json() for key, found in numbers.estimates[system.name].items()},
        "aggregates": _aggregates(system),
        "notes": list(system.notes),
    }


def failures(system: SystemResult) -> list[dict[str, str]]:
    """Name and reason of every video that counts as failed."""
    return [{"name": r.name, "reason": r.reason} for r in system.results if r.reason is not None]


def _aggregates(system: SystemResult) -> dict[str, float]:
    return {key: value for key, value in system.aggregates.items() if math.isfinite(value)}


def _generator(generator: GeneratorInfo) -> dict[str, Any]:
    return {
        "name": generator.name,
        "sha256": generator.sha256,
        "trained_with": list(generator.trained_with),
    }


def column_facts(column: Column) -> dict[str, Any]:
    """What a reader of summary.json must know about a column."""
    return {
        "label": column.label,
        "family": column.family,
        "unit": column.unit,
        "better": column.better,
        "digits": column.digits,
        "per_video": column.per_video,
        "judged": column.judged,
        "about": column.about,
    }


def _plain(value: Any) -> Any:
    """Settings as JSON has them: other types as text, no infinities."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and how many threads computed them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found | {
        "platform": f"{platform.system()} {platform.machine()}",
        "torch threads": str(torch.get_num_threads()),
    }
