"""The report as one self-contained HTML page: no scripts, no fonts, nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lipsync.metrics.functional import VSHIFT

Row = Mapping[str, str | int | float | None]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; max-width: 70rem; margin: 2rem auto;
       padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
caption { text-align: left; color: #5a6169; padding-bottom: .4rem }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #dde1e5; text-align: right; white-space: nowrap }
th:first-child, td:first-child, td.text { text-align: left; white-space: normal; overflow-wrap: anywhere }
tr.bad td { background: #fdecea } tr.off td.offset { background: #fff3d6; font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem }
dt { color: #5a6169 } dd { margin: 0; overflow-wrap: anywhere }
.note { border-left: 4px solid #d29922; padding: .3rem .8rem; background: #fff8e6 }
svg { max-width: 100% } svg text { font: 11px system-ui, sans-serif; fill: #5a6169 }
"""

LABELS = {
    "lse_d": "LSE-D ↓",
    "lse_c": "LSE-C ↑",
    "expert_d": "expert distance ↓",
    "expert_c": "expert confidence ↑",
    "offset": "offset (frames of 40 ms)",
    "offset_within_1": "share with |offset| ≤ 1",
    "psnr": "PSNR (dB) ↑",
    "ssim": "SSIM ↑",
}
COLUMNS = (
    *("name", "lse_d", "lse_c", "expert_d", "expert_c", "offset", "n_tracks", "n_windows"),
    *("psnr", "ssim", "n_frames_compared", "fps", "n_frames", "reason", "image_reason"),
)
DIGITS = {"ssim": 4, "fps": 3}


def render(table: Sequence[Row], summary: Mapping[str, Any]) -> str:
    """The page for the rows and aggregates of :mod:`lipsync.evaluation.summary`; all text is escaped."""
    body = [
        "<h1>Lip-sync evaluation</h1>",
        *(f'<p class="note">{escape(note)}</p>' for note in summary["notes"]),
        _facts(summary),
        "<h2>Results</h2>",
        _aggregates(summary),
        _histogram(summary["offset_histogram"]),
        "<h2>Videos</h2>",
        _table(table),
        "<h2>Versions</h2>",
        _definitions(summary["versions"]),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Lip-sync evaluation</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _facts(summary: Mapping[str, Any]) -> str:
    judge = summary["judge"]
    facts = {
        "Protocol": summary["protocol_description"] or "frames against references only",
        "Judge": f"{judge['name']} ({judge['kind']}), sha256 {judge['sha256']}" if judge else "none",
        "Videos": f"{summary['n_videos']}, of which {summary['n_failed']} could not be scored",
    }
    return _definitions(facts)


def _aggregates(summary: Mapping[str, Any]) -> str:
    shown = {label: _text(key, summary[key]) for key, label in LABELS.items() if summary[key] is not None}
    if summary["n_with_reference"]:
        shown["frames compared"] = str(summary["n_frames_compared"])
    if summary["lengths_differ"]:
        shown["length differs from the reference"] = ", ".join(summary["lengths_differ"])
    if summary["n_identical_to_reference"]:
        shown["identical to the reference (no finite PSNR)"] = str(summary["n_identical_to_reference"])
    if not shown:
        return "<p>Nothing could be scored; the reasons are below.</p>"
    return _definitions(shown) + "<p>Means over the videos that have the score, each weighing the same.</p>"


def _definitions(pairs: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items()) + "</dl>"


def _table(table: Sequence[Row]) -> str:
    used = [key for key in COLUMNS if key == "name" or any(row[key] is not None for row in table)]
    head = "".join(f"<th>{escape(LABELS.get(key, key.replace('_', ' ')))}</th>" for key in used)
    body = "\n".join(_row(row, used) for row in table)
    caption = "Red: not scored, with the reason. Yellow: |offset| above one frame."
    return (
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    )


def _row(row: Row, used: Sequence[str]) -> str:
    marks = ["bad"] * (row["status"] != "scored") + ["off"] * bool(row["out_of_sync"])
    cells = []
    for key in used:
        kind = "text" if key.endswith("reason") else key
        cells.append(f'<td class="{kind}">{escape(_text(key, row[key]))}</td>')
    return f'<tr class="{" ".join(marks)}">{"".join(cells)}</tr>'


def _text(key: str, value: object) -> str:
    if value is None:
        return ""
    return f"{value:.{DIGITS.get(key, 3)}f}" if isinstance(value, float) else str(value)


def _histogram(counts: Mapping[str, int]) -> str:
    """Bars of the offsets, one for each shift looked at."""
    if not counts:
        return ""
    step, height, base = 20, 120, 140
    tallest = max(counts.values())
    parts = []
    for position, offset in enumerate(range(-VSHIFT, VSHIFT + 1)):
        count = counts.get(str(offset), 0)
        x, bar = position * step, round(height * count / tallest, 2)
        colour = "#3178c6" if abs(offset) <= 1 else "#d29922"
        if count:
            parts.append(
                f'<rect x="{x + 2}" y="{base - bar}" width="{step - 4}" height="{bar}" fill="{colour}"/>'
            )
            parts.append(f'<text x="{x + step / 2}" y="{base - bar - 4}" text-anchor="middle">{count}</text>')
        if offset % 5 == 0:
            parts.append(f'<text x="{x + step / 2}" y="{base + 16}" text-anchor="middle">{offset}</text>')
    width = step * (2 * VSHIFT + 1)
    parts.append(f'<line x1="0" y1="{base}" x2="{width}" y2="{base}" stroke="#8b949e"/>')
    title = "Number of videos by audio-video offset in frames of 40 ms"
    return (
        f'<figure><svg viewBox="0 -10 {width} 175" width="{width}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg><figcaption>{title}</figcaption></figure>"
    )
