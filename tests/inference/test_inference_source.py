from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lipsync.errors import ConfigError, MediaError
from lipsync.inference.source import EXTENDS, Extend, FrameTransform, first_only, repeated
from lipsync.types import Frame


class Clip(list[Frame]):
    """Frames that can be had backwards, too."""

    def backwards(self) -> Iterator[Frame]:
        return reversed(self)


def video(count: int) -> Clip:
    return Clip(Frame(i, i / 25, np.full((2, 2, 3), i, np.uint8)) for i in range(count))


@pytest.mark.parametrize(
    ("extend", "count", "expected"),
    [
        ("loop", 7, [0, 1, 2, 0, 1, 2, 0]),
        ("bounce", 11, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]),
        ("bounce", 3, [0, 1, 2]),
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


def test_a_single_frame_cannot_bounce_and_stays() -> None:
    assert [frame.index for frame in repeated(video(1), 4, "bounce")] == [0, 1, 2, 3]


@pytest.mark.parametrize("extend", EXTENDS)
def test_the_rest_of_a_longer_video_is_kept_where_asked_for(extend: Extend) -> None:
    kept = list(repeated(video(5), 2, extend, "keep"))
    assert [int(frame.image[0, 0, 0]) for frame in kept] == [0, 1, 2, 3, 4]
    cut = list(repeated(video(5), 2, extend, "cut"))
    assert [int(frame.image[0, 0, 0]) for frame in cut] == [0, 1]


def test_not_one_frame_more_than_wanted_is_decoded() -> None:
    source = iter(video(5))
    assert len(list(repeated(source, 2, "loop"))) == 2
    assert next(source).index == 2


@pytest.mark.parametrize("extend", EXTENDS)
def test_a_video_without_frames_is_an_error_not_an_endless_loop(extend: Extend) -> None:
    with pytest.raises(MediaError, match="no frame"):
        next(repeated([], 3, extend))


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


@pytest.mark.parametrize(
    "crop", [(-1, -1, 0, -1), (0, -1, -1, -1), (0, -2, 0, -1), (0, -1, 0, -9), (0.5, 9, 0, 9)]
)
def test_a_crop_has_no_negative_edges(crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match=r"^crop=\[.*\]: give \[top,bottom,left,right\]"):
        FrameTransform(crop=crop)


def test_minus_one_is_the_border_of_the_frame() -> None:
    assert FrameTransform(crop=(1, -1, 2, 5))(np.zeros((8, 9, 3), np.uint8)).shape == (7, 3, 3)
