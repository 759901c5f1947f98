"""The report of one run as one self-contained HTML page: no scripts, no fonts, nothing loaded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from lipsync.evaluation.columns import Column
from lipsync.evaluation.report import cards, charts, differences, style, tables, videos
from lipsync.evaluation.report.numbers import CEILING, FLOOR, Numbers, is_metric, of_each_family
from lipsync.evaluation.report.text import count, interval, number
from lipsync.evaluation.results import Evaluation, SystemResult

FIGURES = 12
CURVE = "The curve is the judge's frame-wise confidence, all on one scale."
CAPTION = (
    "Mean over the scored videos, below it the 95 % bootstrap interval and how many of all lack the value "
    "where that is another number. "
    "The ceiling is unmodified video, the floor is the same video with another clip's sound."
)
DIFFERENCES = (
    "System minus unmodified clip, video by video on the names both have. An interval that contains 0 shows "
    "no difference."
)
DENSITY = (
    "Density of the videos, each as a dot where they are few. The ring is the mean, the bar its 95 % "
    "interval. All systems of a chart share one axis."
)


class Report:
    """Everything the parts of the page need."""

    def __init__(self, evaluation: Evaluation, numbers: Numbers, summary: Mapping[str, Any]) -> None:
        self.evaluation, self.numbers, self.summary = evaluation, numbers, summary
        self.rows = system_rows(evaluation, numbers)
        self.ordered = tables.order(self.rows)
        trained = evaluation.judge_trained_generator
        self.muted = frozenset(c.key for c in numbers.columns if c.judged and trained)
        self.metrics = tuple(column for column in numbers.columns if is_metric(column))
        self.table = tables.build(self.metrics, self.rows, self.muted, mark=False)

    def system(self, name: str) -> SystemResult:
        """The system of that name."""
        return next(system for system in self.evaluation.systems if system.name == name)


def system_rows(evaluation: Evaluation, numbers: Numbers) -> tuple[tables.SystemRow, ...]:
    """The systems as rows of a table, each with its colour: green ceiling, vermilion floor, blue main."""
    free = iter([3, 4, 5, 6, 7] * len(evaluation.systems))
    fixed = {evaluation.main: 0, CEILING: 1, FLOOR: 2}
    rows = []
    for system in evaluation.systems:
        colour = fixed[system.name] if system.name in fixed else next(free)
        failed = sum(result.reason is not None for result in system.results)
        rows.append(
            tables.SystemRow(
                *(system.name, system.label, system.about, len(system.results), failed),
                numbers.estimates[system.name],
                system.aggregates,
                colour,
                tables.is_ranked(system.name),
            )
        )
    return tuple(rows)


def render(report: Report) -> str:
    """The page; all text is escaped."""
    evaluation = report.evaluation
    parts = {
        "results": ("Results", _results(report), ""),
        "differences": ("Against unmodified video", _differences(report), ""),
        "distributions": ("Distributions", _distributions(report), DENSITY),
        "offsets": ("Audio-video offset", _offsets(report), _offset_lead()),
        "clips": ("Worst and best clips", _clips(report), ""),
        "failures": ("What could not be scored", _failures(report), ""),
        "videos": ("All videos", videos.render(report.ordered, evaluation, report.metrics), ""),
        "meaning": ("What the numbers mean", _meaning(report), ""),
        "reproduce": ("To reproduce", _reproduce(report), ""),
    }
    sections = [style.section(anchor, title, body, lead) for anchor, (title, body, lead) in parts.items()]
    links = "".join(f'<a href="#{a}">{a.capitalize()}</a>' for a, (_, body, _) in parts.items() if body)
    head = f"{_head(report)}<nav>{links}</nav>"
    body = "\n".join([_boxes(report), _figures(report), *(part for part in sections if part)])
    return style.page(f"Lip-sync evaluation: {evaluation.main_system.label}", head, body)


def _head(report: Report) -> str:
    evaluation, summary = report.evaluation, report.summary
    judge = evaluation.judge
    generators = evaluation.generators
    facts = {
        "Generator": ", ".join(f"{found.name} · {found.sha256[:12]}" for found in generators[:2]),
        "Protocol": evaluation.protocol if judge else "",
        "Judge": f"{judge.name} · {judge.sha256[:12]}" if judge else "none",
        "Videos": str(summary["n_videos"]),
        "Not scored": str(summary["n_failed"]) if summary["n_failed"] else "",
    }
    about = evaluation.main_system.about
    return (
        f'<p class="over">Lip-sync evaluation</p><h1>{escape(evaluation.main_system.label)}</h1>'
        f'<p class="lead">{escape(about)}</p>{style.chips(facts)}'
    )


def _boxes(report: Report) -> str:
    red = (
        [style.box("red", tables.TRAINED_TEXT, tables.TRAINED)]
        if report.evaluation.judge_trained_generator
        else []
    )
    return "\n".join(red + [style.box("note", note) for note in report.evaluation.notes])


def _figures(report: Report) -> str:
    """The main system's numbers, each on its way from floor to ceiling where these are known."""
    rows = {row.name: row for row in report.rows}
    main = rows[report.evaluation.main]
    shown = [c for c in report.metrics if (c.better or c.key == "offset") and main.value(c.key) is not None]
    parts = []
    for column in of_each_family(shown, FIGURES):
        found, value = main.estimates.get(column.key), main.value(column.key)
        notes = interval(found.low, found.high, column.digits) if found else "of the set"
        muted = column.key in report.muted
        judged = column.better and main.ranked and not muted
        gauge = _gauge(column, value, rows.get(FLOOR), rows.get(CEILING)) if judged else ""
        parts.append(
            f'<div class="figure{" muted" * muted}"><span class="name">{_name(column)}</span>'
            f'<span class="value">{number(value, column.digits)}</span>'
            f"<small>{escape(f'{notes} {column.unit}')}</small>{gauge}</div>"
        )
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def _name(column: Column) -> str:
    return escape(replace(column, unit="").title)


