"""Between the colours of video streams (Y'CbCr) and BGR; the only file that knows matrices and ranges.

The quick paths of FFmpeg's swscale truncate: a picture read and written once comes out up to 2.5 grey
levels darker. Both directions here round, so the mean does not move; the 8-bit formats go through OpenCV's
fixed-point transform, which rounds too and takes a third of the time of swscale's exact path.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from lipsync.types import BT709, Color, Image

if TYPE_CHECKING:
    from av.video.plane import VideoPlane
    from av.video.reformatter import VideoReformatter

UNSTATED = 2
"""FFmpeg's code of a matrix, of primaries and of a transfer curve that are not stated."""
LIMITED_RANGE = 1
"""FFmpeg's code of luma 16 to 235 (MPEG range)."""
FULL_RANGE = 2
"""FFmpeg's code of luma 0 to 255 (JPEG range)."""
RGB = 0
"""FFmpeg's code of the matrix of pictures that are stored as red, green and blue."""

_PLANAR = frozenset({"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"})
_CODED = {"yuv420p": (2, 2), "nv12": (2, 2), "yuv422p": (2, 1), "yuv444p": (1, 1)}
"""Formats that :func:`from_bgr` writes without swscale, and how many pixels share a sample of chroma."""
_BT601 = (0.299, 0.114)
_LUMA = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""Weights of red and blue in luma by FFmpeg's matrix code: BT.709, FCC, SMPTE 240M, BT.2020; all others are
BT.601."""
_WRITABLE = frozenset({*_LUMA, UNSTATED, 5, 6})
# swscale flags: BILINEAR or BICUBIC, FULL_CHR_H_INT, ACCURATE_RND
_ROUNDED_TO_BGR = 0x2 | 0x2000 | 0x40000
_ROUNDED_FROM_BGR = 0x4 | 0x40000

_GREY = ("gray", "ya8", "ya16")
_EXPANDED = np.clip(np.round((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
"""Full range of each value of limited range."""

_Plane = npt.NDArray[np.uint8]


class _Scratch(threading.local):
    """Buffers between two steps: mapping fresh megabytes for every frame costs more than filling them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], _Plane] = {}

    def __call__(self, name: str, height: int, width: int, channels: int = 1) -> _Plane:
        """The buffer of that name, ``(height, width)`` or ``(height, width, channels)``."""
        shape = (height, width) if channels == 1 else (height, width, channels)
        kept = self._kept.get((name, channels))
        if kept is None or kept.shape != shape:
            kept = self._kept[name, channels] = np.empty(shape, np.uint8)
        return kept


_scratch = _Scratch()


def color_of(frame: VideoFrame) -> Color:
    """How a frame states that its colours are coded; a full-range pixel format says so by its name.

    PyAV before 17 does not tell primaries and transfer of a frame; they count as not stated.
    """
    full = frame.format.name.startswith("yuvj")
    return Color(
        int(frame.colorspace),
        FULL_RANGE if full else int(frame.color_range),
        int(getattr(frame, "color_primaries", UNSTATED)),
        int(getattr(frame, "color_trc", UNSTATED)),
    )


def stored_color(color: Color | None, rgb: bool = False) -> Color:
    """How to code pictures that come from a source coded as ``color``.

    Args:
        color: Of the source; None: unknown.
        rgb: The pictures are stored as red, green and blue.

    Returns:
        ``color`` itself where its matrix is one of Y'CbCr or is not stated (then this module reads and
        writes BT.601, and the file goes on stating none, so that a player shows it as it shows the source);
        BT.709 in limited range for others.
    """
    color = BT709 if color is None else color
    if rgb:
        return Color(RGB, FULL_RANGE, color.primaries, color.transfer)
    if color.matrix in _WRITABLE:
        return color
    return Color(BT709.matrix, BT709.range, color.primaries, color.transfer)


def to_bgr(frame: VideoFrame, converter: VideoReformatter) -> Image:
    """Convert by the matrix and range that the frame states; BT.601 where it states none, as OpenCV does.

    Args:
        frame: Decoded frame of any pixel format.
        converter: Kept by the caller between frames; used for formats other than planar 8-bit Y'CbCr.

    Returns:
        ``(H, W, 3)`` uint8 BGR. Grey counts as full range unless the frame states the limited one.
    """
    color = color_of(frame)
    if frame.format.name in _PLANAR:
        merged = cv2.merge(_upsampled(frame), _scratch("coded", frame.height, frame.width, 3))
        matrix = _to_bgr_matrix(color.matrix, color.range == FULL_RANGE)
        return cv2.transform(merged, matrix).astype(np.uint8, copy=False)
    converted = converter.reformat(
        frame,
        format="bgr24",
        interpolation=_ROUNDED_TO_BGR,
        src_colorspace=_swscale_matrix(color.matrix),
        src_color_range=color.range or None,
        dst_color_range=ColorRange.JPEG,
    )
    image: Image = converted.to_ndarray().astype(np.uint8, copy=False)
    if color.range == LIMITED_RANGE and frame.format.name.startswith(_GREY):  # swscale takes grey for full
        return cv2.LUT(image, _EXPANDED).astype(np.uint8, copy=False)
    return image


