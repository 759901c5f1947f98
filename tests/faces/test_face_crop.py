from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsync.faces.crop import crop, paste, whole_box
from lipsync.faces.masks import feather_mask
from lipsync.types import Box

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (90, 120, 3), dtype=np.uint8)


def test_whole_box_rounds_and_clips() -> None:
    assert whole_box(Box(-3.2, 10.5, 50.4, 95.0), 120, 90) == Box(0, 11, 50, 90)


@pytest.mark.parametrize(
    "box", [Box(-20, 0, -1, 50), Box(10, 10, 10.3, 50), Box(130, 5, 150, 9), Box(9, 9, 5, 20)]
)
def test_whole_box_of_nothing_is_none(box: Box) -> None:
    assert whole_box(box, 120, 90) is None


@given(*[st.floats(-300, 300) for _ in range(4)])
def test_whole_box_lies_inside_and_can_be_cropped(x1: float, y1: float, x2: float, y2: float) -> None:
    box = whole_box(Box(x1, y1, x2, y2), 120, 90)
    if box is None:
        return
    assert 0 <= box.x1 < box.x2 <= 120
    assert 0 <= box.y1 < box.y2 <= 90
    assert all(float(value).is_integer() for value in (box.x1, box.y1, box.x2, box.y2))
    assert crop(IMAGE, box).shape == (box.height, box.width, 3)


def test_crop_is_the_references_bilinear_resize() -> None:
    box = Box(10, 20, 91, 87)
    expected = cv2.resize(IMAGE[20:87, 10:91], (96, 96))
    np.testing.assert_array_equal(crop(IMAGE, box, 96), expected)


def test_crop_without_size_is_a_copy() -> None:
    part = crop(IMAGE, Box(10, 20, 30, 40))
    assert not np.shares_memory(part, IMAGE)
    np.testing.assert_array_equal(part, IMAGE[20:40, 10:30])


def test_paste_covers_the_box_only_and_leaves_its_input() -> None:
    before, patch = IMAGE.copy(), np.full((8, 8, 3), 7, np.uint8)
    result = paste(IMAGE, patch, Box(30, 20, 60, 70))
    assert (result[20:70, 30:60] == 7).all()
    outside = np.ones(IMAGE.shape[:2], bool)
    outside[20:70, 30:60] = False
    np.testing.assert_array_equal(result[outside], IMAGE[outside])
    np.testing.assert_array_equal(IMAGE, before)


def test_all_ones_mask_equals_no_mask() -> None:
    patch = RNG.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    box = Box(3, 4, 103, 84)
    np.testing.assert_array_equal(
        paste(IMAGE, patch, box, np.ones((80, 100, 1), np.float32)), paste(IMAGE, patch, box)
    )


def test_masked_paste_is_the_rounded_mean_and_exact_where_the_weight_is_zero() -> None:
    patch = RNG.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    box = Box(20, 30, 80, 80)
    mask = feather_mask(50, 60)
    result = paste(IMAGE, patch, box, mask)
    source = IMAGE[30:80, 20:80].astype(float)
    exact = mask * patch.astype(float) + (1 - mask.astype(float)) * source
    assert np.abs(result[30:80, 20:80] - exact).max() <= 0.5 + 1e-3
    untouched = mask[:, :, 0] == 0
    np.testing.assert_array_equal(result[30:80, 20:80][untouched], IMAGE[30:80, 20:80][untouched])
    np.testing.assert_array_equal(result[30:80, 20:80][mask[:, :, 0] == 1], patch[mask[:, :, 0] == 1])


def test_pasting_what_was_cropped_changes_nothing() -> None:
    box = Box(5, 6, 77, 80)
    np.testing.assert_array_equal(paste(IMAGE, crop(IMAGE, box), box, feather_mask(74, 72)), IMAGE)


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"50 x 60"):
        paste(IMAGE, IMAGE, Box(0, 0, 60, 50), np.ones((60, 50, 1), np.float32))
