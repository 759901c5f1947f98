from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lipsync.inference.stage import prefetch
from lipsync.inference.timing import StageClock, StageTime, stage_table


def slow(items: Iterator[int] | range, seconds: float) -> Iterator[int]:
    for item in items:
        time.sleep(seconds)
        yield item


def seconds_of(clock: StageClock) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in clock.stages}


def test_each_stage_is_charged_its_own_time() -> None:
    clock = StageClock()
    inner = clock.watch("inner", slow(range(5), 0.02))
    assert list(clock.watch("outer", slow(inner, 0.01))) == [0, 1, 2, 3, 4]
    times = seconds_of(clock)
    assert list(times) == ["inner", "outer"]
    assert 0.1 <= times["inner"] < 0.1 + 0.05 + 0.1
    assert 0.05 <= times["outer"] < times["inner"]


def test_waiting_for_another_thread_is_charged_to_nobody() -> None:
    clock = StageClock()
    ahead = clock.watch(None, prefetch(clock.watch("ahead", slow(range(5), 0.03)), 1))
    assert len(list(clock.watch("here", ahead))) == 5
    times = seconds_of(clock)
    assert times["ahead"] >= 0.15
    assert times["here"] < 0.05
    assert set(times) == {"ahead", "here"}


def test_a_block_inside_a_stage_is_its_own() -> None:
    clock = StageClock()
    with clock.charged("whole"):
        with clock.charged("part"):
            time.sleep(0.03)
        with clock.charged("part"):
            time.sleep(0.03)
    times = seconds_of(clock)
    assert times["part"] >= 0.06
    assert times["whole"] < 0.03


def test_leaving_early_closes_what_is_watched() -> None:
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    watched = StageClock().watch("stage", source())
    assert next(watched) == 0
    watched.close()
    assert closed == [True]


def test_an_error_passes_and_the_time_until_then_counts() -> None:
    clock = StageClock()

    def failing() -> Iterator[int]:
        time.sleep(0.02)
        raise OSError("broken")
        yield 1

    with pytest.raises(OSError, match="broken"):
        next(clock.watch("stage", failing()))
    assert seconds_of(clock)["stage"] >= 0.02


def test_the_table_has_a_line_for_each_stage_and_the_wall() -> None:
    lines = stage_table([StageTime("decode", 0.5), StageTime("synthesize", 2.0)], 100, 2.5).splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "decode", "synthesize", "wall"]
    assert lines[2].split()[1:] == ["20.00", "80%"]
    assert lines[3].split()[1:] == ["25.00", "100%"]