def _gauge(
    column: Column, value: float | None, low: tables.SystemRow | None, high: tables.SystemRow | None
) -> str:
    """How far the value is on the way from the floor to the ceiling."""
    if value is None or low is None or high is None:
        return ""
    floor, ceiling, digits = low.value(column.key), high.value(column.key), column.digits
    if floor is None or ceiling is None or floor == ceiling:
        return ""
    place = 100 * min(max((value - floor) / (ceiling - floor), 0.0), 1.0)
    return (
        f'<div class="gauge"><i style="left:{place:.1f}%"></i></div><div class="ends">'
        f"<span>floor {number(floor, digits)}</span><span>real {number(ceiling, digits)}</span></div>"
    )


def _results(report: Report) -> str:
    if not report.table.columns:
        return "<p>Nothing could be scored; the reasons are below.</p>"
    used = {column.key for column in report.table.columns}
    absent = [c.label for c in report.evaluation.columns if is_metric(c) and c.key not in used]
    notes: dict[str, list[str]] = {}
    for row in report.ordered:
        for note in report.system(row.name).notes:
            notes.setdefault(note, []).append(row.label)
    items = "".join(
        f"<li>{escape(note)} <small>{escape('; '.join(of))}</small></li>" for note, of in notes.items()
    )
    lacking = f"<p><small>Without any value: {escape(', '.join(absent))}.</small></p>" if absent else ""
    return (
        tables.render(report.table, CAPTION)
        + (f'<ul class="reasons">{items}</ul>' if items else "")
        + lacking
    )


def _differences(report: Report) -> str:
    found = report.numbers.differences
    rows = [(row, found[row.name]) for row in report.ordered if found.get(row.name)]
    used = [column for column in report.metrics if any(column.key in values for _, values in rows)]
    return differences.render(used, rows, DIFFERENCES, report.muted) if used else ""


def _distributions(report: Report) -> str:
    figures = []
    for column in report.table.columns:
        strips = [
            charts.Strip(row.label, list(values.values()), row.estimates[column.key], row.colour)
            for row in report.ordered
            if (values := report.numbers.values[row.name].get(column.key))
        ]
        if column.per_video and strips and column.key != "offset":
            chart = charts.distributions(f"Distribution of {column.label}", strips)
            figures.append(style.figure(column.title, chart, column.key in report.muted))
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _offset_lead() -> str:
    return (
        "Number of videos by offset in frames of 40 ms. Blue: at most one frame, too little to be seen. "
        "Amber: out of sync. LSE is taken at the best offset, so it cannot tell these apart."
    )


