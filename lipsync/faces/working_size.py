"""The size at which a detector works, and the way back to the frame's own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from lipsync.checks import is_whole
from lipsync.errors import ConfigError
from lipsync.types import Box, Face, Image

_Side = TypeVar("_Side", int, int | None)


@dataclass(frozen=True, slots=True)
class WorkingImage:
    """A shrunk, framed copy of a frame.

    ``image = resize(frame, scale)`` with ``border`` black pixels added on every side.
    """

    image: Image
    scale: float
    border: int

    def to_image(self, face: Face) -> Face:
        """The face, given in the pixels of the original frame, in those of ``image``; without landmarks."""
        box = face.box.scaled(self.scale)
        shifted = Box(box.x1 + self.border, box.y1 + self.border, box.x2 + self.border, box.y2 + self.border)
        return Face(shifted, face.score)

    def to_frame(self, face: Face) -> Face:
        """The face in the pixels of the original frame."""
        box = face.box
        shifted = Box(
            box.x1 - self.border, box.y1 - self.border, box.x2 - self.border, box.y2 - self.border
        ).scaled(1 / self.scale)
        points = face.landmarks
        if points is not None:
            points = ((points - self.border) / self.scale).astype(np.float32)
        return Face(shifted, face.score, points)


def checked_side(max_side: _Side) -> _Side:
    """The longest side that a detector was told to work at, None for any.

    Raises:
        ConfigError: It is no whole number of 1 or more.
    """
    if max_side is not None and not is_whole(max_side, 1):
        raise ConfigError(f"detector max_side={max_side}: give a whole number of pixels, for instance 640")
    return max_side


def working_image(image: Image, max_side: int | None, border: float = 0.0) -> WorkingImage:
    """Shrink ``image`` so that its longer side is at most ``max_side`` and add a black border.

    Args:
        image: ``(H, W, 3)`` uint8.
        max_side: Longest side in pixels before the border is added; None keeps the size. Never enlarges.
        border: Width of the border as a fraction of the shorter side after shrinking. A detector trained
            on faces with surroundings misses a face that fills the picture; the border gives it some.
    """
    height, width = image.shape[:2]
    longest = max(height, width)
    scale = 1.0 if max_side is None else min(1.0, max_side / longest)
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    pixels = round(border * min(image.shape[:2]))
    if pixels:
        image = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
    return WorkingImage(image, scale, pixels)
