"""Colour conversion against FFmpeg's own exact path."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from lipsync.media.color import color_of, from_bgr, stored_color, to_bgr
from lipsync.media.writer import VideoWriter
from lipsync.types import BT709, Color

BT601 = Color(6, 1, 6, 6)
UNSTATED = Color(2, 0, 2, 2)


def noise(pix_fmt: str, matrix: int, extent: int) -> av.VideoFrame:
    """Smooth random picture in the given format."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(40, 200, (6, 8, 3), dtype=np.uint8), 8, axis=0), 8, axis=1)
    frame = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(image, "bgr24"),
        format=pix_fmt,
        dst_colorspace={6: 5, 2: 5, 8: 5, 10: 9}.get(matrix, matrix),
        dst_color_range=extent or 1,
        interpolation=0x4 | 0x40000,
    )
    frame.colorspace, frame.color_range = matrix, extent
    return frame


@pytest.mark.parametrize("extent", [0, 1, 2])
@pytest.mark.parametrize("matrix", [1, 2, 4, 5, 6, 7, 8, 9, 10])
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


@pytest.mark.parametrize(("extent", "expected"), [(0, (0, 16, 100, 235, 255)), (1, (0, 0, 98, 255, 255))])
@pytest.mark.parametrize("pix_fmt", ["gray", "gray16le", "ya8"])
def test_grey_of_a_stated_range(pix_fmt, extent, expected):
    levels = np.repeat(np.array([[0, 16, 100, 235, 255]], np.uint8), 16, axis=1).repeat(8, axis=0)
    grey = av.VideoFrame.from_ndarray(levels, "gray")
    grey.color_range = 2
    frame = VideoReformatter().reformat(grey, format=pix_fmt)
    frame.color_range = extent
    image = to_bgr(frame, VideoReformatter())
    np.testing.assert_allclose(image[4, 8::16].astype(int), np.array(expected)[:, None].repeat(3, 1), atol=1)


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


def colourful(width: int = 128, height: int = 96) -> np.ndarray:
    """Smooth and saturated, within what every matrix can hold."""
    rng = np.random.default_rng(1)
    return cv2.resize(rng.integers(60, 190, (6, 8, 3), dtype=np.uint8), (width, height))


def exact(image: np.ndarray, color: Color) -> np.ndarray:
    """Y'CbCr of ITU-R BT.601, BT.709 and BT.2020 in code values, not rounded."""
    red, blue = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(color.matrix, (0.299, 0.114))
    b, g, r = np.moveaxis(image / 255, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    luma, chroma, black = (255, 255, 0) if color.range == 2 else (219, 224, 16)
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    return np.stack([black + luma * y, 128 + chroma * cb, 128 + chroma * cr], axis=-1)


def plane(frame: av.VideoFrame, index: int) -> np.ndarray:
    found = frame.planes[index]
    rows = np.frombuffer(found, np.uint8).reshape(-1, found.line_size)
    return rows[: found.height, : found.width].astype(float)


@pytest.mark.parametrize("extent", [1, 2])
@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
def test_the_quick_path_rounds_without_bias(matrix, extent):
    color, image = Color(matrix, extent), colourful()
    frame = from_bgr(image, "yuv420p", VideoReformatter(), color)
    expected = exact(image, color)
    small = expected.reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))
    for index, wanted in enumerate((expected[..., 0], small[..., 1], small[..., 2])):
        error = plane(frame, index) - wanted
        assert np.abs(error).max() < 1
        assert abs(error.mean()) < 0.03
    frame.colorspace, frame.color_range = matrix, extent
    back = to_bgr(frame, VideoReformatter())
    assert np.abs((back.astype(int) - image).mean(axis=(0, 1))).max() < 0.25


@pytest.mark.parametrize("width", [50, 128])  # rows with and without padding
@pytest.mark.parametrize("color", [BT709, BT601, Color(1, 2), Color(9, 1)])
def test_interleaved_chroma_is_the_same(color, width):
    image, converter = colourful(width), VideoReformatter()
    planar, pairs = (from_bgr(image, name, converter, color) for name in ("yuv420p", "nv12"))
    chroma = np.frombuffer(pairs.planes[1], np.uint8).reshape(48, -1)[:, :width].reshape(48, -1, 2)
    np.testing.assert_array_equal(plane(pairs, 0), plane(planar, 0))
    for index in (0, 1):
        np.testing.assert_array_equal(chroma[..., index], plane(planar, index + 1))


