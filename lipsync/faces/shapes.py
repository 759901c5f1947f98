"""Masks that follow the face: by its landmarks, or by what a parser says of each pixel.

The plain mask of :mod:`lipsync.faces.masks` is drawn on the box. These keep the patch off what lies in the
box but is not the lower face: background beside the cheeks, collars, and with a parser hands and hair.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.checks import need_numbers
from lipsync.errors import ConfigError
from lipsync.faces.align import FFHQ_SIZE, FFHQ_TEMPLATE, Matrix, similarity, warp
from lipsync.faces.landmarks import POINTS
from lipsync.faces.masks import Mask, RunningMean, bounds_mask, box_size, smooth_step
from lipsync.faces.parsing import FACE, Region
from lipsync.types import Box, Image, Patch

Floats: TypeAlias = npt.NDArray[np.float32]

JAW = slice(3, 30)
"""Of WFLW's contour (0 to 32, from ear to ear by the chin), the part below the ears."""
NOSE_RIDGE = 52
"""Halfway down the nose: the shape's upper edge runs there from both ends of the jaw."""

_TOP_FADE, _BORDER_FADE = 0.15, 0.06
"""Lengths of the fades below ``top`` and towards the border of the box, as fractions of its sides."""
_GRID = 192
"""Most pixels a side that a shape is drawn with: it has no finer detail than its soft edge."""
_AROUND = 1.9
"""Side of what a parser is shown without landmarks, in longer sides of the face box: about FFHQ's layout."""
_UNSURE, _SURE = 0.4, 0.65
"""Probabilities from which a pixel counts a little, and fully. BiSeNet gives plain skin of 0.75 and more, and
hair and background up to 0.3."""


class PointFinder(Protocol):
    """For instance :class:`lipsync.faces.landmarks.LandmarkNet`."""

    def points(self, image: Image, box: Box) -> Floats:
        """``(98, 2)`` of WFLW in pixels of the image."""


class Parser(Protocol):
    """For instance :class:`lipsync.faces.parsing.FaceParser`."""

    def probabilities(self, crops: Image, regions: Collection[Region]) -> Floats:
        """``(N, S, S, 3)`` uint8 BGR to ``(N, S, S)``: how likely each pixel is of one of the classes."""


class LandmarkMask:
    """The lower face along the jaw, from the middle of the nose to the chin.

    The points are those of the source's face, averaged over time relative to the box. Where the new mouth is
    open wider than the source's was, the new chin lies lower: ``grow`` leaves it room.

    Args:
        landmarks: Finds the 98 points of WFLW.
        top: As :class:`lipsync.faces.masks.LowerFace`.
        feather: Length of the fade inwards from the shape's edge, as a fraction of the box's height.
        grow: How far the edge lies outside the jaw, as a fraction of the box's height.
        memory: Frames that the average over time goes back; 1 looks at each frame alone.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        landmarks: PointFinder,
        top: float = 0.5,
        feather: float = 0.12,
        grow: float = 0.05,
        memory: float = 3,
    ) -> None:
        _check(top, feather, memory)
        self.top = top
        need_numbers("mask", grow=grow)
        if not 0 <= grow <= 0.5:
            raise ConfigError(f"mask grow={grow}: give 0 to 0.5")
        self.landmarks = landmarks
        self.feather = feather
        self.grow = grow
        self._mean = RunningMean(memory)

    def __call__(self, patch: Patch) -> Mask:
        """The mask of the face in ``patch.frame``, as large as ``patch.box``."""
        height, width = box_size(patch)
        face = _face_box(patch)
        origin, size = np.array([face.x1, face.y1]), np.array([face.width, face.height])
        points = self.landmarks.points(patch.frame.image, face)
        if points.shape != (POINTS, 2):
            raise ValueError(f"need the {POINTS} points of WFLW, got {points.shape}")
        points = self._mean(patch, ((points - origin) / size).astype(np.float32)) * size + origin
        scale = min(1.0, _GRID / max(height, width))
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        place = Box(0, 0, 0, 0) if patch.box is None else patch.box
        outline = np.concatenate([points[JAW], points[NOSE_RIDGE][None]]) - [place.x1, place.y1]
        distance = _depth(outline * [shape[1] / width, shape[0] / height], shape)
        weight = smooth_step((distance + self.grow * shape[0]) / (self.feather * shape[0]))
        return _bounded(weight, patch, self.top)


class ParsedMask:
    """The lower face as a parser sees it: skin, nose, mouth, lips and the neck below the chin.

    What the parser takes for something else (hair, collar, a hand, a microphone) keeps the source's pixels.

    Args:
        parser: Finds the classes.
        top: As :class:`lipsync.faces.masks.LowerFace`.
        feather: Length of the fade inwards from the shape's edge, as a fraction of the box's height.
        regions: Classes that may be painted over, by name; None for those named above.
        memory: Frames that the average over time goes back; 1 looks at each frame alone. A hand that moves
            fast leaves a trace of about as many frames.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        parser: Parser,
        top: float = 0.5,
        feather: float = 0.08,
        regions: Collection[str] | None = None,
        memory: float = 2,
    ) -> None:
        _check(top, feather, memory)
        self.top = top
        self.parser = parser
        self.feather = feather
        self.regions = FACE | {Region.NECK} if regions is None else _regions(regions)
        self._mean = RunningMean(memory)

    def __call__(self, patch: Patch) -> Mask:
        """The mask of the face in ``patch.frame``, as large as ``patch.box``."""
        matrix = _upright(patch)
        crops = warp(patch.frame.image, matrix, FFHQ_SIZE)[None]
        found = np.asarray(self.parser.probabilities(crops, self.regions)[0], np.float32)
        height, width = box_size(patch)
        scale = min(1.0, _GRID / max(height, width))
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        inside = self._mean(patch, _in_box(found, matrix, patch, _GRID))
        inside = np.asarray(cv2.resize(inside, shape[::-1], interpolation=cv2.INTER_AREA), np.float32)
        inside = smooth_step((inside - _UNSURE) / (_SURE - _UNSURE))
        deviation = max(self.feather * shape[0] / 2, 0.1)
        soft = np.asarray(cv2.GaussianBlur(inside, (0, 0), deviation), np.float32)
        # Both: where the surroundings are mostly something else, and on a small thing inside the face.
        weight = np.minimum(smooth_step(2 * soft - 1), inside)
        return _bounded(weight, patch, self.top)


