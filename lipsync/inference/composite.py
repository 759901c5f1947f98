"""Put synthesised patches back into their frames, at the frames' own resolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np

from lipsync.checks import is_whole
from lipsync.errors import ConfigError
from lipsync.faces.blending import (
    Floats,
    ToneMatch,
    Upscale,
    add,
    blend,
    checked_upscale,
    enlarge,
    pyramid_blend,
)
from lipsync.faces.crop import paste
from lipsync.faces.masks import FaceMask, LowerFace, Mask, box_size
from lipsync.types import Composite, Image, Patch

_COARSEST = 8
"""Pixels: a pyramid stops where the shorter side of the face would become smaller."""


class Compositor(Protocol):
    """Third stage of the pipeline: repainted regions back in their frames."""

    @property
    def top(self) -> float:
        """Fraction of the box's height above which nothing of a patch shows; 0: all of it may."""

    def __call__(self, patches: Iterable[Patch]) -> Iterator[Composite]:
        """One composite for each patch, in order.

        A patch without an image, or of strength 0, passes its frame through. Pixels outside the mask keep
        their bytes; images of the input are never written into.
        """


class BoxCompositor:
    """Replace the whole box by the patch, as the reference implementation does: bilinear, without a blend."""

    top = 0.0

    def __call__(self, patches: Iterable[Patch]) -> Iterator[Composite]:
        """One composite for each patch, in order; one without an image or strength passes through."""
        for patch in patches:
            if patch.box is None or patch.image is None or patch.strength <= 0:
                yield _untouched(patch)
                continue
            mask = None
            if patch.strength < 1:
                mask = np.full((*box_size(patch), 1), patch.strength, np.float32)
            image = paste(patch.frame.image, patch.image, patch.box, mask)
            yield _finished(patch, image, mask)


class _MaskedCompositor(ABC):
    """What compositors with a mask share: the mask, its bounds, the tone, and the copy of the frame."""

    def __init__(self, mask: FaceMask | None, upscale: Upscale, tone: bool) -> None:
        self.mask: FaceMask = mask or LowerFace()
        self.upscale: Upscale = checked_upscale(upscale)
        self.tone = tone

    @property
    def top(self) -> float:
        """Fraction of the box's height above which nothing of a patch shows."""
        return self.mask.top

    def __call__(self, patches: Iterable[Patch]) -> Iterator[Composite]:
        """One composite for each patch, in order; one without an image or strength passes through."""
        tone = ToneMatch() if self.tone else None
        for patch in patches:
            if patch.box is None or patch.image is None or patch.strength <= 0:
                yield _untouched(patch)
                continue
            mask = self.mask(patch)
            toned = patch.image if tone is None else tone(patch, mask)
            height, width = box_size(patch)
            picture = enlarge(toned, width, height, self.upscale)
            image = patch.frame.image.copy()
            rows, columns = _bounds(mask)
            x, y = int(patch.box.x1), int(patch.box.y1)
            region = image[y + rows.start : y + rows.stop, x + columns.start : x + columns.stop]
            if region.size:
                picture = _weakened(picture[rows, columns], region, patch.strength)
                region[:] = self._mixed(region, picture, mask[rows, columns])
            yield _finished(patch, image, mask * np.float32(patch.strength) if patch.strength < 1 else mask)

    @abstractmethod
    def _mixed(self, source: Image, picture: Floats, mask: Mask) -> Image:
        """``(h, w, 3)``: the picture in the source; the source's bytes where the mask is 0."""


class FeatherCompositor(_MaskedCompositor):
    """Blend through a soft mask; pixels where it is 0 keep their source bytes.

    The generator only redraws the lower half of the box, so the rest of the patch is a blurred copy of what
    the source shows better, and the fading edge leaves no visible box.

    Args:
        mask: Where the patch shows; None is the lower half of the box, ``LowerFace()``.
        upscale: Filter that enlarges the patch: ``linear``, ``cubic`` or ``lanczos``.
        tone: Move the patch's tone to the source's; see :class:`lipsync.faces.blending.ToneMatch`.

    Raises:
        ConfigError: ``upscale`` is unknown.
    """

    def __init__(
        self, mask: FaceMask | None = None, *, upscale: Upscale = "cubic", tone: bool = True
    ) -> None:
        super().__init__(mask, upscale, tone)

    def _mixed(self, source: Image, picture: Floats, mask: Mask) -> Image:
        return blend(source, picture, mask)


class LaplacianCompositor(_MaskedCompositor):
    """Blend band by band: fine detail changes over a few pixels, the tone over the whole face.

    The seam runs where the mask is one half. The widest bands reach further than the mask, so the change is
    faded out over the mask's outer half and ends with it: pixels where the mask is 0 keep their source bytes.
    Outside the box the patch is unknown; the pyramid continues it by reflection.

    Args:
        mask: Where the patch may show; None is the lower half of the box, ``LowerFace()``.
        levels: Bands of the pyramid; None takes as many as leave 8 pixels of the face's shorter side.
        upscale: Filter that enlarges the patch: ``linear``, ``cubic`` or ``lanczos``.
        tone: Move the patch's tone to the source's first; see :class:`lipsync.faces.blending.ToneMatch`.

    Raises:
        ConfigError: ``upscale`` is unknown or ``levels`` is no whole number of 1 or more.
    """

    def __init__(
        self,
        mask: FaceMask | None = None,
        *,
        levels: int | None = None,
        upscale: Upscale = "cubic",
        tone: bool = True,
    ) -> None:
        if levels is not None and not is_whole(levels, 1):
            raise ConfigError(
                f"compositor levels={levels}: give a whole number of 1 or more, or null to choose by the face"
            )
        super().__init__(mask, upscale, tone)
        self.levels = levels

    def _mixed(self, source: Image, picture: Floats, mask: Mask) -> Image:
        most = max(1, int(np.log2(max(min(mask.shape[:2]) / _COARSEST, 1))) + 1)
        levels = most if self.levels is None else min(self.levels, most)
        inside = (mask > 0.5).astype(np.float32)
        difference = np.asarray(cv2.subtract(picture, source, dtype=cv2.CV_32F), np.float32)
        change = pyramid_blend(difference, inside, levels)
        fade = np.minimum(mask * 2, 1)
        return add(source, change * fade)


def _bounds(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns of the mask outside of which it is 0."""
    x, y, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
    return slice(y, y + height), slice(x, x + width)


def _weakened(picture: Floats, source: Image, strength: float) -> Floats:
    """``source + strength * (picture - source)``."""
    if strength >= 1:
        return picture
    return np.asarray(
        cv2.addWeighted(picture, strength, source.astype(np.float32), 1 - strength, 0), np.float32
    )


def _untouched(patch: Patch) -> Composite:
    if patch.box is None or patch.image is None:
        return Composite(patch.frame, patch.frame.image)
    # There is a face, of which nothing is shown just now: enhancing all of it goes on.
    nothing = np.zeros((*box_size(patch), 1), np.float32)
    return Composite(patch.frame, patch.frame.image, patch.face, patch.box, nothing)


def _finished(patch: Patch, image: Image, mask: Mask | None) -> Composite:
    return Composite(replace(patch.frame, image=image), patch.frame.image, patch.face, patch.box, mask)
