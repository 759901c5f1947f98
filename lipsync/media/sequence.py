"""A folder of numbered pictures as a video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lipsync.errors import MediaError
from lipsync.media.probe import VIDEO_SUFFIXES, is_image
from lipsync.media.reader import Transform
from lipsync.media.still import read_image
from lipsync.types import Frame, Image, VideoInfo

_NUMBER = re.compile(r"([0-9]+)")
_KINDS = {".jpeg": ".jpg", ".tiff": ".tif"}
_Key = tuple[tuple[int, int, str], ...]


class SequenceReader:
    """The pictures of a folder, in natural order of their names, as a video of constant rate.

    "Natural" compares numbers by value (``frame2`` before ``frame10``) and letters regardless of case; gaps
    in the numbers mean nothing. Hidden files and what is neither picture nor video (notes, sound) are passed
    over. All images have the size of the first picture that decodes, others are resized to it. A picture that
    is cut off or cannot be decoded is replaced by the one before (at the start by the first that can), so
    picture and sound stay in step; :attr:`corrupt_packets` counts them. A picture shown more than once is one
    shared array: do not write into it.

    Iterating reads the files anew, so a reader can be iterated any number of times.

    Args:
        folder: Folder of pictures, all of one sequence.
        fps: Frame rate.
        transform: Applied to each image; ``info`` has the new size.

    Raises:
        MediaError: The folder is missing or holds no picture, several kinds of them, or videos; none of the
            pictures decodes.
    """

    def __init__(self, folder: str | Path, fps: Fraction, transform: Transform | None = None) -> None:
        if fps <= 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.path = Path(folder)
        self.fps = fps
        self.transform = transform
        self.files = sequence_files(self.path)
        """The pictures in the order in which they are shown."""
        self.corrupt_packets = 0
        """Pictures that could not be decoded, in the latest complete iteration, or in one broken off since
        that met more of them."""
        self.missing_frames = 0
        """Always 0: a folder does not state how many pictures it should hold."""
        self._first = self._first_image()
        height, width = self._first.shape[:2]
        self._size = (width, height)

    @property
    def info(self) -> VideoInfo:
        """The folder as this reader yields it; no sound, size after ``transform``."""
        count = len(self.files)
        height, width = self._shown(self._first).shape[:2]
        return VideoInfo(self.path, width, height, self.fps, float(count / self.fps), count, 0, False)

    def __iter__(self) -> Iterator[Frame]:
        corrupt = 0
        image = self._shown(self._first)
        try:
            for index, file in enumerate(self.files):
                read = _readable(file)
                if read is None:
                    corrupt += 1
                else:
                    image = self._shown(read)
                yield Frame(index, float(index / self.fps), image, self.path)
            self.corrupt_packets = corrupt
        finally:
            self.corrupt_packets = max(self.corrupt_packets, corrupt)

    def backwards(self) -> Iterator[Frame]:
        """The frames of an iteration from the last to the first; leaves :attr:`corrupt_packets` as it is."""
        source = len(self.files)
        for index in reversed(range(len(self.files))):
            if index < source:
                source, image = self._latest(index)
            yield Frame(index, float(index / self.fps), image, self.path)

    def _latest(self, index: int) -> tuple[int, Image]:
        """Number and image of the last picture up to ``index`` that decodes; of the first where none does."""
        for number in range(index, -1, -1):
            read = _readable(self.files[number])
            if read is not None:
                return number, self._shown(read)
        return 0, self._shown(self._first)

    def _shown(self, image: Image) -> Image:
        if image.shape[:2] != self._size[::-1]:
            image = np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        return image if self.transform is None else self.transform(image)

    def _first_image(self) -> Image:
        for file in self.files:
            image = _readable(file)
            if image is not None:
                return image
        raise MediaError(
            f"{self.path}: none of its {len(self.files)} pictures can be decoded; they may be damaged"
        )


def sequence_files(folder: str | Path) -> list[Path]:
    """The pictures of a folder in natural order.

    Raises:
        MediaError: The folder is missing, unreadable, holds no picture, several kinds of them, or videos.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder of pictures")
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    except OSError as error:
        raise MediaError(f"{folder}: cannot be read ({error.strerror})") from error
    files.sort(key=lambda path: (natural(path.stem), path.name))
    videos = [path.name for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        raise MediaError(f"{folder}: holds videos such as {videos[0]}; give one of them, or move them away")
    pictures = [path for path in files if is_image(path)]
    kinds = {_KINDS.get(path.suffix.lower(), path.suffix.lower()): path.name for path in pictures}
    if len(kinds) > 1:
        raise MediaError(
            f"{folder}: holds pictures of several kinds ({', '.join(kinds.values())}); leave one kind"
        )
    if not pictures:
        raise MediaError(f"{folder}: holds no picture; put frame0001.png and so on (or .jpg, .bmp ...) there")
    return pictures


def natural(name: str) -> _Key:
    """Sort key that compares runs of digits by value and letters regardless of case."""
    parts = _NUMBER.split(name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part.casefold()) for part in parts)


def _readable(file: Path) -> Image | None:
    """The picture, None where it is damaged or was taken away; the caller counts."""
    try:
        return None if _cut_off(file.read_bytes()) else read_image(file)
    except (MediaError, OSError):
        return None


def _cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG ends early; OpenCV would show its lower part grey."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    at = 2
    while data.startswith(b"\xff\xd8") and at + 4 <= len(data):
        if data[at : at + 2] == b"\xff\xda":  # the picture itself, in which the end marker cannot occur
            return data.find(b"\xff\xd9", at) < 0
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
