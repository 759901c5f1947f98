"""Faces drawn by numbers, a parser and a restorer that need no weights, and frames of real clips."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from lipsync.faces.align import FFHQ_TEMPLATE, similarity, warp
from lipsync.faces.parsing import FACE, LIPS, Region
from lipsync.inference.enhance import FaceEnhancer
from lipsync.types import Box, Composite, Face, Frame

SIZE = 64
HEIGHT, WIDTH = 240, 320
SIDE = 150.0
CENTER = (170.0, 110.0)


class Bright:
    """Makes every picture brighter; remembers how many it saw at a time."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.batches: list[int] = []

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        assert crops.shape[1:] == (self.size, self.size, 3)
        self.batches.append(len(crops))
        return np.asarray(cv2.add(crops, np.full_like(crops, 60)))


class Ovals:
    """Finds an oval face in the middle of the crop and lips in its lower part."""

    def __init__(self) -> None:
        self.calls = 0

    def region_probabilities(self, crops: np.ndarray, groups: Sequence[Collection[Region]]) -> np.ndarray:
        self.calls += 1
        return np.stack([self.oval(crops, group) for group in groups])

    def oval(self, crops: np.ndarray, regions: Collection[Region]) -> np.ndarray:
        size = crops.shape[1]
        y, x = (np.mgrid[:size, :size] + 0.5) / size
        if regions == FACE:
            inside = ((x - 0.5) / 0.27) ** 2 + ((y - 0.55) / 0.36) ** 2 < 1
        else:
            assert regions == LIPS
            inside = ((x - 0.5) / 0.12) ** 2 + ((y - 0.73) / 0.05) ** 2 < 1
        return np.repeat(inside[None].astype(np.float32), len(crops), axis=0)


def landmarks(center: tuple[float, float] = CENTER, side: float = SIDE, degrees: float = 0.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((FFHQ_TEMPLATE - 255.5) / 512 * side @ turn.T + center).astype(np.float32)


def composite(
    index: int,
    center: tuple[float, float] = CENTER,
    side: float = SIDE,
    *,
    masked: bool = True,
    strength: float = 1.0,
    degrees: float = 0.0,
) -> Composite:
    image = np.random.default_rng(5).integers(0, 180, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    half = side / 3
    box = Box(
        center[0] - 0.8 * half, center[1] - half + 5, center[0] + 0.8 * half, center[1] + half + 5
    ).clipped(WIDTH, HEIGHT)
    whole = Box(*(float(value) for value in box.rounded()))
    face = Face(box, 0.9, landmarks(center, side, degrees))
    mask = None
    if masked:
        mask = np.zeros((int(whole.height), int(whole.width), 1), np.float32)
        mask[int(whole.height) // 2 :] = strength
    return Composite(Frame(index, index / 25, image), image.copy(), face, whole, mask)


def faceless(index: int) -> Composite:
    image = np.full((HEIGHT, WIDTH, 3), index, np.uint8)
    return Composite(Frame(index, index / 25, image), image)


def enhancer(region: str = "lip", **settings: float) -> FaceEnhancer:
    return FaceEnhancer(Bright(), Ovals(), region, **settings)  # type: ignore[arg-type]


def in_crop(frame: Frame, item: Composite, size: int = 512) -> np.ndarray:
    """Where the frame differs from the composite's, seen through the aligned crop."""
    changed = (frame.image != item.frame.image).any(axis=2).astype(np.float32) * 255
    assert item.face is not None
    return warp(changed, similarity(item.face.landmarks, FFHQ_TEMPLATE), size) > 0


def region_of(name: str, size: int = 512) -> np.ndarray:
    blank = np.zeros((1, size, size, 3), np.uint8)
    return Ovals().oval(blank, FACE if name == "face" else LIPS)[0] > 0


def spaced_frames(path: Path, count: int) -> list[Frame]:
    """Frames 0, 20, 40, ... of a clip."""
    capture = cv2.VideoCapture(str(path))
    found = []
    for index in range(20 * count):
        ok, image = capture.read()
        assert ok
        if index % 20 == 0:
            found.append(Frame(index, index / 25, np.asarray(image, np.uint8)))
    return found
