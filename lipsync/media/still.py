"""Still images: read with care, and shown as a video."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lipsync.errors import MediaError
from lipsync.media.probe import MOST_PIXELS, reason
from lipsync.media.reader import Transform
from lipsync.types import Frame, Image, VideoInfo

_HEADER = 1 << 20


class StillReader:
    """A still image as a video of constant rate.

    Args:
        path: Image file.
        fps: Frame rate.
        count: Number of frames; None: endless.
        transform: Applied to the image once.

    Raises:
        MediaError: The file is missing or not an image.
    """

    def __init__(
        self, path: str | Path, fps: Fraction, count: int | None = None, transform: Transform | None = None
    ) -> None:
        if fps <= 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.path = Path(path)
        self.fps = fps
        self.count = count
        image = read_image(self.path)
        self.image = image if transform is None else transform(image)

    @property
    def info(self) -> VideoInfo:
        """Size and rate; ``frame_count`` and ``duration`` are 0 for an endless reader."""
        count = self.count or 0
        height, width = self.image.shape[:2]
        return VideoInfo(self.path, width, height, self.fps, float(count / self.fps), count, 0, False)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while self.count is None or index < self.count:
            yield Frame(index, float(index / self.fps), self.image, self.path)
            index += 1


def read_image(path: str | Path) -> Image:
    """Decode an image file to BGR uint8, turned upright by its EXIF tag; any file name works.

    Raises:
        MediaError: The file is missing or not an image.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"{path}: no such image file")
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise MediaError(f"{path}: reading failed ({reason(error)})") from error
    width, height = _stated_size(data[:_HEADER].tobytes())
    if width * height > MOST_PIXELS:
        raise MediaError(
            f"{path}: states a picture of {width}x{height} pixels; make it smaller if that is so"
        )
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # a size in the header that OpenCV refuses or cannot allocate
        image = None
    if image is None:
        raise MediaError(f"{path}: cannot be decoded as an image; it may be empty, damaged or another kind")
    return image.astype(np.uint8, copy=False)


def _stated_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a PNG, BMP or JPEG; (0, 0) for kinds that OpenCV limits enough."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return abs(width), abs(height)
    at = 2
    while data.startswith(b"\xff\xd8") and at + 9 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return 0, 0
