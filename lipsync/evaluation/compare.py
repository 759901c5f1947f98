"""Put finished runs side by side: the main system of each, and paired differences to the first."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipsync.errors import DataError
from lipsync.evaluation import statistics
from lipsync.evaluation.columns import Column
from lipsync.evaluation.report import save, to_json
from lipsync.evaluation.report.comparison import render_html, render_markdown
from lipsync.evaluation.report.numbers import is_metric
from lipsync.evaluation.report.summary import column_facts
from lipsync.evaluation.statistics import Difference, Estimate

NEEDED = ("main", "systems", "columns", "protocol", "judge", "generators", "judge_trained_generator")
RERUN = "give a folder that evaluate.py wrote, or run it again"


@dataclass(frozen=True)
class Run:
    """The main system of a finished evaluation."""

    name: str
    """The folder's name, or its path where names are equal."""
    folder: Path
    label: str
    """Of the main system."""
    summary: Mapping[str, Any]
    """Content of summary.json."""
    columns: tuple[Column, ...]
    estimates: Mapping[str, Estimate]
    """By column key."""
    aggregates: Mapping[str, float]
    values: Mapping[str, Mapping[str, float]]
    """By column key and video name; finite values only."""
    videos: tuple[str, ...]
    failures: Mapping[str, str]
    """Reason by video name."""

    @property
    def judge(self) -> str | None:
        """SHA-256 of the judge."""
        judge = self.summary["judge"]
        return None if judge is None else str(judge["sha256"])


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; everything in it is relative to the first."""

    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    """Metrics that at least one run has."""
    refusals: tuple[str, ...]
    """Why columns must not be compared, one sentence each."""
    refused: frozenset[str]
    """Keys of these columns."""
    differences: Mapping[str, Mapping[str, Difference]]
    """Run minus first run on the videos both have, by run name and column key."""
    common: tuple[str, ...]
    """Videos that every run has."""

    @property
    def same_videos(self) -> bool:
        """Whether all runs scored the same videos, so that their plain means can be compared."""
        scored = [frozenset(run.videos) - frozenset(run.failures) for run in self.runs]
        return all(names == scored[0] for names in scored)

    def only_in(self, run: Run) -> list[str]:
        """Videos of a run that another run lacks."""
        return [name for name in run.videos if name not in set(self.common)]


def load_run(folder: str | Path) -> Run:
    """The run that left its report in ``folder``.

    Raises:
        DataError: There is no finished run, or its files are damaged.
    """
    path = Path(folder)
    summary = _summary(path / "summary.json")
    lacking = [key for key in NEEDED if key not in summary]
    if lacking:
        raise DataError(
            f"{path / 'summary.json'}: lacks {', '.join(lacking)}, as older versions did; {RERUN}"
        )
    try:
        system = summary["systems"][summary["main"]]
        columns = tuple(Column(key, **facts) for key, facts in summary["columns"].items())
        estimates = {key: Estimate(**found) for key, found in system["values"].items()}
        name, label = path.resolve().name, str(system["label"])
        aggregates = dict(system["aggregates"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path / 'summary.json'}: is damaged ({error!r}); {RERUN}") from error
    videos, values, failures = _scores(path / "scores.csv", summary["main"], columns)
    return Run(name, path, label, summary, columns, estimates, aggregates, values, videos, failures)


def _summary(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is damaged ({error}); {RERUN}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is not a report; {RERUN}")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path.parent}: no finished run there ({path.name} is missing); {RERUN}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {RERUN}") from error


def _scores(
    path: Path, main: str, columns: Sequence[Column]
) -> tuple[tuple[str, ...], dict[str, dict[str, float]], dict[str, str]]:
    """Names, values by column key and name, and reasons of the failed, of the main system's videos."""
    values: dict[str, dict[str, float]] = {}
    names, failures = [], {}
    try:
        for row in csv.DictReader(io.StringIO(_text(path), newline="")):
            if row["system"] != main:
                continue
            names.append(row["name"])
            if row["status"] != "scored":
                failures[row["name"]] = row["reason"]
            for column in columns:
                value = float(row.get(column.key) or "nan")
                if math.isfinite(value):
                    values.setdefault(column.key, {})[row["name"]] = value
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: is damaged ({error!r}); {RERUN}") from error
    if not names:
        raise DataError(f"{path}: has no video of the system {main}; {RERUN}")
    if "offset" in values:
        values["offset_within_1"] = {name: float(abs(k) <= 1) for name, k in values["offset"].items()}
    return tuple(names), values, failures


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare all runs with the first.

    Sync scores are not compared where protocol, judge or kind of score differ, or where the judge trained a
    generator; other columns not where they were computed in other ways. The reasons are in the result.

    Raises:
        DataError: Fewer than two runs, a run twice, no common video, or no column that may be compared.
    """
    named = _named(runs)
    first, *others = named
    for run in others:
        if not set(run.videos) & set(first.videos):
            raise DataError(
                f"{run.folder}: no video has the same name as one of {first.folder}; "
                "compare runs over one data set"
            )
    columns = _columns(named)
    sync = _sync_refusals(named)
    changed = [
        column
        for column in columns
        if not column.judged and not (_same_meaning(column.key, named) and _same_weights(column, named))
    ]
    refused = frozenset(c.key for c in columns if (sync and c.judged) or c in changed)
    refusals = (*sync, *(f"{c.label} was computed in different ways and is not compared." for c in changed))
    usable = [column for column in columns if column.key not in refused]
    if not usable:
        raise DataError(f"{first.folder}: nothing can be compared with it. {' '.join(refusals)}".strip())
    differences = {run.name: statistics.paired(first.values, run.values, usable) for run in others}
    common = set.intersection(*(set(run.videos) for run in named))
    return Comparison(
        named, columns, refusals, refused, differences, tuple(name for name in first.videos if name in common)
    )


def _named(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs under names that differ.

    Raises:
        DataError: Fewer than two, or one folder twice.
    """
    if len(runs) < 2:
        raise DataError("a comparison needs at least two finished runs; give their folders")
    folders = [run.folder.resolve() for run in runs]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            raise DataError(f"{runs[index].folder}: is given twice; give different runs")
    names = [run.name for run in runs]
    return tuple(
        Run(**{**run.__dict__, "name": run.name if names.count(run.name) == 1 else str(run.folder)})
        for run in runs
    )


