"""The frames that a run starts from: transformed as they are decoded, fitted to the length of the sound."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, Protocol, TypeAlias, cast

import cv2
import numpy as np

from lipsync.checks import is_whole
from lipsync.errors import ConfigError, MediaError
from lipsync.types import Frame, Image

Extend: TypeAlias = Literal["bounce", "loop", "freeze", "cut"]
"""What follows the last frame of a video: the way back, the first frame, the last for ever, nothing."""
EXTENDS: tuple[Extend, ...] = ("bounce", "loop", "freeze", "cut")
Remainder: TypeAlias = Literal["cut", "keep"]
"""What becomes of the video that is left when the sound has ended."""
REMAINDERS: tuple[Remainder, ...] = ("cut", "keep")


class Reversible(Protocol):
    """Frames that can be had in either direction."""

    def __iter__(self) -> Iterator[Frame]:
        """From the first frame on."""

    def backwards(self) -> Iterator[Frame]:
        """The same frames from the last to the first."""


@dataclass(frozen=True, slots=True)
class FrameTransform:
    """What happens to each decoded frame first: shrink, then rotate, then cut (the reference's order).

    Args:
        resize_factor: Both sides are divided by it, rounding down.
        rotate: Turn by 90 degrees clockwise.
        crop: ``top, bottom, left, right`` in pixels after shrinking and rotating; -1 for bottom or right
            means the border of the frame.

    Raises:
        ConfigError: ``resize_factor`` is below 1, or ``crop`` has other negative values; or they are no whole
            numbers.
    """

    resize_factor: int = 1
    rotate: bool = False
    crop: tuple[int, int, int, int] = (0, -1, 0, -1)

    def __post_init__(self) -> None:
        if not is_whole(self.resize_factor, 1):
            raise ConfigError(f"resize_factor={self.resize_factor}: give a whole number of 1 or more")
        if len(self.crop) != 4 or not all(map(is_whole, self.crop, (0, -1, 0, -1))):
            raise ConfigError(
                f"crop={list(self.crop)}: give [top,bottom,left,right] in whole pixels of 0 or more; -1 for "
                "bottom or right is the border of the frame"
            )

    def __call__(self, image: Image) -> Image:
        """The transformed image.

        Raises:
            ConfigError: Nothing of the image is left.
        """
        height, width = image.shape[:2]
        if self.resize_factor > 1:
            size = (width // self.resize_factor, height // self.resize_factor)
            if min(size) < 1:
                raise ConfigError(
                    f"resize_factor={self.resize_factor} leaves nothing of {width}x{height} pixels"
                )
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        if self.rotate:
            image = np.asarray(cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE), dtype=np.uint8)
        top, bottom, left, right = self.crop
        height, width = image.shape[:2]
        cut = image[top : height if bottom == -1 else bottom, left : width if right == -1 else right]
        if cut.size == 0:
            raise ConfigError(f"crop={list(self.crop)} leaves nothing of {width}x{height} pixels")
        return np.ascontiguousarray(cut)


def repeated(
    video: Iterable[Frame] | Reversible, count: int, extend: Extend, remainder: Remainder = "cut"
) -> Iterator[Frame]:
    """Frames numbered from 0: ``count`` of them, fewer where ``extend`` is ``cut`` and the video shorter.

    Nothing is kept: another pass decodes the video again. ``time`` stays that of the source frame, so it
    jumps where a loop begins, and runs backwards on the way back of ``bounce``, which shows the frame at
    either end once.

    Args:
        video: Frames in order; for ``bounce`` :class:`Reversible`.
        count: Frames wanted.
        extend: What follows where there are fewer.
        remainder: ``keep`` goes on to the end of the video where there are more.

    Raises:
        MediaError: The video holds no frame.
    """
    last: Frame | None = None
    number = 0
    for frame in video:
        if number >= count and remainder == "cut":
            return
        yield (last := replace(frame, index=number))
        number += 1
        if number == count and remainder == "cut":  # without decoding one more
            return
    if last is None:
        raise MediaError("the video holds no frame that can be decoded; convert it or give another one")
    if number >= count or extend == "cut":
        return
    again = _frozen(last) if extend == "freeze" or number == 1 else _passes(video, extend)
    with closing(again):
        for frame in islice(again, count - number):
            yield replace(frame, index=number)
            number += 1


def _frozen(frame: Frame) -> Generator[Frame, None, None]:
    while True:
        yield frame


def _passes(video: Iterable[Frame] | Reversible, extend: Extend) -> Generator[Frame, None, None]:
    """What follows the first pass over a video of several frames, endlessly."""
    while True:
        if extend == "bounce":
            yield from islice(cast("Reversible", video).backwards(), 1, None)
            yield from islice(video, 1, None)
        else:
            yield from video


def first_only(video: Iterable[Frame], count: int) -> Iterator[Frame]:
    """The first frame, ``count`` times, numbered from 0."""
    return repeated(islice(video, 1), count, "freeze")
