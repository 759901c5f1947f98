"""Sharpen repainted faces: aligned crops through a restoring network, blended back where the face is.

    enhance = FaceEnhancer(GFPGANRestorer(), FaceParser("bisenet_face_parsing_19.pth"), "lip")
    frames = enhance(composites)

Everything is blended at the frame's own resolution, within the rectangle that the mask fills, and pixels of
weight 0 keep their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lipsync.checks import is_whole, need_numbers
from lipsync.errors import ConfigError
from lipsync.faces.align import (
    FFHQ_SIZE,
    FFHQ_TEMPLATE,
    Matrix,
    inverse,
    resized,
    similarity,
    transform,
    warp,
)
from lipsync.faces.crop import paste
from lipsync.inference.alignment import Steadied, SteadyAlignment
from lipsync.inference.region_masks import Mask, Parser, Region, RegionMasks, checked, grid_of
from lipsync.inference.restore import Restorer
from lipsync.inference.stage import batched
from lipsync.types import Box, Composite, Frame, Image

OUTSIDE = (135, 133, 132)
"""BGR of what a crop shows outside of the frame, as facexlib, so that the networks know it."""
SMALLEST = 20.0
"""Pixels: side of the smallest aligned face that is restored (5 between the eyes, as in facexlib)."""


class FaceEnhancer:
    """Restores the lips or the face of each frame; frames without a face pass through.

    Args:
        restorer: Sharpens aligned crops.
        parser: Tells which of their pixels are lips and face.
        region: ``lip`` restores what was repainted, ``face`` the whole face; see
            :class:`lipsync.inference.region_masks.RegionMasks`.
        weight: How much of the restored picture shows, 0 to 1.
        batch_size: Frames held and restored at a time.
        smooth: Standard deviation, in frames, of the window that steadies the alignment.
        memory: Weight of the past in the mask, 0 to below 1.
        feather: Width of the mask's soft edges in sides of the aligned crop (its side is about 1.8 widths of
            a face).

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        restorer: Restorer,
        parser: Parser,
        region: Region,
        *,
        weight: float = 1.0,
        batch_size: int = 8,
        smooth: float = 2.0,
        memory: float = 0.6,
        feather: float = 0.03,
    ) -> None:
        need_numbers("enhancer", weight=weight, smooth=smooth)
        if not 0 <= weight <= 1:
            raise ConfigError(f"enhancer weight={weight}: give 0 to 1")
        if not is_whole(batch_size, 1):
            raise ConfigError(f"enhancer batch_size={batch_size}: give a whole number of 1 or more")
        checked(region, feather, memory)
        self.restorer = restorer
        self.parser = parser
        self.region: Region = region
        self.weight = weight
        self.batch_size = batch_size
        self.memory = memory
        self.feather = feather
        self.steady = SteadyAlignment(smooth)

    def __call__(self, composites: Iterable[Composite]) -> Iterator[Frame]:
        """One frame for each composite, in order.

        At most ``batch_size`` frames and those that the alignment looks ahead are held.
        """
        masks = RegionMasks(self.parser, self.region, self.feather, self.memory)
        for batch in batched(self.steady(composites), self.batch_size):
            yield from self._enhanced(batch, masks)
            batch.clear()  # so that it is not held while the next one fills

    def _enhanced(self, batch: Sequence[Steadied], masks: RegionMasks) -> Iterator[Frame]:
        faces = [self._aligned(item) for item in batch]
        present = [face for face in faces if face is not None]
        sharpened = iter(self._sharpened(present, masks) if present else ())
        for item, face in zip(batch, faces, strict=True):
            yield item.composite.frame if face is None else next(sharpened)

    def _aligned(self, item: Steadied) -> _Aligned | None:
        """The face in its crop; None where nothing is to be restored."""
        composite, size = item.composite, self.restorer.size
        nothing_painted = composite.mask is not None and not composite.mask.any()
        if item.points is None or self.weight == 0 or (self.region == "lip" and nothing_painted):
            return None
        matrix = similarity(item.points, FFHQ_TEMPLATE)
        if FFHQ_SIZE / float(np.hypot(matrix[0, 0], matrix[1, 0])) < SMALLEST:
            return None
        to_crop = resized(matrix, size / FFHQ_SIZE)
        to_mask = resized(matrix, grid_of(size) / FFHQ_SIZE)
        place = (item.run, composite.frame.index)
        return _Aligned(composite.frame, place, to_crop, to_mask, _painted(composite, to_mask, grid_of(size)))

    def _sharpened(self, faces: Sequence[_Aligned], masks: RegionMasks) -> Iterator[Frame]:
        crops = np.stack(
            [warp(face.frame.image, face.to_crop, self.restorer.size, OUTSIDE) for face in faces]
        )
        shown = masks(crops, [face.place for face in faces], [face.painted for face in faces])
        for face, picture, mask in zip(faces, self.restorer(crops), shown, strict=True):
            yield blended(face.frame, picture, face.to_crop, mask * np.float32(self.weight), face.to_mask)