def from_bgr(image: Image, pix_fmt: str, converter: VideoReformatter, color: Color = BT709) -> VideoFrame:
    """Convert to ``pix_fmt`` by the matrix and range of ``color``, as :func:`to_bgr` reads them.

    Args:
        image: ``(H, W, 3)`` uint8 BGR.
        pix_fmt: A Y'CbCr format of FFmpeg.
        converter: Kept by the caller between frames; used for other formats than 8-bit ones.
        color: One that :func:`stored_color` returns.
    """
    height, width = image.shape[:2]
    full = color.range == FULL_RANGE
    across, down = _CODED.get(pix_fmt, (0, 0))
    if across and width % across == height % down == 0:
        return _coded(np.ascontiguousarray(image), pix_fmt, _from_bgr_matrix(color.matrix, full))
    return converter.reformat(
        VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24"),
        format=pix_fmt,
        interpolation=_ROUNDED_FROM_BGR,
        src_color_range=ColorRange.JPEG,
        dst_colorspace=_swscale_matrix(color.matrix),
        dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
    )


def _upsampled(frame: VideoFrame) -> list[_Plane]:
    """The three planes at the size of luma; chroma lies in the middle of its pixels."""
    size = (frame.width, frame.height)
    planes = []
    for name, plane in zip("ybr", frame.planes, strict=False):
        samples = _samples(plane)
        if samples.shape != size[::-1]:
            scaled = _scratch(name, frame.height, frame.width)
            samples = cast("_Plane", cv2.resize(samples, size, scaled, interpolation=cv2.INTER_LINEAR))
        planes.append(samples)
    return planes


def _coded(image: Image, pix_fmt: str, matrix: npt.NDArray[np.float32]) -> VideoFrame:
    """An 8-bit Y'CbCr frame; where chroma has fewer samples, it is that of the mean of two or four pixels.

    The mean rounds halves up. In B, G and R alike, that cancels in Cb and Cr, whose weights sum to 0.
    """
    height, width = image.shape[:2]
    frame = VideoFrame(width, height, pix_fmt)
    luma, *chroma = frame.planes
    coded = cv2.transform(image, matrix, _scratch("coded", height, width, 3))
    across, down = _CODED[pix_fmt]
    if (across, down) == (1, 1):
        cv2.split(coded, [_samples(plane) for plane in frame.planes])
        return frame
    # Taking all three apart is three times as fast as taking one out.
    cv2.split(coded, [_samples(luma), _scratch("b", height, width), _scratch("r", height, width)])
    rows, columns = height // down, width // across
    small = _scratch("small", rows, columns, 3)
    small = cast("_Plane", cv2.resize(image, (columns, rows), small, interpolation=cv2.INTER_AREA))
    coded = cv2.transform(small, matrix, _scratch("small coded", rows, columns, 3))
    if pix_fmt == "nv12":
        pairs = np.frombuffer(cast("bytes", chroma[0]), np.uint8).reshape(rows, -1)[:, :width]
        cv2.mixChannels([coded], [pairs.reshape(rows, columns, 2)], [1, 0, 2, 1])
    else:
        cv2.split(coded, [_scratch("small y", rows, columns), *(_samples(plane) for plane in chroma)])
    return frame


def _samples(plane: VideoPlane) -> _Plane:
    """The bytes of a plane as a view, ``(height, bytes in a row)``; writing to it writes to the frame."""
    rows = np.frombuffer(cast("bytes", plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _swscale_matrix(code: int) -> int:
    """Swscale's number of a matrix."""
    return {10: int(Colorspace.BT2020)}.get(code, code if code in _LUMA else int(Colorspace.ITU601))


@lru_cache(maxsize=16)
def _to_bgr_matrix(code: int, full: bool) -> npt.NDArray[np.float32]:
    """``(3, 4)``: BGR = M [Y' Cb Cr 1] in 8-bit code values (ITU-R BT.601, BT.709, BT.2020)."""
    middle = (127.5, 128, 128) if full else (125.5, 128, 128)
    return _fixed_point(_affine(code, full), middle)


@lru_cache(maxsize=16)
def _from_bgr_matrix(code: int, full: bool) -> npt.NDArray[np.float32]:
    """``(3, 4)``: [Y' Cb Cr] = M [B G R 1], the inverse of :func:`_to_bgr_matrix`."""
    forward = _affine(code, full)
    linear = np.linalg.inv(forward[:, :3])
    return _fixed_point(np.hstack([linear, -linear @ forward[:, 3:]]), (127.5, 127.5, 127.5))


def _fixed_point(matrix: npt.NDArray[np.float64], middle: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """The weights as OpenCV rounds them, to 1/1024, with offsets that keep the result at ``middle``."""
    weights = np.round(matrix[:, :3] * 1024) / 1024
    offset = matrix[:, 3] + (matrix[:, :3] - weights) @ np.array(middle)
    result: npt.NDArray[np.float32] = np.hstack([weights, offset[:, None]]).astype(np.float32)
    return result


def _affine(code: int, full: bool) -> npt.NDArray[np.float64]:
    """``(3, 4)`` from code values to BGR, exact."""
    red, blue = _LUMA.get(code, _BT601)
    green = 1 - red - blue
    black, luma, chroma = (0, 1.0, 1.0) if full else (16, 255 / 219, 255 / 224)
    linear = np.array(
        [
            [luma, 2 * (1 - blue) * chroma, 0],
            [luma, -2 * (1 - blue) * blue / green * chroma, -2 * (1 - red) * red / green * chroma],
            [luma, 0, 2 * (1 - red) * chroma],
        ]
    )
    offset = -linear @ np.array([black, 128, 128])
    result: npt.NDArray[np.float64] = np.hstack([linear, offset[:, None]])
    return result
