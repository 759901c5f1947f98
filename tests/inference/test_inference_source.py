from __future__ import annotations

import numpy as np
import pytest

from lipsync.errors import ConfigError, MediaError
from lipsync.inference.source import FrameTransform, first_only, repeated
from lipsync.types import Frame


def video(count: int) -> list[Frame]:
    return [Frame(i, i / 25, np.full((2, 2, 3), i, np.uint8)) for i in range(count)]


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
