"""Weights that say where in a face box the synthesised picture shows.

Every mask is 0 above its ``top`` (the networks redraw the lower half only), exactly 0 on the outermost pixels
of the box, and in [0, 1]. Shapes that follow the face are in :mod:`lipsync.faces.shapes`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lipsync.checks import need_numbers
from lipsync.errors import ConfigError
from lipsync.types import Box, Patch

Mask: TypeAlias = npt.NDArray[np.float32]
"""``(h, w, 1)`` in [0, 1]."""

SAME_FACE_IOU = 0.3
"""Below this overlap of consecutive boxes it is another face or shot, as for the tracker."""


class FaceMask(Protocol):
    """Decides where a patch shows."""

    @property
    def top(self) -> float:
        """Fraction of the box's height above which the mask is 0 everywhere."""

    def __call__(self, patch: Patch) -> Mask:
        """``(h, w, 1)`` float32 in [0, 1], as large as ``patch.box``; not to be written into.

        Patches come in the order of their frames; what is averaged over time starts anew where the index or
        the box jumps.
        """


class LowerFace:
    """The lower part of the box whatever it shows, fading to nothing towards the edges.

    Args:
        top: Where the fade-in begins, as a fraction of the box's height.
        feather: Length of every fade, as a fraction of the side it runs along.

    Raises:
        ConfigError: ``top`` outside [0, 1) or ``feather`` outside (0, 0.5], or one is no number.
    """

    def __init__(self, top: float = 0.5, feather: float = 0.15) -> None:
        need_numbers("mask", top=top, feather=feather)
        if not (0 <= top < 1 and 0 < feather <= 0.5):
            raise ConfigError(f"mask top={top} feather={feather}: give 0 <= top < 1 and 0 < feather <= 0.5")
        self.top = top
        self.feather = feather

    def __call__(self, patch: Patch) -> Mask:
        """The same mask for every box of a size."""
        return bounds_mask(*box_size(patch), self.top, self.feather, None)


def box_size(patch: Patch) -> tuple[int, int]:
    """Height and width of the patch's box in pixels.

    Raises:
        ValueError: It has none.
    """
    if patch.box is None:
        raise ValueError("a patch without a box has no mask")
    return int(patch.box.height), int(patch.box.width)


def feather_mask(
    height: int, width: int, *, top: float = 0.5, feather: float = 0.15, border: float | None = None
) -> Mask:
    """Weight of the lower face, fading to nothing towards its edges.

    The networks redraw the rows below the middle and are given the upper half, so the source's own pixels
    stay above ``top``. The outermost pixels weigh exactly 0, so no edge of the box can show.

    Args:
        height: Rows of the face box.
        width: Columns of the face box.
        top: Where the fade-in begins, as a fraction of the height.
        feather: Length of every fade, as a fraction of the side it runs along; at most 0.5.
        border: Another length for the fades at the sides and the bottom; None takes ``feather``.

    Returns:
        ``(height, width, 1)`` in [0, 1].

    Raises:
        ValueError: ``top`` outside [0, 1), or ``feather`` or ``border`` outside (0, 0.5].
    """
    border = feather if border is None else border
    if not 0 <= top < 1:
        raise ValueError(f"top must be in [0, 1), got {top}")
    if not 0 < feather <= 0.5:
        raise ValueError(f"feather must be in (0, 0.5], got {feather}")
    if not 0 < border <= 0.5:
        raise ValueError(f"border must be in (0, 0.5], got {border}")
    rows = _fade(height, round(top * height), feather * height, border * height)
    columns = _fade(width, 0, border * width, border * width)
    return (rows[:, None] * columns[None, :])[:, :, None]


def smooth_step(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """0 up to 0, 1 from 1 on, between them the cubic that is level at both ends."""
    ramp = np.clip(values, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


class RunningMean:
    """Exponential mean over frames that starts anew where the frames or the box jump.

    Args:
        memory: Frames it goes back: each new value weighs ``1 / memory``, but never less than in a plain mean
            over the frames since the start.
    """

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._last: tuple[int, Box] | None = None
        self._seen = 0
        self._mean = np.zeros(0, np.float32)

    def __call__(self, patch: Patch, value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The mean with ``value``, that of the patch, as the newest one.

        Raises:
            ValueError: The patch has no box.
        """
        if patch.box is None:
            raise ValueError("a patch without a box has no place in time")
        self._seen = self._seen + 1 if self._goes_on(patch.frame.index, patch.box) else 1
        self._last = patch.frame.index, patch.box
        if self._seen == 1 or self._mean.shape != value.shape:
            self._mean = value
        else:
            self._mean = self._mean + (value - self._mean) / min(self._seen, self._memory)
        return self._mean

    def _goes_on(self, index: int, box: Box) -> bool:
        if self._last is None:
            return False
        last, before = self._last
        return index == last + 1 and before.iou(box) >= SAME_FACE_IOU


@lru_cache(maxsize=64)
def bounds_mask(height: int, width: int, top: float, feather: float, border: float | None) -> Mask:
    """:func:`feather_mask`, kept: a tracked box changes by a pixel now and then and comes back. Read-only."""
    mask = feather_mask(height, width, top=top, feather=feather, border=border)
    mask.setflags(write=False)
    return mask


def _fade(length: int, start: int, rise: float, fall: float) -> npt.NDArray[np.float32]:
    """``(length,)``: 0 up to pixel ``start``, smooth rise over ``rise`` pixels, fall to 0 at the end."""
    position = np.arange(length)
    return smooth_step(np.minimum((position - start) / rise, (length - 1 - position) / fall))
