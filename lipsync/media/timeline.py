"""When each frame or stretch of sound is due, from timestamps that may be missing, wrong or reset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

T = TypeVar("T")

_LONGEST_GAP = Fraction(3600)
"""Seconds. A longer step of the timestamps is a clock that was reset in a recording."""
_PLAIN_GAP = Fraction(10)
"""Seconds. A longer step is believed only where it ends before the container says that the stream does; the
limit of FFmpeg's own programs for discontinuities."""
_DOUBTFUL_STEP = Fraction(1)
"""Seconds. A longer step, or one backwards, is a false timestamp where the next one takes it back."""


class _Clock:
    """Times since the start of a stream, from timestamps that may be missing, wrong or reset; see placed."""

    def __init__(self, origin: Fraction | None, end: Fraction | None, jitter: Fraction | None) -> None:
        self.origin = self.first = origin
        self.end = end
        self.jitter = jitter
        self.last: Fraction | None = None
        self.due = Fraction(0)

    def start(self, stamp: Fraction | None, following: Fraction | None) -> Fraction:
        """When an item begins; ``following`` is the timestamp of the next one."""
        if stamp is None:
            return self.due
        if self.origin is None or self.first is None:
            self.origin = self.first = stamp
        if self.last is None:
            return self._first(stamp, self.origin)
        earliest = self.last if self.jitter is None else self.due - self.jitter
        for origin in (self.origin, self.first):  # a false timestamp may have moved the clock
            time = stamp - origin
            doubtful = time - self.due > _DOUBTFUL_STEP and following is not None and following < stamp
            if time >= earliest and not self._late(time) and not doubtful:
                self.origin = origin
                return self.due if self.jitter is not None and time - self.due <= self.jitter else time
        step = stamp - self.origin - self.due
        taken_back = following is not None and (
            following < stamp if step > 0 else following - self.origin >= earliest
        )
        if abs(step) > _DOUBTFUL_STEP and not taken_back:  # the recording's clock was reset
            self.origin = stamp - self.due
        return self.due

    def pass_by(self, time: Fraction, duration: Fraction) -> Fraction:
        """Go to the end of an item; returns its duration, which a false one does not stretch for ever."""
        limit = _PLAIN_GAP if self.end is None else max(_PLAIN_GAP, min(self.end - time, _LONGEST_GAP))
        duration = min(duration, limit)
        self.last, self.due = time, time + duration
        return duration

    def _first(self, stamp: Fraction, origin: Fraction) -> Fraction:
        time = stamp - origin
        if (time < 0 and self.jitter is None) or time < -_LONGEST_GAP or self._late(time):
            self.origin = self.first = stamp
            return Fraction(0)
        return time

    def _late(self, time: Fraction) -> bool:
        believed = _PLAIN_GAP if self.end is None or time > self.end else _LONGEST_GAP
        return time - self.due > believed


def placed(
    items: Iterable[tuple[Fraction | None, Fraction, T]],
    origin: Fraction | None,
    end: Fraction | None,
    jitter: Fraction | None = None,
) -> Iterator[tuple[Fraction, Fraction, T]]:
    """Turn the timestamps of a stream into times since its start that never run backwards.

    An item without a timestamp begins when the one before ends. So does one whose timestamp cannot be
    believed: the next one takes it back, or it lies more than 10 s off and beyond the stated end. Where the
    timestamps stay elsewhere, the clock of the recording was reset, and they count from there.

    Args:
        items: Timestamp, duration and the item, in the order in which they are shown.
        origin: Timestamp that counts as 0; None takes the first one.
        end: Time at which the container says that the stream ends, None where it does not.
        jitter: None keeps every timestamp, also one before the end of the item before (video). Otherwise
            items join without gap or overlap (sound), except for gaps longer than this; the first one may
            begin before 0.

    Yields:
        Time, duration and the item.
    """
    clock = _Clock(origin, end, jitter)
    waiting = iter(items)
    item = next(waiting, None)
    while item is not None:
        stamp, duration, content = item
        item = next(waiting, None)
        time = clock.start(stamp, None if item is None else item[0])
        yield time, clock.pass_by(time, duration), content
