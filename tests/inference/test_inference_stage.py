from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from lipsync.errors import ConfigError, MediaError
from lipsync.inference.stage import FrameTransform, batched, first_only, prefetch, repeated
from lipsync.types import Frame


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


def video(count: int) -> list[Frame]:
    return [Frame(i, i / 25, np.full((2, 2, 3), i, np.uint8)) for i in range(count)]


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


@pytest.mark.parametrize(
    ("extend", "count", "expected"),
    [
        ("loop", 7, [0, 1, 2, 0, 1, 2, 0]),
        ("freeze", 6, [0, 1, 2, 2, 2, 2]),
        ("cut", 7, [0, 1, 2]),
        ("loop", 2, [0, 1]),
        ("freeze", 3, [0, 1, 2]),
        ("cut", 2, [0, 1]),
    ],
)
def test_a_video_is_fitted_to_the_length_of_the_sound(extend: str, count: int, expected: list[int]) -> None:
    frames = list(repeated(video(3), count, extend))  # type: ignore[arg-type]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == expected
    assert [frame.index for frame in frames] == list(range(len(expected)))
    assert [round(frame.time * 25) for frame in frames] == expected


@pytest.mark.parametrize("extend", ["loop", "freeze", "cut"])
def test_a_video_without_frames_is_an_error_not_an_endless_loop(extend: str) -> None:
    with pytest.raises(MediaError, match="no frame"):
        next(repeated([], 3, extend))  # type: ignore[arg-type]


def test_the_first_frame_alone_is_repeated() -> None:
    source = iter(video(5))
    frames = list(first_only(source, 4))
    assert [(frame.index, int(frame.image[0, 0, 0])) for frame in frames] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert next(source).index == 1, "nothing but the first frame is decoded"


def test_transform_shrinks_then_rotates_then_crops() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30] = 255  # top left quarter; after a clockwise turn it is the top right one
    result = FrameTransform(resize_factor=2, rotate=True, crop=(0, 15, 10, -1))(image)
    assert result.shape == (15, 10, 3)
    assert result.min() == 255
    assert result.flags.c_contiguous


def test_transform_leaves_an_image_alone_by_default() -> None:
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    np.testing.assert_array_equal(FrameTransform()(image), image)


def test_transform_that_leaves_nothing_is_an_error() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"crop=\[50, 60, 0, -1\].*60x40"):
        FrameTransform(crop=(50, 60, 0, -1))(image)
    with pytest.raises(ConfigError, match="resize_factor=41"):
        FrameTransform(resize_factor=41)(image)
    with pytest.raises(ConfigError, match="resize_factor=0"):
        FrameTransform(resize_factor=0)
