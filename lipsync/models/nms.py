"""Greedy non-maximum suppression of boxes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt


def nms(
    detections: npt.NDArray[np.floating],
    threshold: float,
    *,
    plus_one: bool = False,
    relative_to: Literal["union", "smaller"] = "union",
) -> npt.NDArray[np.intp]:
    """Drop every box that overlaps a better one too much.

    Args:
        detections: ``(n, 5)``: x1, y1, x2, y2, score, in any order.
        threshold: A box is dropped where its overlap with a better one is above it.
        plus_one: Corners are pixels that belong to the box, so that sides are one longer.
        relative_to: The overlap is divided by the union of the two boxes or by the smaller of them (which
            also drops a box lying inside another).

    Returns:
        Indices of the survivors, best first; equal scores in the order of their rows.
    """
    side = 1.0 if plus_one else 0.0
    x1, y1, x2, y2 = detections[:, :4].T
    areas = (x2 - x1 + side) * (y2 - y1 + side)
    order = np.argsort(-detections[:, 4], kind="stable")
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        widths = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + side
        heights = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + side
        overlap = np.maximum(widths, 0) * np.maximum(heights, 0)
        if relative_to == "union":
            whole = areas[best] + areas[rest] - overlap
        else:
            whole = np.minimum(areas[best], areas[rest])
        order = rest[overlap <= threshold * whole]
    return np.array(keep, dtype=np.intp)
