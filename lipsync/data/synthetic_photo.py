"""A real photograph made to talk: scikit-image's astronaut (NASA, public domain) with a warped jaw.

Real detectors fire on it, so the whole path from a raw file runs on a machine with no data at all. The jaw
follows the loudness of the generated speech; lips do not round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.errors import ConfigError
from lipsync.types import Box, Image

Floats = npt.NDArray[np.float32]

# Pixels of the photograph.
_VIEW = (108.0, 8.0, 232.0)  # left, top and side of the square shown
_FACE = Box(180.0, 62.0, 267.0, 175.0)
_MOUTH = Box(203.0, 132.0, 245.0, 170.0)
_LANDMARKS = np.array([(204, 101), (247, 104), (225, 128), (203, 140), (245, 142)], dtype=np.float64)
_CENTER_X, _CORNER_Y, _HALF_WIDTH, _SAG = 223.5, 141.0, 18.5, 9.0  # the line under the upper teeth
_JAW_END = 190.0  # below it nothing moves
_DROP = 13.0
_INSIDE = np.array([28, 18, 40], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Shot:
    """Where the photograph lies in a frame and how far the mouth is open."""

    matrix: npt.NDArray[np.float64]
    """``(2, 3)`` photograph -> frame, pixels."""
    aperture: float

    def place(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Photograph ``(n, 2)`` -> frame ``(n, 2)``."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2])

    def box(self, box: Box) -> Box:
        """Bounds in the frame of a box of the photograph."""
        corners = [(box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2)]
        placed = self.place(np.array(corners))
        (x1, y1), (x2, y2) = placed.min(axis=0), placed.max(axis=0)
        return Box(float(x1), float(y1), float(x2), float(y2))


class TalkingPhoto:
    """Renders frames of ``size`` x ``size`` pixels.

    Raises:
        ConfigError: Scikit-image is not installed.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    @cached_property
    def photograph(self) -> Image:
        """``(512, 512, 3)`` uint8 BGR."""
        try:
            from skimage.data import astronaut
        except ImportError as error:
            raise ConfigError(
                "synthetic photo mode: scikit-image is not installed; run `pip install lipsync[photo]`"
            ) from error
        return np.ascontiguousarray(astronaut()[:, :, ::-1], dtype=np.uint8)

    def shots(self, aperture: npt.NDArray[np.float64], rng: np.random.Generator) -> Iterator[Shot]:
        """One shot a value of ``aperture``, with slow movement of the head."""
        left, top, side = _VIEW
        phases, periods = rng.uniform(0, 2 * np.pi, 4), rng.uniform(45, 110, 4)
        for frame, opening in enumerate(aperture):
            sway = np.sin(2 * np.pi * frame / periods + phases)
            scale = self.size / side * (1 + 0.015 * sway[0])
            center = (left + side / 2, top + side / 2)
            turn = np.asarray(cv2.getRotationMatrix2D(center, 1.5 * float(sway[1]), scale), dtype=np.float64)
            turn[:, 2] += self.size / 2 - np.array(center) + 0.012 * self.size * sway[2:]
            yield Shot(turn, float(opening))

    def render(self, shot: Shot) -> Image:
        """``(size, size, 3)`` uint8 BGR."""
        inverse = cv2.invertAffineTransform(shot.matrix).astype(np.float32)
        rows, columns = np.mgrid[: self.size, : self.size].astype(np.float32)
        x = inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]
        y = inverse[1, 0] * columns + inverse[1, 1] * rows + inverse[1, 2]
        source_y, inside = _open_jaw(x, y, _DROP * shot.aperture)
        picture = cv2.remap(self.photograph, x, source_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        blended = picture + inside[..., None] * (_INSIDE - picture)
        return np.clip(np.rint(blended), 0, 255).astype(np.uint8)

    def face_box(self, shot: Shot) -> Box:
        """The face in the frame, pixels."""
        return shot.box(_FACE)

    def mouth_box(self, shot: Shot) -> Box:
        """The region in which the mouth moves, pixels."""
        return shot.box(_MOUTH)

    def landmarks(self, shot: Shot) -> Floats:
        """Eyes, nose tip, mouth corners, ``(5, 2)`` pixels."""
        return shot.place(_LANDMARKS).astype(np.float32)


def _open_jaw(x: Floats, y: Floats, drop: float) -> tuple[Floats, Floats]:
    """Where each shown pixel comes from, and how much of it is the inside of the mouth (0 to 1)."""
    across = np.clip((x - _CENTER_X) / _HALF_WIDTH, -1, 1)
    seam = _CORNER_Y + _SAG * (1 - across**2)
    source = y.copy()
    for _ in range(4):  # y = source + lowering(source); the slope of lowering is well below 1
        source = np.where(y > seam, np.maximum(y - _lowering(x, source, drop), seam), y)
    lip = seam + _lowering(x, seam, drop)
    inside = np.clip(np.minimum(y - seam, lip - y) + 0.5, 0, 1) * (np.abs(x - _CENTER_X) < _HALF_WIDTH)
    inside *= lip - seam > 0.25
    return source.astype(np.float32), inside.astype(np.float32)


def _lowering(x: Floats, y: Floats, drop: float) -> Floats:
    """How far a point of the lower face moves down: most at the lip, not at all at the neck."""
    half = _HALF_WIDTH + 0.6 * np.maximum(y - _CORNER_Y, 0)
    sideways = np.clip(1 - ((x - _CENTER_X) / half) ** 2, 0, 1)
    fade = np.clip((_JAW_END - y) / (_JAW_END - _CORNER_Y - _SAG), 0, 1)
    return np.asarray(drop * sideways * fade * fade * (3 - 2 * fade), dtype=np.float32)
