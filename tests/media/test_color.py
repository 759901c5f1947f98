"""Colour conversion against FFmpeg's own exact path."""

from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from lipsync.media.color import from_bgr, to_bgr


def noise(pix_fmt: str, matrix: int, extent: int) -> av.VideoFrame:
    """Smooth random picture in the given format."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(40, 200, (6, 8, 3), dtype=np.uint8), 8, axis=0), 8, axis=1)
    frame = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(image, "bgr24"),
        format=pix_fmt,
        dst_colorspace={1: 1, 6: 5, 9: 9, 2: 5}[matrix],
        dst_color_range=extent or 1,
        interpolation=0x4 | 0x40000,
    )
    frame.colorspace, frame.color_range = matrix, extent
    return frame


@pytest.mark.parametrize("extent", [0, 1, 2])
@pytest.mark.parametrize("matrix", [1, 2, 6, 9])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p", "yuv420p10le", "nv12"])
def test_matrix_and_range(pix_fmt, matrix, extent):
    frame = noise(pix_fmt, matrix, extent)
    image = to_bgr(frame, VideoReformatter())
    rng = np.random.default_rng(0)
    original = rng.integers(40, 200, (6, 8, 3), dtype=np.uint8)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    # block centres: chroma is not subsampled across them
    np.testing.assert_allclose(image[4::8, 4::8].astype(int), original, atol=5)


@pytest.mark.parametrize("width", [50, 64, 65])
def test_padded_rows_and_odd_sizes(width):
    ramp = np.tile(np.arange(width, dtype=np.uint8)[None, :, None] * 3, (33, 1, 3))
    frame = from_bgr(ramp, "yuv420p", VideoReformatter())
    np.testing.assert_allclose(to_bgr(frame, VideoReformatter()).astype(int), ramp, atol=2)


def test_grey_ramp_has_no_bias():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (16, 1, 3))
    back = to_bgr(from_bgr(ramp, "yuv420p", VideoReformatter()), VideoReformatter())
    difference = back.astype(int) - ramp
    assert np.abs(difference).max() <= 1
    assert np.abs(difference.mean()) < 0.1
