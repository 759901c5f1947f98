"""Steady alignment of a followed face: five points for each frame, smoothed over time.

Faces that a network sees one by one flicker when their crops jump. Measured on 50 frames each of four clips
with YuNet, as the mean second difference of the mouth's place in pixels of the 512 crop: each frame detected
and fitted for itself jumps by 4.2 to 9.1 (the robust fit of facexlib by 4.3 to 9.6), boxes and points tracked
and averaged over five frames by 0.6 to 1.1, and with the window of this module on top by 0.5 to 0.7.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lipsync.errors import ConfigError
from lipsync.faces.align import FFHQ_SIZE, FFHQ_TEMPLATE
from lipsync.faces.shots import CutFinder
from lipsync.faces.smoothing import SAME_TRACK_IOU
from lipsync.types import Box, Composite, Face

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

BOX_SIDE = 1.63
BOX_LIFT = 0.08
"""Where the FFHQ picture of a face lies about a detector's box: its side, and how far its centre is above
that of the box, in units of the square root of the box's area. Means over MTCNN and YuNet on eight people (64
frames), by the five points that they report; from one person to the next the side varies by 3 %, the centre
by 2 % up or down and by 7 % sideways (turned heads)."""

_REACH = 2.5
"""Half the smoothing window in its standard deviations."""


@dataclass(frozen=True, slots=True)
class Steadied:
    """A composite and where the points of its face are."""

    composite: Composite
    points: Points | None
    """``(5, 2)`` pixels of the frame as in :attr:`lipsync.types.Face.landmarks`; None without a face."""
    run: int
    """Frames that follow one another and show the same face in the same shot share a number."""


class SteadyAlignment:
    """Smooths the five points of the face along a stream of composites, a few frames behind it.

    Each point follows the line through its neighbours in time, weighted by a Gaussian: within a run that is
    the Gaussian mean, and at its ends a face in steady motion is not displaced. Nothing is averaged across a
    jump of the frame index, a frame without a face, a jump of the box or a shot cut. Where the detector gave
    no points they are taken from the box.

    Args:
        deviation: Of the Gaussian, in frames; 0 leaves the points as they are.

    Raises:
        ConfigError: ``deviation`` is negative or not finite.
    """

    def __init__(self, deviation: float = 2.0) -> None:
        if not 0 <= deviation < math.inf:
            raise ConfigError(f"enhancer smooth={deviation}: give 0 or more frames")
        self.deviation = deviation
        self.look_ahead = math.ceil(_REACH * deviation)
        """Frames held back."""

    def __call__(self, composites: Iterable[Composite]) -> Iterator[Steadied]:
        """One item for each composite, in order; the pictures before repainting are let go."""
        begins_run = _RunFinder()
        run, number = _Run(self.deviation, self.look_ahead), 0
        for composite in composites:
            if begins_run(composite):
                yield from run.finish(number)
                run, number = _Run(self.deviation, self.look_ahead), number + 1
            # What follows needs the finished picture only.
            kept = replace(composite, source=composite.frame.image)
            if composite.face is None:
                yield Steadied(kept, None, number)
            else:
                yield from run.push(kept, five_points(composite.face), number)
        yield from run.finish(number)


class _RunFinder:
    """Tells for each composite whether it has nothing to do with the one before."""

    def __init__(self) -> None:
        self._is_cut = CutFinder()
        self._index = -1
        self._box: Box | None = None

    def __call__(self, composite: Composite) -> bool:
        cut = self._is_cut(composite.source)
        index, box = composite.frame.index, composite.face.box if composite.face else None
        follows = self._box is not None and box is not None and index == self._index + 1
        same = follows and self._box is not None and box is not None and self._box.iou(box) >= SAME_TRACK_IOU
        self._index, self._box = index, box
        return cut or not same


class _Run:
    """Points of one run: those given out that still count, and those waiting with their composites."""

    def __init__(self, deviation: float, reach: int) -> None:
        self.deviation = deviation
        self.reach = reach
        self._points: deque[Points] = deque()
        self._waiting: deque[Composite] = deque()

    def push(self, composite: Composite, points: Points, number: int) -> Iterator[Steadied]:
        self._points.append(points)
        self._waiting.append(composite)
        if len(self._waiting) > self.reach:
            yield self._next(number)

    def finish(self, number: int) -> Iterator[Steadied]:
        while self._waiting:
            yield self._next(number)

    def _next(self, number: int) -> Steadied:
        at = len(self._points) - len(self._waiting)
        window = list(self._points)[: at + self.reach + 1]
        steady = Steadied(self._waiting.popleft(), steadied(window, at, self.deviation), number)
        if at >= self.reach:
            self._points.popleft()
        return steady


def five_points(face: Face) -> Points:
    """``(5, 2)`` pixels: the face's landmarks, or where they are likely to be in its box."""
    if face.landmarks is not None:
        return np.asarray(face.landmarks, np.float64)
    unit = math.sqrt(face.box.area)
    center = np.array(face.box.center) - (0, BOX_LIFT * unit)
    return center + (FFHQ_TEMPLATE - (FFHQ_SIZE - 1) / 2) * (BOX_SIDE * unit / FFHQ_SIZE)


def steadied(window: Sequence[Points], at: int, deviation: float) -> Points:
    """Value at ``at`` of the straight line through the window, fitted with Gaussian weights around ``at``.

    Args:
        window: ``(n, 2)`` points of consecutive frames.
        at: Place in the window.
        deviation: Standard deviation of the weights in frames; 0 gives ``window[at]``.
    """
    if deviation == 0 or len(window) == 1:
        return window[at]
    time = np.arange(len(window), dtype=np.float64) - at
    weight = np.exp(-0.5 * (time / deviation) ** 2)
    weight /= weight.sum()
    mean = float(weight @ time)
    spread = float(weight @ (time - mean) ** 2)
    return np.tensordot(weight * (1 - (time - mean) * mean / spread), np.stack(window), axes=1)
