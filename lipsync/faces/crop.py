"""Cut a face out of a frame, and put a picture back in its place."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.types import Box, Image


def whole_box(box: Box, width: int, height: int) -> Box | None:
    """The box in whole pixels inside an image of ``width`` x ``height``; None where nothing is left."""
    clipped = Box(*(float(value) for value in box.rounded())).clipped(width, height)
    return clipped if clipped.area > 0 else None


def crop(image: Image, box: Box, size: int | None = None) -> Image:
    """The part of the image inside ``box``, resized to ``size`` x ``size`` if given.

    The aspect ratio is not kept. Resizing is bilinear also when shrinking: the released networks were trained
    on such crops, and area interpolation would show them a smoother face than they know.

    Args:
        image: ``(H, W, 3)`` uint8.
        box: Whole pixels inside the image, as :func:`whole_box` gives.
        size: Side of the result in pixels.

    Returns:
        A new array, ``(size, size, 3)`` or as large as the box.
    """
    part = image[_slices(box)]
    if size is None:
        return part.copy()
    return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def paste(image: Image, patch: Image, box: Box, mask: npt.NDArray[np.float32] | None = None) -> Image:
    """A copy of the image with ``patch`` in ``box``.

    Args:
        image: ``(H, W, 3)`` uint8; left unchanged.
        patch: Picture of the region, uint8, resized (bilinear) to the box if its size differs.
        box: Whole pixels inside the image, as :func:`whole_box` gives.
        mask: ``(h, w, 1)`` weight of the patch in [0, 1], as large as the box; None covers the whole box.

    Returns:
        A new image. Blended values are rounded, and pixels of weight 0 keep their exact value.

    Raises:
        ValueError: The mask is not as large as the box.
    """
    result = image.copy()
    region = result[_slices(box)]
    height, width = region.shape[:2]
    if patch.shape[:2] != (height, width):
        patch = np.asarray(cv2.resize(patch, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    if mask is None:
        region[:] = patch
        return result
    if mask.shape != (height, width, 1):
        raise ValueError(f"mask of shape {mask.shape} for a box of {height} x {width} pixels")
    # float32 holds 0..255 exactly, so weight 0 leaves the source value and weight 1 gives the patch.
    source = region.astype(np.float32)
    region[:] = np.rint(source + mask * (patch - source)).astype(np.uint8)
    return result


def _slices(box: Box) -> tuple[slice, slice]:
    x1, y1, x2, y2 = box.rounded()
    return slice(y1, y2), slice(x1, x2)
