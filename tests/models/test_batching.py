"""Batches grow, shrink when memory runs out, and never do finished work again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest
import torch

from lipsync.errors import ConfigError
from lipsync.models.batching import ON_CPU, ON_GPU, BatchSize, is_out_of_memory, run_batched

CPU = torch.device("cpu")
Error = Callable[[], RuntimeError]

OUT_OF_MEMORY: dict[str, Error] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 8.0 GB)"),
}


class Squares:
    """Squares numbers, at most ``room`` at a time; remembers what it was asked."""

    def __init__(self, room: int, error: Error = OUT_OF_MEMORY["cuda"]) -> None:
        self.room = room
        self.error = error
        self.asked: list[list[int]] = []
        self.done: list[int] = []

    def __call__(self, part: Sequence[int]) -> list[int]:
        self.asked.append(list(part))
        if len(part) > self.room:
            raise self.error()
        self.done += part
        return [number**2 for number in part]


def squared(function: Squares, count: int, size: BatchSize) -> list[int]:
    return [value for part in run_batched(function, range(count), size, CPU) for value in part]


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_only_what_failed_is_run_again(error: Error, caplog: pytest.LogCaptureFixture) -> None:
    function, size = Squares(3, error), BatchSize(16)
    with caplog.at_level(logging.WARNING):
        assert squared(function, 20, size) == [number**2 for number in range(20)]
    assert function.done == list(range(20))
    assert [len(part) for part in function.asked[:4]] == [16, 8, 4, 2]
    assert size.current == size.most == 2
    assert len(caplog.records) == 3
    assert squared(function, 5, size) == [0, 1, 4, 9, 16]
    assert [len(part) for part in function.asked[-3:]] == [2, 2, 1], "the limit was forgotten"


def test_batches_double_while_they_go_through_and_not_after_memory_ran_out() -> None:
    function, size = Squares(8), BatchSize(2, 32)
    assert squared(function, 60, size) == [number**2 for number in range(60)]
    assert [len(part) for part in function.asked] == [2, 4, 8, 16, *[8] * 5, 6]
    assert function.done == list(range(60))


def test_a_last_short_batch_says_nothing_about_larger_ones() -> None:
    size = BatchSize(4, 32)
    squared(Squares(99), 3, size)
    assert size.current == 4
    squared(Squares(99), 4, size)
    assert size.current == 8


def test_a_restart_forgets_growth_but_not_the_limit() -> None:
    size = BatchSize(4, 32)
    squared(Squares(99), 30, size)
    assert size.current == 32
    size.restart()
    assert (size.current, size.most) == (4, 32)
    squared(Squares(3), 8, size)
    size.restart()
    assert (size.current, size.most) == (2, 2)


def test_one_item_too_many_is_an_error_with_advice() -> None:
    with pytest.raises(ConfigError, match=r"^cpu: not enough memory.*; close the game$") as caught:
        list(run_batched(Squares(0), range(3), BatchSize(4), CPU, "close the game"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: an illegal memory access"), ValueError("out of memory"), MemoryError()],
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    asked = []

    def fails(part: Sequence[int]) -> list[int]:
        asked.append(len(part))
        raise error

    with pytest.raises(type(error)) as caught:
        list(run_batched(fails, range(8), BatchSize(8), CPU))
    assert caught.value is error
    assert asked == [8]
    assert not is_out_of_memory(error)


def test_what_the_failed_attempt_held_is_gone_before_the_next() -> None:
    alive: list[object] = []

    class Block:
        def __init__(self) -> None:
            alive.append(self)

        def __del__(self) -> None:
            counts.append(len(alive))

    counts: list[int] = []
    seen: list[int] = []

    def allocates(part: Sequence[int]) -> int:
        seen.append(len(counts))
        block = Block()
        alive.clear()
        if len(part) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(part) if block else 0

    assert list(run_batched(allocates, range(2), BatchSize(2), CPU)) == [1, 1]
    assert seen == [0, 1, 2]


def test_sizes_by_device_and_by_the_user() -> None:
    cpu, cuda = BatchSize.of(None, CPU), BatchSize.of(None, torch.device("cuda"))
    assert (cpu.current, cpu.most) == ON_CPU
    assert (cuda.current, cuda.most) == ON_GPU
    assert BatchSize.of(3, torch.device("cuda")).most == 3
    for asked in (0, -1, 2.5, "abc", True):
        with pytest.raises(ConfigError, match=f"^batch_size={asked}: give a whole number of 1 or more"):
            BatchSize.of(asked, CPU)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batches of 4 to 2"):
        BatchSize(4, 2)


def test_nothing_to_do() -> None:
    function = Squares(0)
    assert squared(function, 0, BatchSize(4)) == []
    assert function.asked == []