def _face_box(patch: Patch) -> Box:
    """The face's own box where known: unlike the patch's it is not cut off at the frame's border."""
    box = patch.box if patch.face is None else patch.face.box
    if box is None:
        raise ValueError("a patch without a box has no mask")
    return box


def _upright(patch: Patch) -> Matrix:
    """From the frame to what the parser is shown: laid out like FFHQ by landmarks, else around the box."""
    if patch.face is not None and patch.face.landmarks is not None:
        return similarity(patch.face.landmarks, FFHQ_TEMPLATE)
    face = _face_box(patch)
    factor = FFHQ_SIZE / (max(face.width, face.height) * _AROUND)
    shift = (FFHQ_SIZE - 1) / 2 - factor * (np.array(face.center) - 0.5)
    return np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])


def _regions(names: Collection[str]) -> frozenset[Region]:
    known = {str(region): region for region in Region}
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise ConfigError(f"mask regions={list(names)}: give some of {', '.join(known)}")
    return frozenset(known[name] for name in names)


def _depth(outline: npt.NDArray[np.floating], shape: tuple[int, int]) -> Floats:
    """``shape``: distance in pixels to the outline of a polygon, positive inside, negative outside."""
    filled = np.zeros(shape, np.uint8)
    # Three more bits of precision: whole pixels would make the shape tremble.
    cv2.fillPoly(filled, [np.rint((outline - 0.5) * 8).astype(np.int32)], 1, shift=3)
    inner = cv2.distanceTransform(filled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if not filled.any():
        return np.full(shape, -np.inf, np.float32)
    outer = cv2.distanceTransform(1 - filled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(inner - outer, np.float32)


def _in_box(found: Floats, matrix: Matrix, patch: Patch, side: int) -> Floats:
    """``(side, side)``: what was found in the upright picture, on a grid over the patch's box."""
    height, width = box_size(patch)
    place = Box(0, 0, 0, 0) if patch.box is None else patch.box
    step = np.array([width, height]) / side
    # Middle of grid pixel i -> frame -> upright picture.
    to_frame = np.array(
        [[step[0], 0, place.x1 + step[0] / 2 - 0.5], [0, step[1], place.y1 + step[1] / 2 - 0.5]]
    )
    forward = matrix[:, :2] @ to_frame
    forward[:, 2] += matrix[:, 2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(found, forward, (side, side), flags=flags), np.float32)


def _bounded(weight: Floats, patch: Patch, top: float) -> Mask:
    """The weight, enlarged to the box, 0 above ``top`` and on the border."""
    height, width = box_size(patch)
    if weight.shape != (height, width):
        weight = np.asarray(cv2.resize(weight, (width, height)), np.float32)
    return weight[:, :, None] * bounds_mask(height, width, top, _TOP_FADE, _BORDER_FADE)


def _check(top: float, feather: float, memory: float) -> None:
    need_numbers("mask", top=top, feather=feather, memory=memory)
    if not (0 <= top < 1 and 0 < feather <= 0.5):
        raise ConfigError(f"mask top={top} feather={feather}: give 0 <= top < 1 and 0 < feather <= 0.5")
    if memory < 1:
        raise ConfigError(f"mask memory={memory}: give 1 (no averaging) or more frames")
