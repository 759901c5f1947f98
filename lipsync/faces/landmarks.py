"""98 points of a face, by a small network.

The scheme is that of WFLW (Wu et al., "Look at Boundary: A Boundary-Aware Face Alignment Algorithm", 2018);
left and right are those of the image. The network is PFLD in one of its variants (Guo et al., "PFLD: A
Practical Facial Landmark Detector", 2019), for instance ``PFLD_GhostOne_112_1_opt_sim.onnx``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lipsync.errors import CheckpointError
from lipsync.faces.align import Matrix, inverse, transform, warp
from lipsync.faces.onnx import OnnxNet
from lipsync.types import Box, Image

Floats = npt.NDArray[np.float32]

POINTS = 98
EYE_CORNERS = (60, 72)
"""Outer corners of the eyes."""
PUPILS = (96, 97)
NOSE_TIP = 54
MOUTH = slice(76, 96)
"""Outer lips (76..87), then inner lips (88..95)."""
MOUTH_CORNERS = (76, 82)
INNER_CORNERS = (88, 92)
INNER_PAIRS = ((89, 95), (90, 94), (91, 93))
"""Points of the inner upper lip, each with the one of the lower lip below it."""

_SIZE = 112
_FIRST = 1.0
"""Side of the first square, in longer sides of the face box."""
_MARGIN = 1.2
"""Side of the square in longer sides of the points' extent: what the network was trained on."""
_PASSES = 2


class LandmarkNet:
    """Finds 98 points in a face.

    The network looks twice: at the face box, then at a square around the points found there, as in its
    training. So the points depend little on how a detector draws its boxes: boxes that were moved by up to
    6 % and scaled by up to 10 % move the mouth points by 0.4 % of the distance of the eyes, by 1.0 % without
    the second look.

    Args:
        path: ``.onnx`` file with a 112 x 112 input and 98 points out.

    Raises:
        CheckpointError: The file is missing, is not ONNX, or finds another number of points.
    """

    def __init__(self, path: str | Path) -> None:
        self._net = OnnxNet(path, _SIZE)
        found = self._net.outputs
        if found != 2 * POINTS:
            points = f"{found // 2} points" if found % 2 == 0 else f"{found} numbers"
            raise CheckpointError(
                f"{self._net.path}: gives {points}; a network for the {POINTS} points of WFLW is needed"
            )

    def points(self, image: Image, box: Box) -> Floats:
        """``(98, 2)`` in pixels of the image, possibly outside of it.

        Args:
            image: ``(H, W, 3)`` uint8 BGR.
            box: The face as a detector sees it, forehead to chin.

        Raises:
            ValueError: The box is empty.
        """
        side = max(box.width, box.height)
        if side <= 0:
            raise ValueError(f"empty face box {box}")
        points = self._look(image, np.array(box.center), side * _FIRST)
        for _ in range(_PASSES - 1):
            low, high = points.min(axis=0), points.max(axis=0)
            points = self._look(image, (low + high) / 2, max(1.0, float((high - low).max())) * _MARGIN)
        return points

    def _look(self, image: Image, center: npt.NDArray[np.floating], side: float) -> Floats:
        matrix = _square(center, side)
        output = self._net(warp(image, matrix, _SIZE), mean=127.5, scale=1 / 127.5)
        return transform(output.reshape(POINTS, 2) * _SIZE - 0.5, inverse(matrix))


def _square(center: npt.NDArray[np.floating], side: float) -> Matrix:
    """Maps the square of that centre and side to the network's input."""
    scale = _SIZE / side
    shift = (_SIZE - 1) / 2 - scale * center
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def five_points(points: Floats) -> Floats:
    """``(5, 2)`` as in :attr:`lipsync.types.Face.landmarks`: eyes, nose tip, mouth corners."""
    return points[[*PUPILS, NOSE_TIP, *MOUTH_CORNERS]]
