"""Table of paired differences: a row for each column of values, drawn on a line with zero in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from lipsync.evaluation.columns import Column
from lipsync.evaluation.report.charts import forest
from lipsync.evaluation.report.tables import SystemRow
from lipsync.evaluation.report.text import MISSING, count, interval, signed
from lipsync.evaluation.statistics import Difference, Verdict

Side = tuple[SystemRow, Mapping[str, Difference]]
"""A system and its differences by column key."""


def render(
    columns: Sequence[Column], sides: Sequence[Side], caption: str, muted: frozenset[str] = frozenset()
) -> str:
    """The table as HTML.

    Args:
        columns: In order; those nobody has are left out.
        sides: In order.
        caption: What was taken from what.
        muted: Keys of columns that must not be judged.
    """
    heads = "".join(
        f'<th scope="col"><span class="key s{row.colour}"></span>{escape(row.label)}</th>' for row, _ in sides
    )
    body = "\n".join(
        _row(column, sides, column.key in muted)
        for column in columns
        if any(column.key in found for _, found in sides)
    )
    return (
        f'<p class="caption">{escape(caption)}</p><div class="scroll"><table class="differences"><thead><tr>'
        f'<th class="stick" scope="col">Difference of</th>{heads}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(column: Column, sides: Sequence[Side], muted: bool) -> str:
    reach = max((_reach(found[column.key]) for _, found in sides if column.key in found), default=1.0)
    cells = "".join(_cell(column, row, found.get(column.key), reach, muted) for row, found in sides)
    mark = " muted" if muted else ""
    return f'<tr><th class="stick{mark}" scope="row">{escape(column.title)}</th>{cells}</tr>'


def _reach(found: Difference) -> float:
    return max(abs(end) for end in (found.mean, found.low or 0.0, found.high or 0.0)) or 1.0


def _cell(column: Column, row: SystemRow, found: Difference | None, reach: float, muted: bool) -> str:
    if found is None:
        return f'<td class="none">{MISSING}</td>'
    verdict = _verdict(column, row, found)
    mark = "muted" if muted else verdict.replace(" ", "-")
    words = "not to be judged" if muted else verdict
    share = ""
    if found.better_share is not None and row.ranked and not muted:
        share = f", better in {100 * found.better_share:.0f} %"
    title = f"{row.label}, {column.label}: {words}"
    return (
        f'<td class="{mark}"><b>{signed(found.mean, column.digits)}</b>'
        f"<small>{interval(found.low, found.high, column.digits)}</small>"
        f"{forest(title, found.mean, found.low, found.high, reach)}"
        f'<small class="verdict">{words}</small><small>{count(found.n, "video")}{share}</small></td>'
    )


def _verdict(column: Column, row: SystemRow, found: Difference) -> Verdict:
    """Systems that do not compete are not better or worse, only higher or lower."""
    return found.verdict(column.better if row.ranked else "")
