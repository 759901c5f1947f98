"""Which part of the picture a value is measured on.

``frame``
    The whole picture.
``face``
    The tracked box of the main face, in whole pixels inside the picture. Where frame i of the reference is
    what frame i should look like, it is the box of the reference, the same in both pictures, so that a badly
    made face cannot choose where it is looked at; otherwise each picture has the box of its own face.
``mouth``
    The lower half of the face box, which is what generators of the Wav2Lip family repaint.
"""

from __future__ import annotations

import dataclasses

from lipsync.evaluation.columns import Column, Region
from lipsync.faces.crop import crop, whole_box
from lipsync.types import Box, Face, Image

NAMES: dict[Region, str] = {"frame": "whole frame", "face": "face", "mouth": "mouth"}
"""For reading."""
WHERE: dict[Region, str] = {
    "frame": "Over the whole frame.",
    "face": "Over the box of the tracked face.",
    "mouth": "Over the lower half of the tracked face's box.",
}
"""A sentence for a column's description."""


def region_box(region: Region, face: Face | None, width: int, height: int) -> Box | None:
    """The region in whole pixels inside a picture of ``width`` x ``height``.

    Args:
        region: Which.
        face: The face the region belongs to; ``frame`` needs none.
        width: Of the picture, pixels.
        height: Likewise.

    Returns:
        None where there is no face, or nothing of the region inside the picture.
    """
    if region == "frame":
        return Box(0.0, 0.0, float(width), float(height))
    if face is None:
        return None
    box = face.box
    if region == "mouth":
        box = Box(box.x1, (box.y1 + box.y2) / 2, box.x2, box.y2)
    return whole_box(box, width, height)


def cut(region: Region, face: Face | None, image: Image) -> Image | None:
    """The region of a picture; None where :func:`region_box` is."""
    if region == "frame":
        return image
    box = region_box(region, face, image.shape[1], image.shape[0])
    return None if box is None else crop(image, box)


def region_key(key: str, region: Region) -> str:
    """Column key of a value measured on a region: ``psnr``, ``psnr_face``, ``psnr_mouth``."""
    return key if region == "frame" else f"{key}_{region}"


def region_column(column: Column, region: Region) -> Column:
    """The column of a value measured on a region, with the region in its label and description."""
    return dataclasses.replace(
        column,
        key=region_key(column.key, region),
        label=f"{column.label}, {NAMES[region]}",
        about=f"{column.about} {WHERE[region]}".strip(),
    )
