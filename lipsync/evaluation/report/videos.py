"""The table of all videos, one that unfolds for each system."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from lipsync.evaluation.columns import FILE, Column
from lipsync.evaluation.report.tables import SystemRow
from lipsync.evaluation.report.text import count, number
from lipsync.evaluation.results import Evaluation, SystemResult, VideoResult

OPEN_UP_TO = 25
EXTRA = ("n_tracks", "n_windows", "n_frames_compared", "n_frames", "fps", "duration")
LEGEND = (
    '<p class="legend"><i style="background:var(--badwash)"></i>not scored, with the reason'
    '<i style="background:var(--warnwash)"></i>|offset| above one frame</p>'
)


def render(rows: Sequence[SystemRow], evaluation: Evaluation, metrics: Sequence[Column]) -> str:
    """All systems, unfolded where a system is the main one and short."""
    systems = {system.name: system for system in evaluation.systems}
    extra = [c for key in EXTRA for c in dict.fromkeys((*evaluation.columns, *FILE)) if c.key == key]
    parts = [_system(row, systems[row.name], [*metrics, *extra], evaluation.main) for row in rows]
    return LEGEND + "\n".join(parts)


def _system(row: SystemRow, system: SystemResult, columns: Sequence[Column], main: str) -> str:
    measured = {key for result in system.results for key in result.values}
    used = [c for c in dict.fromkeys(columns) if c.per_video and c.key in measured]
    heads = "".join(f'<th class="num">{escape(c.label)}</th>' for c in used)
    body = "\n".join(_row(result, used) for result in system.results)
    failed = f", {row.n_failed} not scored" if row.n_failed else ""
    unfold = " open" if row.name == main and len(system.results) <= OPEN_UP_TO else ""
    return (
        f'<details{unfold}><summary><span class="key s{row.colour}"></span>{escape(row.label)}'
        f"<small>{count(row.n_videos, 'video')}{failed}</small></summary>"
        f'<div class="scroll"><table><thead><tr><th class="stick">name</th>{heads}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div></details>"
    )


def _row(result: VideoResult, columns: Sequence[Column]) -> str:
    marks = "bad" if result.reason else "off" if abs(result.values.get("offset", 0)) > 1 else ""
    kind = f' class="{marks}"' if marks else ""
    cells = "".join(_cell(result, column) for column in columns)
    remarks = "; ".join(dict.fromkeys([*result.reasons.values(), *result.notes]))
    why = f'<small class="why">{escape(remarks)}</small>' if remarks else ""
    return f'<tr{kind}><th class="stick" scope="row">{escape(result.name)}{why}</th>{cells}</tr>'


def _cell(result: VideoResult, column: Column) -> str:
    value = result.values.get(column.key)
    if value is None or math.isnan(value):
        return "<td></td>"
    digits = 0 if isinstance(value, int) else column.digits
    text = "\N{INFINITY}" if math.isinf(value) else number(float(value), digits)
    return f'<td class="num{" offset" * (column.key == "offset")}">{text}</td>'