def _columns(runs: Sequence[Run]) -> tuple[Column, ...]:
    """Metrics with a value in at least one run, each as its first run knows it."""
    known: dict[str, Column] = {}
    for run in runs:
        for column in run.columns:
            if is_metric(column) and (column.key in run.estimates or column.key in run.aggregates):
                known.setdefault(column.key, column)
    return tuple(known.values())


def _same_meaning(key: str, runs: Sequence[Run]) -> bool:
    abouts = {
        c.about
        for run in runs
        for c in run.columns
        if c.key == key and key in {*run.estimates, *run.aggregates}
    }
    return len(abouts) <= 1


def _same_weights(column: Column, runs: Sequence[Run]) -> bool:
    """Whether the networks behind a column were the same files in all runs that have it."""
    names = {"identity": ("identity", "landmarks"), "landmarks": ("landmarks",)}.get(
        column.family, (column.key.partition("_")[0],)
    )
    holders = [run for run in runs if column.key in {*run.estimates, *run.aggregates}]
    return all(len({run.summary.get("weights", {}).get(name) for run in holders}) <= 1 for name in names)


def _sync_refusals(runs: Sequence[Run]) -> list[str]:
    """Why sync scores must not be compared; empty where they may or where there are none."""
    judged = [run for run in runs if run.judge is not None]
    if not judged:
        return []
    refusals = []
    if len(judged) < len(runs):
        names = ", ".join(run.name for run in runs if run.judge is None)
        refusals.append(f"Sync scores are not compared: {names} has no judge.")
    if len({run.judge for run in judged}) > 1:
        refusals.append("Sync scores are not compared: the runs have different judges (by their hashes).")
    protocols = sorted({str(run.summary["protocol"]) for run in judged})
    if len(protocols) > 1:
        refusals.append(
            f"Sync scores are not compared: the runs have the protocols {' and '.join(protocols)}."
        )
    elif len({run.summary["protocol_description"] for run in judged}) > 1:
        refusals.append(
            f"Sync scores are not compared: protocol {protocols[0]} was used with different settings."
        )
    kinds = {
        frozenset(c.key for c in run.columns if c.judged and c.key.endswith("_c") and c.key in run.estimates)
        for run in judged
    }
    if len({kind for kind in kinds if kind}) > 1:
        refusals.append("Sync scores are not compared: some are LSE, others those of an expert.")
    taught = {
        sha for run in runs for generator in run.summary["generators"] for sha in generator["trained_with"]
    }
    if any(run.summary["judge_trained_generator"] or run.judge in taught for run in judged):
        refusals.append("Sync scores are not compared: the judge trained one of the generators.")
    return refusals


def to_content(comparison: Comparison) -> dict[str, Any]:
    """Content of ``compare.json``."""
    columns = {column.key: column for column in comparison.columns}
    first = comparison.runs[0].name
    return {
        "runs": [
            {
                "name": run.name,
                "folder": str(run.folder),
                "label": run.label,
                "protocol": run.summary["protocol"],
                "judge": run.summary["judge"],
                "generators": run.summary["generators"],
                "n_videos": len(run.videos),
                "n_failed": len(run.failures),
                "values": {key: found.to_json() for key, found in run.estimates.items() if key in columns},
                "aggregates": {key: value for key, value in run.aggregates.items() if key in columns},
                "failures": [{"name": name, "reason": reason} for name, reason in run.failures.items()],
                "not_in_all": comparison.only_in(run),
            }
            for run in comparison.runs
        ],
        "differences": {
            run: {
                "against": first,
                "values": {
                    key: d.to_json() | {"verdict": d.verdict(columns[key].better)} for key, d in found.items()
                },
            }
            for run, found in comparison.differences.items()
        },
        "refusals": list(comparison.refusals),
        "refused": sorted(comparison.refused),
        "n_common": len(comparison.common),
        "same_videos": comparison.same_videos,
        "statistics": statistics.describe(),
        "columns": {column.key: column_facts(column) for column in comparison.columns},
    }


def write_comparison(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Write ``compare.md``, ``compare.html`` and ``compare.json``, each renamed into place when complete.

    Returns:
        The content of ``compare.json``.

    Raises:
        DataError: A file cannot be written.
    """
    content = to_content(comparison)
    values = {run.name: run.values for run in comparison.runs}
    save(folder / "compare.md", render_markdown(content, comparison.columns))
    save(folder / "compare.html", render_html(content, comparison.columns, values))
    save(folder / "compare.json", to_json(content))
    return content
