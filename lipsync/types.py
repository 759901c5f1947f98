"""Value types shared by every layer.

Conventions, once and for all:
    images    ``(H, W, 3)`` uint8, BGR
    tensors   ``(B, C, H, W)`` or ``(B, C, T, H, W)``, float in [0, 1], BGR
    boxes     pixels ``x1, y1, x2, y2``, half-open (``x2`` and ``y2`` lie outside)
    fps       :class:`fractions.Fraction`, for instance ``Fraction(30000, 1001)``
    times     seconds
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[np.uint8]
"""``(H, W, 3)`` uint8 BGR."""

Waveform: TypeAlias = npt.NDArray[np.float32]
"""``(N,)`` mono in [-1, 1] at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned rectangle in pixels, half-open; coordinates may be fractional."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Horizontal extent in pixels, never negative."""
        return max(0.0, self.x2 - self.x1)

    @property
    def height(self) -> float:
        """Vertical extent in pixels, never negative."""
        return max(0.0, self.y2 - self.y1)

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    @property
    def center(self) -> tuple[float, float]:
        """Centre ``(x, y)`` in pixels."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    def iou(self, other: Box) -> float:
        """Intersection over union, without the "+1 pixel" convention; 0 for empty boxes."""
        overlap = Box(
            max(self.x1, other.x1), max(self.y1, other.y1), min(self.x2, other.x2), min(self.y2, other.y2)
        ).area
        union = self.area + other.area - overlap
        return overlap / union if union > 0 else 0.0

    def padded(self, top: float, bottom: float, left: float, right: float) -> Box:
        """The box grown by ``top, bottom, left, right`` pixels (the order of ``--pads``)."""
        return Box(self.x1 - left, self.y1 - top, self.x2 + right, self.y2 + bottom)

    def clipped(self, width: int, height: int) -> Box:
        """The part of the box inside an image of ``width`` x ``height``; may be empty."""

        def clip(value: float, upper: int) -> float:
            return min(max(value, 0.0), float(upper))

        return Box(clip(self.x1, width), clip(self.y1, height), clip(self.x2, width), clip(self.y2, height))

    def scaled(self, factor: float) -> Box:
        """Every coordinate multiplied by ``factor``."""
        return Box(self.x1 * factor, self.y1 * factor, self.x2 * factor, self.y2 * factor)

    def rounded(self) -> tuple[int, int, int, int]:
        """``(x1, y1, x2, y2)`` rounded to the nearest pixel (half up), for slicing."""
        return (
            int(np.floor(self.x1 + 0.5)),
            int(np.floor(self.y1 + 0.5)),
            int(np.floor(self.x2 + 0.5)),
            int(np.floor(self.y2 + 0.5)),
        )

    def lerp(self, other: Box, weight: float) -> Box:
        """Linear interpolation: ``self`` at weight 0, ``other`` at weight 1."""
        return Box(
            self.x1 + (other.x1 - self.x1) * weight,
            self.y1 + (other.y1 - self.y1) * weight,
            self.x2 + (other.x2 - self.x2) * weight,
            self.y2 + (other.y2 - self.y2) * weight,
        )


@dataclass(frozen=True, slots=True)
class Face:
    """One detected face."""

    box: Box
    score: float
    landmarks: npt.NDArray[np.float32] | None = None
    """``(5, 2)`` pixels: eyes (image left, image right), nose tip, mouth corners (left, right)."""


class Color(NamedTuple):
    """How a stream codes its colours, in FFmpeg's numbers (ITU-T H.273); 2 and 0 stand for "not stated"."""

    matrix: int = 1
    """1 BT.709, 5 and 6 BT.601, 9 BT.2020; 0 is RGB."""
    range: int = 1
    """1 limited (luma 16 to 235), 2 full."""
    primaries: int = 1
    transfer: int = 1


BT709 = Color()
"""High definition, limited range."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file holds, as it will be decoded (rotation metadata applied)."""

    path: Path
    width: int
    height: int
    fps: Fraction
    duration: float
    """Seconds of the video stream; 0.0 where the container does not say."""
    frame_count: int
    """As the container states or as ``duration * fps`` estimates; the decoder has the last word."""
    rotation: int
    """Clockwise degrees (0, 90, 180, 270) that the reader applies to show the picture upright."""
    has_audio: bool
    color: Color = BT709
    """Of the stored pictures."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame."""

    index: int
    time: float
    """Seconds since the start of the video stream."""
    image: Image
    source: Path | None = None
    """The file it comes from; lets an annotation-based detector find its boxes."""


@dataclass(frozen=True, slots=True)
class FaceFrame:
    """A frame and the face followed in it; ``face`` is None where there is none."""

    frame: Frame
    face: Face | None
    region: Box | None = None
    """What of the frame is to be repainted, pads included; None: the face's box."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A frame and the synthesised picture of its face region (None: the frame passes through)."""

    frame: Frame
    box: Box | None = None
    """Region of the frame, whole pixels inside the image, that ``image`` stands for."""
    image: Image | None = None
    """Square network output, to be resized to ``box``."""
    face: Face | None = None
    """The face that ``box`` was taken from."""
    strength: float = 1.0
    """How much of ``image`` is to show, 0 (the frame passes through) to 1."""


@dataclass(frozen=True, slots=True)
class Composite:
    """A frame whose face region was repainted, and what it was before."""

    frame: Frame
    """The finished picture; where ``face`` is None, the source's."""
    source: Image
    """The picture before."""
    face: Face | None = None
    """Whose region was repainted; None where the frame passed through."""
    box: Box | None = None
    """The repainted region, whole pixels inside the image."""
    mask: npt.NDArray[np.float32] | None = None
    """``(h, w, 1)`` weight of the new picture inside ``box``, in [0, 1]; None means 1 everywhere."""
