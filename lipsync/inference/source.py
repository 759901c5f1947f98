"""The frames that a run starts from: transformed as they are decoded, fitted to the length of the sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeAlias

import cv2
import numpy as np

from lipsync.errors import ConfigError, MediaError
from lipsync.types import Frame, Image

Extend: TypeAlias = Literal["loop", "freeze", "cut"]
"""What follows the last frame of a video: its first one, the last one for ever, nothing."""


@dataclass(frozen=True, slots=True)
class FrameTransform:
    """What happens to each decoded frame first: shrink, then rotate, then cut (the reference's order).

    Args:
        resize_factor: Both sides are divided by it, rounding down.
        rotate: Turn by 90 degrees clockwise.
        crop: ``top, bottom, left, right`` in pixels after shrinking and rotating; -1 for bottom or right
            means the border of the frame.
    """

    resize_factor: int = 1
    rotate: bool = False
    crop: tuple[int, int, int, int] = (0, -1, 0, -1)

    def __post_init__(self) -> None:
        if self.resize_factor < 1:
            raise ConfigError(f"resize_factor={self.resize_factor}: give 1 or more")

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


def repeated(video: Iterable[Frame], count: int, extend: Extend) -> Iterator[Frame]:
    """Frames numbered from 0: ``count`` of them, or fewer where ``extend`` is ``cut`` and the video shorter.

    Nothing is kept: looping decodes the video again. ``time`` stays that of the source frame, so it runs
    backwards where a pass begins.

    Raises:
        MediaError: The video holds no frame.
    """
    number = 0
    while True:
        begin = number
        for frame in video:
            yield (last := replace(frame, index=number))
            number += 1
            if number == count:
                return
        if number == begin:
            raise MediaError("the video holds no frame that can be decoded; convert it or give another one")
        if extend == "freeze":
            yield from (replace(last, index=index) for index in range(number, count))
        if extend != "loop":
            return


def first_only(video: Iterable[Frame], count: int) -> Iterator[Frame]:
    """The first frame, ``count`` times, numbered from 0."""
    return repeated(islice(video, 1), count, "freeze")
