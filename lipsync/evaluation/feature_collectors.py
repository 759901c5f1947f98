"""From the frames of a video to rows of features in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lipsync.evaluation.columns import Region
from lipsync.evaluation.feature_store import Features, FeatureWriter
from lipsync.evaluation.regions import cut, region_box
from lipsync.faces.crop import crop
from lipsync.metrics.frechet import I3DFeatures, squared
from lipsync.types import Box, Face, Image

BATCH = 8
"""Pictures that go through the network at once."""
MIN_SIDE = 16
"""Shortest side of a region that counts, pixels."""
SAME_FACE = 0.3
"""Overlap (IoU) with the first box of a clip, below which a face has left it."""


class Collector(Protocol):
    """Turns the frames of one video, or of one reference, into rows of features in a file."""

    def add(self, index: int, image: Image, face: Face | None) -> None:
        """The next frame."""
        ...

    def finish(self) -> int:
        """Close the file; the number of rows."""
        ...

    def discard(self) -> None:
        """Drop what was not finished."""
        ...


class FrameCollector:
    """Features of single pictures.

    Args:
        network: Gives them.
        writer: Takes them.
        region: Part of the picture; skipped where a side is below 16 pixels.
        every: Frames 0, every, 2 * every ... count.
    """

    def __init__(
        self,
        network: Callable[[Sequence[Image]], Features],
        writer: FeatureWriter,
        region: Region,
        every: int,
    ) -> None:
        self._network = network
        self._writer = writer
        self._region: Region = region
        self._every = every
        self._pictures: list[Image] = []

    def add(self, index: int, image: Image, face: Face | None) -> None:
        """The next frame."""
        if index % self._every:
            return
        picture = cut(self._region, face, image)
        if picture is None or min(picture.shape[:2]) < MIN_SIDE:
            return
        self._pictures.append(picture)
        if len(self._pictures) == BATCH:
            self._flush()

    def finish(self) -> int:
        """Close the file; the number of rows."""
        self._flush()
        rows = self._writer.rows
        self._writer.close()
        return rows

    def discard(self) -> None:
        """Drop what was not finished."""
        self._pictures.clear()
        self._writer.discard()

    def _flush(self) -> None:
        if self._pictures:
            self._writer.append(self._network(self._pictures))
            self._pictures.clear()


class ClipCollector:
    """Features of faces in motion: clips that follow one another, each cut out by its first frame's box.

    A clip that the face leaves is dropped, and the next begins.

    Args:
        network: Gives them.
        writer: Takes them.
    """

    def __init__(self, network: I3DFeatures, writer: FeatureWriter) -> None:
        self._network = network
        self._writer = writer
        self._box: Box | None = None
        self._pictures: list[npt.NDArray[np.uint8]] = []

    def add(self, index: int, image: Image, face: Face | None) -> None:
        """The next frame."""
        box = region_box("face", face, image.shape[1], image.shape[0])
        if box is None or min(box.width, box.height) < MIN_SIDE:
            self._pictures.clear()
            return
        if self._box is None or not self._pictures or self._box.iou(box) < SAME_FACE:
            self._pictures.clear()
            self._box = box
        self._pictures.append(squared(crop(image, self._box), self._network.size))
        if len(self._pictures) == self._network.frames:
            self._writer.append(self._network([np.stack(self._pictures)]))
            self._pictures.clear()

    def finish(self) -> int:
        """Close the file; the number of rows."""
        rows = self._writer.rows
        self._writer.close()
        return rows

    def discard(self) -> None:
        """Drop what was not finished."""
        self._pictures.clear()
        self._writer.discard()
