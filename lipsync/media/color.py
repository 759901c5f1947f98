"""Between the colours of video streams (Y'CbCr) and BGR; the only file that knows matrices and ranges.

The quick paths of FFmpeg's swscale truncate: a picture read and written once comes out up to 2.5 grey
levels darker. Both directions here round, so the mean does not move.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from lipsync.types import Image

if TYPE_CHECKING:
    from av.video.plane import VideoPlane
    from av.video.reformatter import VideoReformatter

BT709 = 1
"""FFmpeg's code of BT.709 for matrix, primaries and transfer curve alike."""
LIMITED_RANGE = 1
"""FFmpeg's code of luma 16 to 235 (MPEG range)."""

_PLANAR = frozenset({"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"})
_FULL_RANGE = 2
_BT601 = (0.299, 0.114)
_LUMA = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Weights of red and blue in luma by FFmpeg's matrix code: BT.709 and BT.2020; all others are BT.601."""
# swscale flags: BILINEAR or BICUBIC, FULL_CHR_H_INT, ACCURATE_RND
_ROUNDED_TO_BGR = 0x2 | 0x2000 | 0x40000
_ROUNDED_FROM_BGR = 0x4 | 0x40000


def to_bgr(frame: VideoFrame, converter: VideoReformatter) -> Image:
    """Convert by the matrix and range that the frame states; BT.601 where it states none, as OpenCV does.

    Args:
        frame: Decoded frame of any pixel format.
        converter: Kept by the caller between frames; used for formats other than planar 8-bit Y'CbCr.

    Returns:
        ``(H, W, 3)`` uint8 BGR.
    """
    matrix, extent = int(frame.colorspace), int(frame.color_range)
    if frame.format.name in _PLANAR:
        size = (frame.width, frame.height)
        full = extent == _FULL_RANGE or frame.format.name.startswith("yuvj")
        planes = [
            plane if plane.shape == size[::-1] else cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
            for plane in (_samples(plane) for plane in frame.planes)
        ]
        return cv2.transform(cv2.merge(planes), _matrix(matrix, full)).astype(np.uint8, copy=False)
    converted = converter.reformat(
        frame,
        format="bgr24",
        interpolation=_ROUNDED_TO_BGR,
        src_colorspace=None if matrix in _LUMA else Colorspace.ITU601,
        src_color_range=extent or None,
        dst_color_range=ColorRange.JPEG,
    )
    return converted.to_ndarray().astype(np.uint8, copy=False)


def from_bgr(image: Image, pix_fmt: str, converter: VideoReformatter) -> VideoFrame:
    """Convert ``(H, W, 3)`` uint8 BGR to ``pix_fmt`` in BT.709, limited range."""
    return converter.reformat(
        VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24"),
        format=pix_fmt,
        interpolation=_ROUNDED_FROM_BGR,
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )


def _samples(plane: VideoPlane) -> npt.NDArray[np.uint8]:
    rows = np.frombuffer(cast("bytes", plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


@lru_cache(maxsize=16)
def _matrix(code: int, full: bool) -> npt.NDArray[np.float32]:
    """``(3, 4)``: BGR = M [Y' Cb Cr 1] in 8-bit code values (ITU-R BT.601, BT.709, BT.2020)."""
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
    result: npt.NDArray[np.float32] = np.hstack([linear, offset[:, None]]).astype(np.float32)
    return result
