"""Tables of systems: what stands in a cell, which one is best, and the same in HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import groupby

from lipsync.evaluation.columns import Column
from lipsync.evaluation.report.numbers import CEILING, FLOOR, UNRANKED
from lipsync.evaluation.report.text import MISSING, interval, number
from lipsync.evaluation.statistics import Estimate

FAMILIES = {
    "sync": "Lip sync",
    "image": "Picture",
    "identity": "Identity",
    "landmarks": "Mouth landmarks",
    "file": "File",
}
TRAINED = "The judge trained the generator"
TRAINED_TEXT = (
    "The expert that gave these sync scores is one the generator was trained to please, as the hashes of "
    "their files tell. Its scores of this generator say nothing about how well the lips fit the sound; they "
    "are shown in grey and nothing is ranked by them. Judge with a network that had no part in the training."
)
WIDEST = 7
"""Columns of one table that fit beside the names on a desk's screen."""

ROLES = {CEILING: "ceiling", FLOOR: "floor", "shifted": "check", "silence": "check"}


@dataclass(frozen=True, slots=True)
class SystemRow:
    """One system of a table."""

    name: str
    label: str
    about: str
    n_videos: int
    n_failed: int
    estimates: Mapping[str, Estimate]
    aggregates: Mapping[str, float] = field(default_factory=dict)
    colour: int = 0
    """Index of the colour that stands for it all over the page."""
    ranked: bool = True

    @property
    def role(self) -> str:
        """``ceiling``, ``floor`` or ``check`` where it only puts others into proportion; else empty."""
        return "" if self.ranked else ROLES.get(self.name, "check")

    def value(self, key: str) -> float | None:
        """Mean or, of a column that only sets have, the value of the set."""
        found = self.estimates.get(key)
        return found.mean if found else self.aggregates.get(key)


@dataclass(frozen=True)
class Table:
    """Systems by columns; columns without any value are left out."""

    columns: tuple[Column, ...]
    rows: tuple[SystemRow, ...]
    best: frozenset[tuple[str, str]]
    """Pairs ``(system name, column key)``."""
    muted: frozenset[str]
    """Column keys whose values must not be ranked."""


def order(rows: Iterable[SystemRow]) -> tuple[SystemRow, ...]:
    """Ceiling first, then what competes, then checks, the floor last."""
    place = {"ceiling": 0, "": 1, "check": 2, "floor": 3}
    return tuple(sorted(rows, key=lambda row: place[row.role]))


def is_ranked(name: str) -> bool:
    """Whether a system competes with others; see :data:`~lipsync.evaluation.report.numbers.UNRANKED`."""
    return name not in UNRANKED


def build(
    columns: Sequence[Column], rows: Sequence[SystemRow], muted: Iterable[str] = (), *, mark: bool = True
) -> Table:
    """A table with its best cells: by the mean, of at least two systems that compete.

    Args:
        columns: Candidates; those without any value are left out.
        rows: In any order.
        muted: Keys of columns that must not be ranked.
        mark: False marks no best cell.
    """
    present = (c for c in columns if any(row.value(c.key) is not None for row in rows))
    used = tuple(sorted(present, key=lambda c: list(FAMILIES).index(c.family)))
    silent = frozenset(muted)
    best: set[tuple[str, str]] = set()
    for column in used:
        if mark and column.better and column.key not in silent:
            best |= {(name, column.key) for name in _best(column, rows)}
    return Table(used, order(rows), frozenset(best), silent)


def _best(column: Column, rows: Sequence[SystemRow]) -> list[str]:
    found = {row.name: value for row in rows if row.ranked and (value := row.value(column.key)) is not None}
    if len(found) < 2:
        return []
    wanted = (min if column.better == "lower" else max)(found.values())
    return [name for name, value in found.items() if value == wanted]


def parts(table: Table, widest: int = WIDEST) -> list[Table]:
    """The table as several that are not too wide, none full of missing values.

    Columns that the same systems have stand together; systems without any of them are left out.
    """
    found: list[tuple[frozenset[str], list[Column]]] = []
    columns = sorted(table.columns, key=lambda c: _places(table, c))
    for (_, holders), members in groupby(columns, lambda c: (c.family, _holders(table, c))):
        alike = list(members)
        for group in (alike[start : start + widest] for start in range(0, len(alike), widest)):
            if not found or found[-1][0] != holders or len(found[-1][1]) + len(group) > widest:
                found.append((holders, []))
            found[-1][1].extend(group)
    return [
        replace(table, columns=tuple(group), rows=tuple(row for row in table.rows if row.name in holders))
        for holders, group in found
    ]