@dataclass(frozen=True, slots=True)
class _Aligned:
    """A frame, and how it maps to the crop and to the mask of its face."""

    frame: Frame
    place: tuple[int, int]
    to_crop: Matrix
    to_mask: Matrix
    painted: Mask


def _painted(composite: Composite, to_mask: Matrix, side: int) -> Mask:
    """``(side, side)``: weight of the generator's picture, seen through the mask's grid."""
    box, mask = composite.box, composite.mask
    if box is None:
        return np.zeros((side, side), np.float32)
    x1, y1, x2, y2 = box.rounded()
    weight = np.ones((y2 - y1, x2 - x1), np.float32) if mask is None else mask[:, :, 0]
    return warp(weight, _shifted(to_mask, x1, y1), side)


def blended(frame: Frame, picture: Image, to_picture: Matrix, mask: Mask, to_mask: Matrix) -> Frame:
    """The frame with an aligned picture in it, as far as the mask lets it show.

    Where the face is larger than the picture, that is enlarged bicubically; where it is smaller, averaged.

    Args:
        frame: Left unchanged.
        picture: ``(S, S, 3)`` uint8 BGR.
        to_picture: ``(2, 3)``: from pixels of the frame to those of the picture.
        mask: ``(G, G)`` weight of the picture.
        to_mask: ``(2, 3)``: from pixels of the frame to those of the mask.
    """
    box = _reach(mask, to_mask, frame.image)
    if box is None:
        return frame
    x1, y1, x2, y2 = box.rounded()
    size = (x2 - x1, y2 - y1)
    weight = warp(mask, inverse(_shifted(to_mask, x1, y1)), size)
    region = warp(picture, inverse(_shifted(to_picture, x1, y1)), size, enlarge=cv2.INTER_CUBIC)
    return replace(frame, image=paste(frame.image, region, box, weight[:, :, None]))


def _reach(mask: Mask, to_mask: Matrix, image: Image) -> Box | None:
    """The rectangle of the image, in whole pixels, outside of which the mask is 0; None where it is empty."""
    x, y, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
    if width == 0:
        return None
    # Interpolation carries a weight up to one of the mask's pixels further, or one of the image's.
    corners = np.array([[i, j] for i in (x - 1, x + width) for j in (y - 1, y + height)])
    found = transform(corners, inverse(to_mask))
    (x1, y1), (x2, y2) = np.floor(found.min(axis=0)) - 1, np.ceil(found.max(axis=0)) + 2
    box = Box(float(x1), float(y1), float(x2), float(y2)).clipped(image.shape[1], image.shape[0])
    return box if box.area > 0 else None


def _shifted(matrix: Matrix, x: float, y: float) -> Matrix:
    """The map from a part of the frame whose first pixel is ``(x, y)``."""
    return np.hstack([matrix[:, :2], matrix[:, 2:] + matrix[:, :2] @ [[x], [y]]])
