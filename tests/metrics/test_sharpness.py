from __future__ import annotations

from itertools import islice

import cv2
import numpy as np
import pytest

from lipsync.media.reader import VideoReader
from lipsync.metrics import sharpness
from lipsync.metrics.sharpness import cpbd


def _shapes(size=(256, 256), seed=0):
    rng = np.random.default_rng(seed)
    picture = np.full((*size, 3), 90, np.uint8)
    for _ in range(60):
        x, y = (int(rng.integers(0, side)) for side in size[::-1])
        corner = (x + int(rng.integers(5, 40)), y + int(rng.integers(5, 40)))
        cv2.rectangle(picture, (x, y), corner, [int(v) for v in rng.integers(0, 256, 3)], -1)
    return picture


def _blurred(picture, sigma):
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def test_it_falls_with_blur():
    values = [cpbd(_shapes()), *(cpbd(_blurred(_shapes(), sigma)) for sigma in (0.6, 0.8, 1, 2, 3))]
    assert values[0] == 1.0
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0.0


@pytest.mark.shared
@pytest.mark.parametrize("name", ["wild/hdtf_512_a.mp4", "wild/vox_224.mp4", "grid_s1/bbaf2n.mpg"])
def test_it_falls_with_blur_of_a_real_frame(shared, name):
    frame = next(islice(iter(VideoReader(shared / "data" / "raw" / name)), 10, None)).image
    values = [cpbd(frame), *(cpbd(_blurred(frame, sigma)) for sigma in (0.7, 1, 2, 4))]
    assert 0.02 < values[0] < 0.9
    assert values == sorted(values, reverse=True)
    assert values[3] < values[0] / 5


def test_widths_are_those_of_a_walk_along_the_row():
    grey = cv2.cvtColor(_blurred(_shapes((48, 64), 3), 1.3), cv2.COLOR_BGR2GRAY)
    rows, columns, rising = sharpness._edges(grey)
    assert len(rows) > 20
    assert rising.any()
    assert not rising.all()
    expected = []
    for row, column, up in zip(rows, columns, rising, strict=True):
        line = grey[row].astype(int) * (1 if up else -1)
        left = column
        while left > 0 and line[left - 1] < line[left]:
            left -= 1
        right = column
        while right < len(line) - 1 and line[right + 1] > line[right]:
            right += 1
        expected.append(max(1, column - left) + max(1, right - column))
    np.testing.assert_array_equal(sharpness._widths(grey, rows, columns, rising), expected)


@pytest.mark.parametrize(("contrast", "limit"), [(40, 5), (120, 3)])
def test_the_limit_depends_on_contrast(contrast, limit):
    """Ramps of a given width across a block: sharp up to the just noticeable width."""
    for width in range(2, 8):
        line = np.full(64, 100.0)
        line[20:] = 100 + contrast
        line[20 : 20 + width + 1] = np.linspace(100, 100 + contrast, width + 1)
        picture = np.repeat(np.tile(np.rint(line), (64, 1))[:, :, None], 3, axis=2).astype(np.uint8)
        value = cpbd(picture)
        assert value is not None
        assert (value > 0.5) == (width <= limit), width


def test_pictures_without_edges_have_no_sharpness():
    assert cpbd(np.full((64, 64, 3), 100, np.uint8)) is None


@pytest.mark.parametrize("size", [(16, 16), (50, 100), (97, 131)])
def test_any_size_from_sixteen_pixels(size):
    assert 0 <= cpbd(_shapes(size)) <= 1


def test_smaller_pictures_are_refused():
    with pytest.raises(ValueError, match="too small"):
        cpbd(_shapes((15, 40)))


def test_the_whole_picture_counts():
    """Also what is left beyond the last whole block of 64 pixels."""
    picture = np.full((64, 90, 3), 100, np.uint8)
    picture[:, 84:] = 200
    assert cpbd(picture) == 1.0