@pytest.mark.parametrize("color", [BT709, BT601, Color(1, 2), Color(9, 1), UNSTATED])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p", "yuv420p10le"])
def test_both_paths_follow_the_color(pix_fmt, color):
    frame = from_bgr(colourful(), pix_fmt, VideoReformatter(), color)
    frame.colorspace, frame.color_range = color.matrix, color.range
    difference = to_bgr(frame, VideoReformatter()).astype(int) - colourful()
    assert np.abs(difference.mean(axis=(0, 1))).max() < (0.5 if "10" in pix_fmt else 0.3)
    assert np.abs(difference).mean() < 1


def test_pictures_do_not_share_memory():
    converter = VideoReformatter()
    first = from_bgr(colourful(), "yuv420p", converter)
    shown = to_bgr(first, converter)
    kept, samples = shown.copy(), plane(first, 0)
    to_bgr(from_bgr(255 - colourful(), "yuv420p", converter), converter)
    np.testing.assert_array_equal(shown, kept)
    np.testing.assert_array_equal(plane(first, 0), samples)


def source(path: Path, color: Color, pix_fmt: str = "yuv420p") -> Path:
    """A file of the given colours, written with PyAV alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_range = color.matrix, color.range
        context.color_primaries, context.color_trc = color.primaries, color.transfer
        for index in range(3):
            frame = VideoReformatter().reformat(
                av.VideoFrame.from_ndarray(colourful(), "bgr24"),
                format=pix_fmt,
                interpolation=0x4 | 0x40000,
                dst_colorspace=color.matrix if color.matrix in (1, 9) else 5,
                dst_color_range=color.range or 1,
            )
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> tuple[np.ndarray, Color, str]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return to_bgr(frame, VideoReformatter()), color_of(frame), frame.format.name


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("color", "pix_fmt"),
    [
        (BT709, "yuv420p"),
        (BT601, "yuv420p"),
        (Color(5, 1, 5, 6), "yuv420p"),
        (Color(6, 2, 1, 13), "yuvj420p"),
        (Color(1, 2, 1, 1), "yuv420p"),
        (Color(9, 1, 9, 14), "yuv420p"),
        (Color(9, 1, 9, 16), "yuv420p10le"),
        (UNSTATED, "yuv420p"),
        (Color(2, 2, 2, 2), "yuvj420p"),
    ],
)
def test_a_source_keeps_its_colours_and_tags(tmp_path, color, pix_fmt, suffix):
    image, found, _ = decoded(source(tmp_path / f"in{suffix}", color, pix_fmt))
    assert np.abs(image.astype(int) - colourful()).mean() < 1.5
    if hasattr(av.VideoFrame, "color_primaries"):
        assert found == color
    with VideoWriter(tmp_path / f"out{suffix}", 128, 96, Fraction(25), color=found, crf=4) as writer:
        for _ in range(3):
            writer.write(image)
    again, tags, stored = decoded(writer.path)
    assert tags == found
    assert stored == ("yuvj420p" if color.range == 2 else "yuv420p")
    assert np.abs(again.astype(int) - image).mean() < (0.75 if "10" in pix_fmt else 0.5)
    assert np.abs((again.astype(int) - image).mean(axis=(0, 1))).max() < 0.2


@pytest.mark.parametrize("color", [Color(0, 2, 1, 13), Color(8, 1, 1, 1), Color(14, 0, 9, 16)])
def test_other_matrices_become_bt709(tmp_path, color):
    assert stored_color(color) == Color(1, 1, color.primaries, color.transfer)
    assert stored_color(None) == BT709
    with VideoWriter(tmp_path / "out.mp4", 128, 96, Fraction(25), color=color, crf=4) as writer:
        writer.write(colourful())
    image, found, _ = decoded(writer.path)
    assert (found.matrix, found.range) == (1, 1)
    assert np.abs(image.astype(int) - colourful()).mean() < 1


def test_pictures_stored_as_rgb_say_so(tmp_path):
    options = {"codec": "libx264rgb", "pix_fmt": "bgr0", "crf": 0, "preset": "ultrafast"}
    with VideoWriter(tmp_path / "out.mp4", 128, 96, Fraction(25), color=BT601, **options) as writer:
        writer.write(colourful())
    image, found, _ = decoded(writer.path)
    assert (found.matrix, found.range) == (0, 2)
    np.testing.assert_array_equal(image, colourful())
