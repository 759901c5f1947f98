"""Charts as inline SVG without scripts; colours come from the page's style sheet, so that both themes fit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from lipsync.evaluation.report.text import count, number
from lipsync.evaluation.statistics import Estimate

FRAMES_PER_SECOND = 25
SHIFTS = 15
BINS = 72
MAX_DOTS = 150
FEW_DOTS = 25
MAX_POINTS = 320

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of a distribution chart."""

    label: str
    values: Sequence[float]
    estimate: Estimate
    colour: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Data to horizontal or vertical units of a chart."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Position, inside the ends."""
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``, steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_text(value: float, step: float) -> str:
    return number(value, max(0, -math.floor(math.log10(step) + 1e-9)))


def svg(width: float, height: float, title: str, parts: Iterable[str], kind: str = "chart") -> str:
    """A chart that scales with its column."""
    return (
        f'<svg class="{kind}" viewBox="0 0 {_n(width)} {_n(height)}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    marks = f' class="{kind}"' if kind else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{marks}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'


def distributions(title: str, strips: Sequence[Strip]) -> str:
    """A row for each system on one axis: density, the videos as dots where few, mean and interval."""
    left, width, top, step = 150.0, 540.0, 10.0, 46.0
    low, high = _range([strip.values for strip in strips])
    scale = Scale(low, high, left, width - 14)
    bottom = top + step * len(strips)
    marks = ticks(low, high)
    unit = marks[1] - marks[0] if len(marks) > 1 else high - low
    parts = [_line(scale(mark), top, scale(mark), bottom, "grid") for mark in marks]
    parts += [_text(scale(mark), bottom + 16, _tick_text(mark, unit), "tick") for mark in marks]
    for index, strip in enumerate(strips):
        parts.append(_strip(strip, scale, top + step * index, step, left))
    return svg(width, bottom + 22, title, parts, "chart wide")


def _strip(strip: Strip, scale: Scale, top: float, step: float, left: float) -> str:
    values = np.asarray(strip.values, dtype=np.float64)
    base = top + step * 0.64
    label = strip.label if len(strip.label) <= 23 else strip.label[:22] + "…"
    beyond = int(np.sum((values < scale.low) | (values > scale.high)))
    note = f"n = {len(values)}" + (f", {beyond} beyond" if beyond else "")
    parts = [
        f"<title>{escape(strip.label)}: {count(len(values), 'video')}</title>",
        _text(left - 12, base - 4, label, "label", "end"),
        _text(left - 12, base + 9, note, "tick", "end"),
        _area(values, scale, base, step * 0.56),
    ]
    if len(values) <= MAX_DOTS:
        dots = "".join(f"M{_n(scale(v))} {_n(base + 5 + 5 * _scatter(i))}h0" for i, v in enumerate(values))
        few = " few" if len(values) <= FEW_DOTS else ""
        parts.append(f'<path class="dots{few}" d="{dots}"/>')
    found = strip.estimate
    if found.low is not None and found.high is not None:
        parts.append(_line(scale(found.low), base, scale(found.high), base, "whisker"))
    parts.append(f'<circle class="mean" cx="{_n(scale(found.mean))}" cy="{_n(base)}" r="3.6"/>')
    return f'<g class="s{strip.colour}">{"".join(parts)}</g>'


def _scatter(index: int) -> float:
    """Even, repeatable spread over [0, 1]: the golden ratio sequence."""
    return (index * 0.6180339887498949) % 1.0


def _area(values: Array, scale: Scale, base: float, height: float) -> str:
    """Outline of the density between the extremes: a histogram smoothed by a Gaussian, Silverman's width."""
    if len(values) < 3 or np.ptp(values) == 0:
        return ""
    inside = np.clip(values, scale.low, scale.high)
    counts, edges = np.histogram(inside, bins=BINS, range=(scale.low, scale.high))
    width = 0.9 * float(inside.std()) * len(values) ** -0.2 / (edges[1] - edges[0])
    offsets = np.arange(-BINS, BINS + 1)
    kernel = np.exp(-0.5 * (offsets / max(width, 0.8)) ** 2)
    density = np.convolve(counts, kernel, mode="full")[BINS : 2 * BINS]
    density = density / density.max()
    centres = (edges[:-1] + edges[1:]) / 2
    near = (centres > inside.min() - (edges[1] - edges[0])) & (centres < inside.max() + (edges[1] - edges[0]))
    shown = np.flatnonzero(near)
    points = [f"{_n(scale(centres[i]))} {_n(base - height * density[i])}" for i in shown]
    first, last = _n(scale(centres[shown[0]])), _n(scale(centres[shown[-1]]))
    return f'<path class="area" d="M{first} {_n(base)}L{"L".join(points)}L{last} {_n(base)}Z"/>'


def _range(vectors: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Axis for all vectors; values far outside the quartiles of every one are drawn at its ends."""
    lows, highs = [], []
    for vector in vectors:
        q1, q3 = np.quantile(vector, [0.25, 0.75])
        reach = 3.5 * (q3 - q1) or np.inf
        lows.append(max(min(vector), q1 - reach))
        highs.append(min(max(vector), q3 + reach))
    low, high = float(min(lows)), float(max(highs))
    pad = 0.04 * (high - low) or max(abs(low) * 0.05, 0.5)
    return low - pad, high + pad


def forest(title: str, mean: float, low: float | None, high: float | None, reach: float) -> str:
    """Interval and mean of one difference on a line from ``-reach`` to ``reach``, with zero in the middle."""
    width, middle = 150.0, 8.0
    scale = Scale(-reach, reach, 6, width - 6)
    parts = [
        _line(0, middle, width, middle, "grid"),
        _line(scale(0), 1, scale(0), 2 * middle - 1, "zero"),
    ]
    if low is not None and high is not None:
        parts.append(_line(scale(low), middle, scale(high), middle, "whisker"))
    parts.append(f'<circle class="mean" cx="{_n(scale(mean))}" cy="{_n(middle)}" r="3.6"/>')
    return svg(width, 2 * middle, title, parts, "chart forest")


def offset_histogram(title: str, counts: Mapping[int, int]) -> str:
    """Bars of the offsets, one for each shift looked at; at most one frame apart in another colour."""
    reach = max([SHIFTS, *(abs(offset) for offset in counts)])
    base, tall, step = 112.0, 84.0, 10.0
    width = step * (2 * reach + 1)
    tallest = max(counts.values())
    labelled = min((abs(offset), offset) for offset, n in counts.items() if n == tallest)[1]
    box = f'x="{_n(step * (reach - 1))}" y="14" width="{_n(3 * step)}" height="{_n(base - 14)}"'
    parts = [f'<rect class="fine" {box}/>']
    for offset in range(-reach, reach + 1):
        x, n = (offset + reach) * step, counts.get(offset, 0)
        if n:
            bar = max(1.5, tall * n / tallest)
            kind = "near" if abs(offset) <= 1 else "far"
            parts.append(
                f'<rect class="{kind}" x="{_n(x + 1)}" y="{_n(base - bar)}" width="{_n(step - 2)}" '
                f'height="{_n(bar)}" rx="1"><title>{offset}: {count(n, "video")}</title></rect>'
            )
        if offset == labelled:
            parts.append(_text(x + step / 2, base - tall - 4, str(n), "tick"))
        if offset % 5 == 0:
            parts.append(_text(x + step / 2, base + 14, number(offset, 0), "tick"))
    parts.append(_line(0, base, width, base, "axis"))
    return svg(width, base + 20, title, parts)


def shift_matrix(title: str, pairs: Counter[tuple[int, int]]) -> str:
    """Bubbles of (known shift, offset measured): all on the diagonal where the judge finds every shift."""
    shifts = sorted({known for known, _ in pairs})
    reach = max(abs(value) for pair in pairs for value in pair) + 1
    size, pad = 300.0, 34.0
    across = Scale(min(shifts) - 1, max(shifts) + 1, pad, size - 6)
    up = Scale(-reach, reach, size - pad, 6)
    totals = Counter[int]()
    for (known, _), n in pairs.items():
        totals[known] += n
    parts = [_line(pad, up(mark), size - 6, up(mark), "grid") for mark in ticks(-reach, reach, 5)]
    parts.append(_line(across(shifts[0]), up(shifts[0]), across(shifts[-1]), up(shifts[-1]), "axis"))
    parts += [
        _text(pad - 6, up(mark) + 4, number(mark, 0), "tick", "end") for mark in ticks(-reach, reach, 5)
    ]
    parts += [_text(across(k), size - pad + 14, number(k, 0), "tick") for k in _few(shifts)]
    parts.append(_text((pad + size) / 2, size - 4, "known shift (frames of 40 ms)", "tick"))
    parts.append(_text(pad + 4, 14, "measured", "tick", "start"))
    for (known, measured), n in sorted(pairs.items()):
        radius = max(1.8, 6.5 * math.sqrt(n / totals[known]))
        kind = "near" if abs(known - measured) <= 1 else "far"
        parts.append(
            f'<circle class="{kind}" cx="{_n(across(known))}" cy="{_n(up(measured))}" r="{radius:.2f}">'
            f"<title>{known} measured as {measured}: {n} of {totals[known]}</title></circle>"
        )
    return svg(size, size, title, parts)


def _few(shifts: Sequence[int]) -> list[int]:
    step = 5 if len(shifts) > 9 else 1
    return [shift for shift in shifts if shift % step == 0]


def sparkline(title: str, curve: Sequence[float], start: int, limits: tuple[float, float]) -> str:
    """Frame-wise confidence over the seconds of the clip; ``limits`` are common to all clips shown."""
    width, height, left = 360.0, 84.0, 24.0
    begin, end = start / FRAMES_PER_SECOND, (start + len(curve)) / FRAMES_PER_SECOND
    across, up = Scale(begin, end, left, width - 4), Scale(*limits, height - 18, 5)
    points = _thin(curve)
    path = "L".join(
        f"{_n(across(begin + (i + 0.5) / len(points) * (end - begin)))} {_n(up(v))}"
        for i, v in enumerate(points)
    )
    floor = _n(up(max(limits[0], 0.0)))
    marks = ticks(begin, end, 6)
    levels = ticks(*limits, 3)
    unit = marks[1] - marks[0] if len(marks) > 1 else 1.0
    rise = levels[1] - levels[0] if len(levels) > 1 else 1.0
    parts = [_line(left, up(level), width - 4, up(level), "grid") for level in levels]
    parts += [_text(left - 5, up(level) + 3.5, _tick_text(level, rise), "tick", "end") for level in levels]
    parts += [
        _text(across(m), height - 4, f"{_tick_text(m, unit)} s", "tick")
        for m in marks
        if across(m) < width - 16
    ]
    parts.append(f'<path class="under" d="M{_n(left)} {floor}L{path}L{_n(width - 4)} {floor}Z"/>')
    parts.append(f'<path class="curve" d="M{path}"/>')
    return svg(width, height, title, parts, "chart spark")


def _thin(curve: Sequence[float]) -> list[float]:
    """At most :data:`MAX_POINTS` means of neighbours."""
    values = np.asarray(curve, dtype=np.float64)
    if len(values) <= MAX_POINTS:
        return [float(value) for value in values]
    return [float(part.mean()) for part in np.array_split(values, MAX_POINTS)]
