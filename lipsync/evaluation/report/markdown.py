"""The results as Markdown, to be pasted beside a claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lipsync.evaluation.report import tables
from lipsync.evaluation.report.text import MISSING, interval, number, one_line
from lipsync.evaluation.results import Evaluation


def cell(text: str) -> str:
    """Text that keeps a table's shape and shows as it is."""
    line = one_line(text).replace("\\", "\\\\")
    for sign in "|<>*_`[]":
        line = line.replace(sign, f"\\{sign}")
    return line


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def systems(table: tables.Table) -> str:
    """Mean and interval of every system, the best in bold, as tables that are not too wide."""
    return "\n\n".join(
        grid(
            ["System", "Videos", *(cell(c.title) for c in part.columns)],
            [_row(part, row) for row in part.rows],
        )
        for part in tables.parts(table)
    )


def _row(table: tables.Table, row: tables.SystemRow) -> list[str]:
    scored = str(row.n_videos) + (f" ({row.n_failed} not scored)" if row.n_failed else "")
    cells = [cell(row.label) + (f" ({row.role})" if row.role else ""), scored]
    for column in table.columns:
        found, value = row.estimates.get(column.key), row.value(column.key)
        text = number(value, column.digits)
        if (row.name, column.key) in table.best:
            text = f"**{text}**"
        if found:
            text = f"{text} {interval(found.low, found.high, column.digits)}".strip()
            text += f" ({row.n_videos - found.n} {MISSING})" if found.n < row.n_videos else ""
        cells.append(text)
    return cells


def render(evaluation: Evaluation, table: tables.Table, summary: Mapping[str, Any], warning: str) -> str:
    """``report.md``.

    Args:
        evaluation: The run.
        table: Its systems.
        summary: Content of summary.json.
        warning: What the reader must know first, or an empty text.
    """
    judge, statistics = evaluation.judge, summary["statistics"]
    who = f"{judge.name} ({judge.kind}), sha256 `{judge.sha256}`" if judge else "none"
    description = f": {one_line(evaluation.protocol_description)}" if evaluation.protocol_description else ""
    interval_line = (
        f"Mean and {100 * statistics['confidence']:.0f} % interval. {statistics['method']} "
        f"{statistics['resamples']} resamples, seed {statistics['seed']}."
    )
    parts = [
        f"# Lip-sync evaluation: {cell(evaluation.main_system.label)}",
        f"> **{tables.TRAINED}.** {warning}" if warning else "",
        *(f"> {cell(note)}" for note in evaluation.notes),
        f"- Protocol {evaluation.protocol}{description}\n- Judge: {who}" if judge else "- Judge: none",
        systems(table) if table.columns else "Nothing could be scored.",
        interval_line,
        _reasons(summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _reasons(summary: Mapping[str, Any]) -> str:
    failed = summary["failures"]
    if not failed:
        return ""
    lines = [f"- {cell(item['name'])}: {cell(item['reason'])}" for item in failed]
    return "\n".join([f"Not scored, {len(failed)} of {summary['n_videos']}:", "", *lines])
