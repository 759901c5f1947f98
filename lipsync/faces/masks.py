"""Weights that say where in a face box the synthesised picture shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.float32]


def feather_mask(height: int, width: int, *, top: float = 0.5, feather: float = 0.15) -> Mask:
    """Weight of the lower face, fading to nothing towards its edges.

    The networks redraw the rows below the middle and are given the upper half, so the source's own pixels
    stay above ``top``. The outermost pixels weigh exactly 0, so no edge of the box can show.

    Args:
        height: Rows of the face box.
        width: Columns of the face box.
        top: Where the fade-in begins, as a fraction of the height.
        feather: Length of every fade, as a fraction of the side it runs along; at most 0.5.

    Returns:
        ``(height, width, 1)`` in [0, 1].

    Raises:
        ValueError: ``top`` outside [0, 1) or ``feather`` outside (0, 0.5].
    """
    if not 0 <= top < 1:
        raise ValueError(f"top must be in [0, 1), got {top}")
    if not 0 < feather <= 0.5:
        raise ValueError(f"feather must be in (0, 0.5], got {feather}")
    rows = _fade(height, round(top * height), feather * height)
    columns = _fade(width, 0, feather * width)
    return (rows[:, None] * columns[None, :])[:, :, None]


def _fade(length: int, start: int, feather: float) -> Mask:
    """``(length,)``: 0 up to pixel ``start``, smooth rise over ``feather`` pixels, fall to 0 at the end."""
    position = np.arange(length)
    distance = np.minimum(position - start, length - 1 - position)
    ramp = np.clip(distance / feather, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
