"""Cards of the worst and best clips: thumbnail, values, offset and confidence over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lipsync.evaluation.columns import Column
from lipsync.evaluation.report.charts import sparkline
from lipsync.evaluation.report.numbers import of_each_family
from lipsync.evaluation.report.text import number
from lipsync.evaluation.results import SystemResult, VideoResult

SHOWN = 6
LEADING = ("lse_c", "expert_c", "psnr_mouth", "lmd")
MORE = 5


@dataclass(frozen=True)
class Extremes:
    """Clips at both ends of one column."""

    column: Column
    worst: tuple[VideoResult, ...]
    best: tuple[VideoResult, ...]


def extremes(
    system: SystemResult, columns: Sequence[Column], values: Mapping[str, Mapping[str, float]], judged: bool
) -> Extremes | None:
    """Worst and best clips by the leading column that has values; None where nothing can be ranked.

    Args:
        system: Whose clips.
        columns: Candidates, in order; the confidence of the judge goes first.
        values: Finite values by column key and video name.
        judged: Whether columns of the judge may rank.
    """
    fit = [c for c in columns if c.better and c.per_video and c.key in values and (judged or not c.judged)]
    if not fit:
        return None
    places = {key: place for place, key in enumerate(LEADING)}
    column = min(fit, key=lambda c: (not c.judged, places.get(c.key, len(places))))
    found = values[column.key]
    sign = -1 if column.better == "lower" else 1
    ranked = sorted(
        (r for r in system.results if r.name in found), key=lambda r: (sign * found[r.name], r.name)
    )
    n_worst = min(SHOWN, (len(ranked) + 1) // 2)
    n_best = min(SHOWN, len(ranked) // 2)
    return Extremes(column, tuple(ranked[:n_worst]), tuple(ranked[::-1][:n_best]))


def render(found: Extremes, columns: Sequence[Column], muted: frozenset[str]) -> str:
    """Both rows of cards as HTML."""
    everyone = [*found.worst, *found.best]
    fit = [c for c in columns if c.better and c.per_video and any(c.key in clip.values for clip in everyone)]
    shown = [found.column, *of_each_family([c for c in fit if c.key != found.column.key], MORE)]
    limits = _limits(everyone)
    parts = []
    for title, clips in (("Worst", found.worst), ("Best", found.best)):
        if clips:
            cards = "\n".join(_card(clip, shown, muted, limits) for clip in clips)
            parts.append(
                f'<h3>{title} by {escape(found.column.label)}</h3>\n<div class="cards">{cards}</div>'
            )
    return "\n".join(parts)


def _limits(clips: Sequence[VideoResult]) -> tuple[float, float]:
    levels = [value for clip in clips for value in clip.confidence if math.isfinite(value)]
    if not levels:
        return 0.0, 1.0
    low, high = min(0.0, *levels), max(levels)
    return low, high if high > low else low + 1.0


def _card(
    clip: VideoResult,
    shown: Sequence[Column],
    muted: frozenset[str],
    limits: tuple[float, float],
) -> str:
    facts = "".join(_fact(column, clip, column.key in muted) for column in shown)
    curve = [value for value in clip.confidence if math.isfinite(value)]
    label = f"Confidence of {clip.name} over time"
    plot = sparkline(label, curve, clip.confidence_start, limits) if len(curve) > 1 else ""
    if plot and muted:
        plot = f'<div class="muted">{plot}</div>'
    return (
        f'<article class="card">{_thumbnail(clip)}<div class="body"><h4>{escape(clip.name)}</h4>'
        f'{_flag(clip)}<dl class="facts">{facts}</dl></div>{plot}</article>'
    )


def _fact(column: Column, clip: VideoResult, muted: bool) -> str:
    mark = ' class="muted"' if muted else ""
    found = clip.values.get(column.key)
    value = number(None if found is None or not math.isfinite(found) else float(found), column.digits)
    return f"<div{mark}><dt>{escape(column.label)}</dt><dd>{value}</dd></div>"


def _thumbnail(clip: VideoResult) -> str:
    if clip.thumbnail is None:
        return '<div class="thumb none" aria-hidden="true"></div>'
    data = escape(clip.thumbnail)
    return f'<img class="thumb" alt="" src="data:image/jpeg;base64,{data}">'


def _flag(clip: VideoResult) -> str:
    if "offset" not in clip.values:
        return ""
    offset = round(clip.values["offset"])
    kind = "fine" if abs(offset) <= 1 else "off"
    signed = f"+{offset}" if offset > 0 else number(offset, 0)
    return f'<span class="flag {kind}">offset {signed}{"" if kind == "fine" else ", out of sync"}</span>'
