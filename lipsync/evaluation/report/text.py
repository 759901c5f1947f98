"""Numbers as a reader sees them, the same in Markdown and HTML."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"
MISSING = "n/a"


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits and a true minus sign; ``n/a`` for None."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """As :func:`number`, with a plus sign in front of what is above zero."""
    text = number(value, digits)
    return f"+{text}" if value is not None and float(f"{value:.{digits}f}") > 0 else text


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """``[low, high]``; empty where there is none."""
    return "" if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def count(n: int, noun: str) -> str:
    """``1 video``, ``2 videos``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def one_line(text: str) -> str:
    """Text without line breaks, for tables and errors."""
    return " ".join(text.split())