def _offsets(report: Report) -> str:
    figures, matrices = [], []
    for row in report.ordered:
        found = report.numbers.values[row.name].get("offset")
        if found:
            counts = Counter(round(value) for value in found.values())
            near = sum(n for offset, n in counts.items() if abs(offset) <= 1) / sum(counts.values())
            chart = charts.offset_histogram(f"Offsets of {row.label}", counts)
            figures.append(style.figure(row.label, chart, note=f"{100 * near:.0f} % within one frame"))
        pairs = Counter(
            (int(known), measured)
            for result in report.system(row.name).results
            for known, measured in result.offsets.items()
        )
        if pairs:
            exact = row.value("shift_exact") or 0.0
            title = f"{row.label}: known shifts and what was measured"
            note = f"{100 * exact:.0f} % moved by exactly as much"
            matrices.append(style.figure(title, charts.shift_matrix(title, pairs), note=note))
    return f'<div class="grid small">{"".join(figures + matrices)}</div>' if figures or matrices else ""


def _clips(report: Report) -> str:
    main = report.evaluation.main_system
    values = report.numbers.values[main.name]
    found = cards.extremes(main, report.metrics, values, judged=not report.muted)
    if found is None:
        return ""
    curves = any(clip.confidence for clip in (*found.worst, *found.best))
    lead = f"<p>Of {escape(main.label)}. {CURVE if curves else ''}</p>"
    return lead + cards.render(found, report.metrics, report.muted)


def _failures(report: Report) -> str:
    """Each reason once, with the videos it holds for and the systems it holds in."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for row in report.ordered:
        names: dict[str, list[str]] = {}
        for result in report.system(row.name).results:
            for family, reason in result.reasons.items():
                names.setdefault(f"{tables.FAMILIES[family]}: {reason}", []).append(result.name)
        for text, of in names.items():
            found.setdefault((text, tuple(of)), []).append(row.label)
    items = "".join(f"<li>{_reason(text, names, of)}</li>" for (text, names), of in found.items())
    return f'<ul class="reasons">{items}</ul>' if items else ""


def _reason(text: str, names: Sequence[str], systems: Sequence[str]) -> str:
    few = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        f"{escape(text)}<br><small>{count(len(names), 'video')}: {escape(few)} "
        f"\N{MIDDLE DOT} in: {escape('; '.join(systems))}</small>"
    )


def _meaning(report: Report) -> str:
    systems = {row.label: row.about for row in report.ordered if row.about}
    columns = {column.title: column.about for column in report.table.columns if column.about}
    description = report.evaluation.protocol_description
    protocol = {f"Protocol {report.evaluation.protocol}": description} if description else {}
    statistics = report.summary["statistics"]
    method = {
        "Intervals": f"{statistics['method']} {statistics['resamples']} resamples, seed {statistics['seed']}."
    }
    return (
        f"<h3>Systems</h3>{style.terms(systems)}<h3>Columns</h3>{style.terms(columns)}"
        f"<h3>Method</h3>{style.terms(protocol | method)}"
    )


def _reproduce(report: Report) -> str:
    judge = report.evaluation.judge
    files = {"Judge": f"{judge.name} ({judge.kind}), sha256 {judge.sha256}"} if judge else {}
    for index, generator in enumerate(report.evaluation.generators, start=1):
        trained = f"; trained with {', '.join(generator.trained_with)}" if generator.trained_with else ""
        files[f"Generator {index}"] = f"{generator.name}, sha256 {generator.sha256}{trained}"
    files |= {f"Weights of {name}": f"sha256 {digest}" for name, digest in report.evaluation.weights.items()}
    settings = report.summary["settings"]
    shown = json.dumps(settings, indent=2, ensure_ascii=False) if settings else ""
    return (
        style.terms(files)
        + (f"<h3>Settings</h3><pre>{escape(shown)}</pre>" if shown else "")
        + f"<h3>Versions</h3>{style.terms(report.summary['versions'])}"
    )
