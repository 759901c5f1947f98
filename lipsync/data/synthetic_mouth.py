"""Measuring from pixels how far a mouth is open; the yardstick of the synthetic corpus."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lipsync.types import Box, Image

MOUTH_REGION = Box(0.44, 0.63, 0.56, 0.93)
"""Middle of the mouth in a face crop, as fractions of its width and height (drawn faces)."""

_RED = 2
_INSIDE_RED = 40.0  # grey level of the inside of a mouth in the red channel
_DEAD_ZONE = 0.2  # shading of skin and lips that does not count as dark


def measure_aperture(
    crops: Iterable[Image], region: Box = MOUTH_REGION, *, inside: float = _INSIDE_RED
) -> npt.NDArray[np.float64]:
    """Vertical extent of the dark inside of the mouth, as a fraction of the height of the face crop.

    In the red channel skin and lips of every complexion are bright and the inside of the mouth is dark. Each
    pixel counts by how far it is from the brightness of its surroundings (75th percentile of the region)
    towards ``inside``; the sum over a column is the opening there. A weighted sum, not a threshold, so blur
    and compression move it little. Proportional to the true aperture on drawn faces; only differences in time
    within one clip mean anything on others.

    Args:
        crops: Face crops ``(H, W, 3)`` uint8 BGR, any size, from the face boxes of the corpus.
        region: Where the middle of the mouth is, as fractions of the crop.
        inside: Red level of a fully dark pixel.

    Returns:
        ``(n,)``, about 0 (closed) to 0.12 (wide open) on drawn faces.
    """
    return np.array([_aperture(crop, region, inside) for crop in crops], dtype=np.float64)


def _aperture(crop: Image, region: Box, inside: float) -> float:
    height, width = crop.shape[:2]
    x1, x2 = round(region.x1 * width), max(round(region.x2 * width), round(region.x1 * width) + 1)
    y1, y2 = round(region.y1 * height), round(region.y2 * height)
    red = crop[y1:y2, x1:x2, _RED].astype(np.float64)
    bright = max(float(np.percentile(red, 75)), inside + 1.0)
    dark = (bright - red) / (bright - inside)
    dark = np.clip((dark - _DEAD_ZONE) / (1 - _DEAD_ZONE), 0, 1)
    return float(dark.sum(axis=0).mean()) / height
