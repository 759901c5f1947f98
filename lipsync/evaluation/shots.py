"""Shot boundaries as the reference's pinned scenedetect 0.5.1 finds them.

0.5.1: threshold 30 on the mean change of hue, saturation and value; a cut less than 15 frames after the one
before is ignored; frames are thinned by a whole factor that depends on their width. Later versions changed
the threshold to 27, merge close cuts and resize to a width of 256, which moves cuts; hence this file.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from lipsync.types import Image

THRESHOLD = 30.0
MIN_SCENE = 15  # frames
THINNING = ((3200, 12), (2100, 8), (1700, 6), (1200, 5), (900, 4), (600, 3), (400, 2))  # from width, factor


class ShotFinder:
    """Feed the frames of a 25 fps video in order; :meth:`bounds` then gives the shots."""

    def __init__(self) -> None:
        self._before: Image | None = None
        self._cuts: list[int] = []
        self._frames = 0

    def push(self, image: Image) -> None:
        """Look at the next frame."""
        step = next((factor for width, factor in THINNING if image.shape[1] >= width), 1)
        thinned = np.ascontiguousarray(image[::step, ::step])
        colours = cv2.cvtColor(thinned, cv2.COLOR_BGR2HSV).astype(np.uint8, copy=False)
        if self._before is not None and self._before.shape == colours.shape:
            # the plain difference of hues, although hue is a circle
            change = float(np.mean(cv2.mean(cv2.absdiff(colours, self._before))[:3]))
            if change >= THRESHOLD and (not self._cuts or self._frames - self._cuts[-1] >= MIN_SCENE):
                self._cuts.append(self._frames)
        self._before = colours
        self._frames += 1

    def bounds(self) -> list[tuple[int, int]]:
        """Half-open frame ranges of the shots; one range without a cut, none without frames."""
        edges = [0, *self._cuts, self._frames]
        return [(start, stop) for start, stop in pairwise(edges) if stop > start]
