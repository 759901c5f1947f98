"""What the progress bars say."""

from __future__ import annotations

import io
import re

from rich.console import Console
from rich.text import Text

from lipsync.inference.hooks import ProgressHook, RateColumn


class _Step:
    """A step of a known speed."""

    def __init__(self, speed: float | None, finished: float | None = None) -> None:
        self.speed, self.finished_speed = speed, finished


def test_the_rate_is_readable_for_fast_and_slow_steps() -> None:
    shown = {speed: RateColumn().render(_Step(speed)).plain for speed in (None, 0.0, 0.05, 0.5, 1.0, 123.456)}  # type: ignore[arg-type]
    assert shown == {None: "", 0.0: "", 0.05: "3.0/min", 0.5: "30.0/min", 1.0: "1.0/s", 123.456: "123.5/s"}
    assert RateColumn().render(_Step(5.0, 2.0)) == Text("2.0/s"), "of the whole step once it is done"  # type: ignore[arg-type]


def test_a_terminal_shows_step_count_and_rate() -> None:
    stream = io.StringIO()
    with ProgressHook(Console(file=stream, force_terminal=True, width=100)) as hook:
        for done in range(1, 4):
            hook("score videos", done, 3)
    last = stream.getvalue().rpartition("score videos")[2]
    assert "3/3" in last
    assert re.search(r"\d/s\b", last)


def test_nothing_is_drawn_elsewhere() -> None:
    stream = io.StringIO()
    with ProgressHook(Console(file=stream)) as hook:
        hook("score videos", 1, 3)
    assert stream.getvalue() == ""