def render(table: Table, caption: str) -> str:
    """The table as HTML, with families as groups of columns; see :func:`parts`."""
    shown = [_table(part) for part in parts(table)]
    return "\n".join([f'<p class="caption">{escape(caption)}</p>', *shown])


def _holders(table: Table, column: Column) -> frozenset[str]:
    """Systems that have a value."""
    return frozenset(row.name for row in table.rows if row.value(column.key) is not None)


def _places(table: Table, column: Column) -> tuple[int, int]:
    """Family, then the first column of the family that the same systems have."""
    holders = _holders(table, column)
    family = [c for c in table.columns if c.family == column.family]
    first = next(i for i, other in enumerate(family) if _holders(table, other) == holders)
    return list(FAMILIES).index(column.family), first


def _table(table: Table) -> str:
    groups = [(family, list(found)) for family, found in groupby(table.columns, lambda c: c.family)]
    first = {found[0].key for _, found in groups}
    group_cells = "".join(
        f'<th scope="colgroup" colspan="{len(found)}" class="group">{FAMILIES[family]}</th>'
        for family, found in groups
    )
    heads = "".join(head(column, column.key in first, column.key in table.muted) for column in table.columns)
    body = "\n".join(_row(table, row, table.columns, first) for row in table.rows)
    return (
        f'<div class="scroll"><table class="systems"><thead>'
        f'<tr><th rowspan="2" scope="col" class="stick">System</th>'
        f'<th rowspan="2" scope="col" class="num">Videos</th>{group_cells}</tr>'
        f"<tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def head(column: Column, first: bool, muted: bool, scope: str = "col") -> str:
    """Heading of a column: label, direction, unit; hovering says what was computed."""
    arrow = {"lower": ' <span class="arrow" title="lower is better">↓</span>', "": ""}.get(
        column.better, ' <span class="arrow" title="higher is better">↑</span>'
    )
    unit = f"<small>{escape(column.unit)}</small>" if column.unit else ""
    marks = " ".join(["num"] + ["first"] * first + ["muted"] * muted)
    about = f' title="{escape(column.about)}"' if column.about else ""
    return f'<th scope="{scope}" class="{marks}"{about}>{escape(column.label)}{arrow}{unit}</th>'


def _row(table: Table, row: SystemRow, columns: Sequence[Column], first: set[str]) -> str:
    role = f'<span class="tag {row.role}">{row.role}</span>' if row.role else ""
    failed = f'<small class="failed">{row.n_failed} not scored</small>' if row.n_failed else ""
    cells = "".join(
        _cell(
            row, column, (row.name, column.key) in table.best, column.key in table.muted, column.key in first
        )
        for column in columns
    )
    return (
        f'<tr class="{row.role}"><th scope="row" class="stick"><span class="key s{row.colour}"></span>'
        f'{escape(row.label)}{role}</th><td class="num">{row.n_videos}{failed}</td>{cells}</tr>'
    )


def _cell(row: SystemRow, column: Column, best: bool, muted: bool, first: bool) -> str:
    marks = " ".join(["num"] + ["best"] * best + ["muted"] * muted + ["first"] * first)
    found, value = row.estimates.get(column.key), row.value(column.key)
    if value is None:
        return f'<td class="{marks} none">{MISSING}<small>{_lacking(row.n_videos)}</small></td>'
    notes = [interval(found.low, found.high, column.digits)] if found else []
    if found and found.n not in (row.n_videos, row.n_videos - row.n_failed):
        notes.append(f"{row.n_videos - found.n} {MISSING}")
    small = "".join(f"<small>{note}</small>" for note in notes if note)
    mark = '<span class="star" title="best mean">★</span>' if best else ""
    return f'<td class="{marks}"><b>{mark}{number(value, column.digits)}</b>{small}</td>'


def _lacking(n_videos: int) -> str:
    return f"all {n_videos}" if n_videos > 1 else ""
