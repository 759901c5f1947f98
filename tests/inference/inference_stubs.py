"""A detector and frames that need no model and no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lipsync.types import Box, Face, Frame

BOX = Box(30.0, 20.0, 90.0, 100.0)


class StubDetector:
    """Reports ``BOX`` on every frame whose source time satisfies ``visible``; remembers the frames it saw."""

    def __init__(self, visible: Callable[[float], bool] = lambda time: True, box: Box = BOX) -> None:
        self.visible = visible
        self.box = box
        self.seen: list[int] = []

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        self.seen.extend(frame.index for frame in frames)
        return [[Face(self.box, 0.9)] if self.visible(frame.time) else [] for frame in frames]


def picture(number: int, height: int = 120, width: int = 128) -> np.ndarray:
    """A textured image that differs from frame to frame."""
    rng = np.random.default_rng(7)
    base = np.kron(rng.integers(40, 200, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    base[:8] += (number * 5) % 50
    return base.astype(np.uint8)


def frames_of(count: int, fps: int = 25) -> list[Frame]:
    return [Frame(i, i / fps, picture(i), Path("clip.mp4")) for i in range(count)]
