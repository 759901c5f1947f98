"""The pages that put runs side by side, from the content of ``compare.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

from lipsync.evaluation.columns import Column
from lipsync.evaluation.report import charts, differences, markdown, style, tables
from lipsync.evaluation.report.text import count, interval, signed
from lipsync.evaluation.statistics import Difference, Estimate

Content: TypeAlias = Mapping[str, Any]
Values: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By run, column key and video name."""

COLOURS = (0, 3, 4, 5, 6, 1, 2, 7)
SHOWN = 40
MEANS = "Mean over the scored videos of each run, below it the 95 % bootstrap interval."
UNEQUAL = (
    "The runs did not score the same videos, so that their means cannot be compared and none is marked as "
    "best; the paired differences below use the common videos only."
)
PAIRED = (
    "Run minus {first}, video by video on the names both have, with the 95 % bootstrap interval. Better or "
    "worse is only said where the interval excludes 0."
)


def _rows(content: Content) -> tuple[tables.SystemRow, ...]:
    return tuple(
        tables.SystemRow(
            *(run["name"], _label(run), "", run["n_videos"], run["n_failed"]),
            {key: Estimate(**found) for key, found in run["values"].items()},
            run["aggregates"],
            COLOURS[index % len(COLOURS)],
        )
        for index, run in enumerate(content["runs"])
    )


def _label(run: Mapping[str, Any]) -> str:
    return f"{run['name']}: {run['label']}"


def _differences(content: Content, run: str) -> dict[str, Difference]:
    found = content["differences"].get(run, {"values": {}})["values"]
    return {key: Difference(**{k: v for k, v in d.items() if k != "verdict"}) for key, d in found.items()}


def _table(content: Content, columns: Sequence[Column]) -> tables.Table:
    return tables.build(columns, _rows(content), content["refused"], mark=content["same_videos"])


def _note(content: Content) -> str:
    return MEANS if content["same_videos"] else f"{MEANS} {UNEQUAL}"


def render_html(content: Content, columns: Sequence[Column], values: Values) -> str:
    """``compare.html``; all text is escaped."""
    table = _table(content, columns)
    first, *others = table.rows
    pairs = [(row, _differences(content, row.name)) for row in others]
    caption = PAIRED.format(first=first.label)
    red = "\n".join(style.box("red", text, "Not compared") for text in content["refusals"])
    facts = {"Runs": str(len(table.rows)), "Videos in all runs": str(content["n_common"])}
    usable = [column for column in columns if column.key not in content["refused"]]
    sections = (
        style.section("results", "Results", tables.render(table, _note(content))),
        style.section("differences", "Paired differences", differences.render(usable, pairs, caption)),
        style.section("distributions", "Distributions", _charts(table, values)),
        style.section("videos", "Videos that are not in every comparison", _videos(content)),
        style.section("runs", "Runs", style.terms(_facts(content))),
        style.section("method", "Method", style.terms(_method(content, columns))),
    )
    head = (
        '<p class="over">Lip-sync evaluation</p><h1>Comparison of runs</h1>'
        f'<p class="lead">{escape(" · ".join(row.name for row in table.rows))}</p>{style.chips(facts)}'
    )
    body = "\n".join([red, *(part for part in sections if part)])
    return style.page("Lip-sync evaluation: comparison", head, body)


def _charts(table: tables.Table, values: Values) -> str:
    figures = []
    for column in table.columns:
        strips = [
            charts.Strip(row.name, list(found.values()), row.estimates[column.key], row.colour)
            for row in table.rows
            if (found := values[row.name].get(column.key)) and column.key in row.estimates
        ]
        if column.per_video and strips and column.key not in {*table.muted, "offset"}:
            chart = charts.distributions(f"Distribution of {column.label}", strips)
            figures.append(style.figure(column.title, chart))
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _videos(content: Content) -> str:
    items = []
    for run in content["runs"]:
        names = run["not_in_all"]
        if names:
            items.append(f"<li>In {escape(run['name'])} but not in every run: {_some(names)}</li>")
    lost: dict[tuple[str, str], list[str]] = {}
    for run in content["runs"]:
        for failed in run["failures"]:
            lost.setdefault((failed["name"], failed["reason"]), []).append(run["name"])
    items += [
        f"<li>{escape(name)}: {escape(reason)} <small>not scored in {escape(', '.join(of))}</small></li>"
        for (name, reason), of in list(lost.items())[:SHOWN]
    ]
    if len(lost) > SHOWN:
        items.append(f"<li>{len(lost) - SHOWN} more, listed in compare.json</li>")
    return f'<ul class="reasons">{"".join(items)}</ul>' if items else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{count(len(names), 'video')}: <small>{escape(', '.join(names[:SHOWN]))}{more}</small>"


def _facts(content: Content) -> dict[str, str]:
    return {run["name"]: _run(run) for run in content["runs"]}


def _run(run: Mapping[str, Any]) -> str:
    judge = run["judge"]
    who = (
        f"judge {judge['name']} (sha256 {judge['sha256']}), protocol {run['protocol']}"
        if judge
        else "no judge"
    )
    made = "".join(f"; generator {g['name']} (sha256 {g['sha256']})" for g in run["generators"])
    return f"{run['folder']}: {who}{made}"


def _method(content: Content, columns: Sequence[Column]) -> dict[str, str]:
    found = content["statistics"]
    method = f"{found['method']} {found['resamples']} resamples, seed {found['seed']}."
    return {column.title: column.about for column in columns if column.about} | {"Intervals": method}


def render_markdown(content: Content, columns: Sequence[Column]) -> str:
    """``compare.md``."""
    table = _table(content, columns)
    first, *others = table.rows
    usable = [column for column in table.columns if column.key not in content["refused"]]
    heads = ["Difference of", *(markdown.cell(row.label) for row in others)]
    found = [_differences(content, row.name) for row in others]
    compared = [column for column in usable if any(column.key in each for each in found)]
    rows = [
        [markdown.cell(column.title), *(_difference(each.get(column.key), column) for each in found)]
        for column in compared
    ]
    method = _method(content, ())["Intervals"]
    parts = [
        "# Lip-sync evaluation: comparison of runs",
        *(f"> **Not compared.** {markdown.cell(text)}" for text in content["refusals"]),
        _note(content),
        markdown.systems(table),
        PAIRED.format(first=markdown.cell(first.label)),
        markdown.grid(heads, rows),
        "\n".join(
            f"- {markdown.cell(name)}: {markdown.cell(text)}" for name, text in _facts(content).items()
        ),
        _missing(content),
        method,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _difference(found: Difference | None, column: Column) -> str:
    if found is None:
        return "n/a"
    ends = interval(found.low, found.high, column.digits)
    return f"{signed(found.mean, column.digits)} {ends} {found.verdict(column.better)} (n = {found.n})"


def _missing(content: Content) -> str:
    lines = []
    for run in content["runs"]:
        lines += [
            f"- {markdown.cell(n)}: not in every run, but in {markdown.cell(run['name'])}"
            for n in run["not_in_all"]
        ]
        lines += [
            f"- {markdown.cell(f['name'])}: not scored in {markdown.cell(run['name'])}, "
            f"{markdown.cell(f['reason'])}"
            for f in run["failures"]
        ]
    return "\n".join(lines)
