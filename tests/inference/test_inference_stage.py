from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from lipsync.inference.stage import batched, prefetch


class Numbers:
    """Counts how far it was consumed, and whether it was closed."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count = count
        self.fail_at = fail_at
        self.given = 0
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                if number == self.fail_at:
                    raise OSError("broken at 3")
                self.given += 1
                yield number
        finally:
            self.closed = True


def test_batches_keep_order_and_pull_one_batch_at_a_time() -> None:
    source = Numbers(7)
    batches = batched(source, 3)
    assert next(batches) == [0, 1, 2]
    assert source.given == 3
    assert list(batches) == [[3, 4, 5], [6]]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        next(batched([1], size))


def test_prefetch_gives_the_same_items_in_order() -> None:
    assert list(prefetch(range(200), 4)) == list(range(200))
    assert list(prefetch([], 4)) == []


def test_prefetch_runs_at_most_its_depth_ahead() -> None:
    source = Numbers(1000)
    items = prefetch(source, 3)
    for expected in range(20):
        assert next(items) == expected
        time.sleep(0.01)
        assert source.given <= expected + 1 + 3 + 1
    items.close()


def test_prefetch_raises_where_the_source_failed() -> None:
    items = prefetch(Numbers(10, fail_at=3), 8)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="broken at 3"):
        next(items)


def test_leaving_prefetch_early_ends_its_thread_and_its_source() -> None:
    before = threading.active_count()
    source = Numbers(10**9)
    items = prefetch(source, 2)
    next(items)
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before
    del items
    assert source.closed


def test_nested_prefetch_is_unwound_when_the_outer_one_is_left() -> None:
    before = threading.active_count()
    source = Numbers(10**9)
    items = prefetch((2 * n for n in prefetch(source, 2)), 2)
    assert [next(items), next(items)] == [0, 2]
    items.close()
    del items
    assert threading.active_count() == before
    assert source.closed
