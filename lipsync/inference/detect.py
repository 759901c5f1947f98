"""From frames to frames with the face to be synthesised: detected and followed, or a box given by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby
from math import isfinite
from typing import TypeAlias

from lipsync.errors import ConfigError, NoFaceError
from lipsync.faces.crop import whole_box
from lipsync.faces.detector import FaceDetector
from lipsync.faces.selection import Selection, largest
from lipsync.faces.smoothing import smooth_boxes
from lipsync.faces.tracker import track_face
from lipsync.types import Box, Face, FaceFrame, Frame

Pads: TypeAlias = tuple[int, int, int, int]
"""``top, bottom, left, right`` in pixels, the order of ``--pads``."""

HOW_TO_HELP = "try another detector or give the region with box=[top,bottom,left,right]"
"""What the user can do about a face that is not found."""

GLANCES = 7
"""Of eight looks of the schedule this many go to the known faces only, where the detector can do that."""

FaceStage: TypeAlias = Callable[[Iterable[Frame]], Iterator[FaceFrame]]


class FollowFace:
    """Follow one face: detection every few frames, tracking between, smoothed and padded boxes.

    In each shot the face to follow is chosen anew; within a shot nobody else takes its place.

    Args:
        detector: Finds faces in frames.
        every: Run the detector on every n-th frame.
        smooth: Average the boxes over five frames (``--nosmooth`` turns it off).
        pads: Pixels added to the box, ``top, bottom, left, right``.
        must_have_face: Raise at the first frame without a face instead of passing it through.
        select: Chooses the face to follow; see :mod:`lipsync.faces.selection` and
            :class:`lipsync.inference.speaker.SpeakerFinder`.
        batch: Frames handed to the detector at once (for detectors on a GPU).
        patience: Frames after which somebody who was seen beside the followed face may take its place once
            that is gone; None: not before the next shot.
    """

    def __init__(
        self,
        detector: FaceDetector,
        *,
        every: int = 5,
        smooth: bool = True,
        pads: Pads = (0, 0, 0, 0),
        must_have_face: bool = False,
        select: Selection = largest,
        batch: int = 1,
        patience: int | None = None,
    ) -> None:
        self.detector = detector
        self.every = every
        self.select = select
        self.batch = batch
        self.patience = patience
        self.smooth = smooth
        self.pads = pads
        self.must_have_face = must_have_face

    def __call__(self, frames: Iterable[Frame]) -> Iterator[FaceFrame]:
        """One ``FaceFrame`` for each frame, in order; each pass over a repeated video is followed afresh.

        Raises:
            NoFaceError: A frame has no face and ``must_have_face`` is set.
        """
        for _, run in groupby(frames, _PassNumber()):
            for item in self._follow(run):
                region = _region(item.frame, item.face, self.pads)
                if region is None and self.must_have_face:
                    raise NoFaceError(_without_face(item.frame))
                yield FaceFrame(item.frame, None if region is None else item.face, region)

    def _follow(self, frames: Iterable[Frame]) -> Iterator[FaceFrame]:
        followed = track_face(
            frames,
            self.detector,
            every=self.every,
            batch=self.batch,
            select=self.select,
            patience=self.patience,
            glances=GLANCES,
        )
        return smooth_boxes(followed) if self.smooth else followed


class FirstFace:
    """Detect on the first frame only and keep that face: for still images and ``--static``."""

    def __init__(
        self, detector: FaceDetector, *, pads: Pads = (0, 0, 0, 0), select: Selection = largest
    ) -> None:
        self.detector = detector
        self.pads = pads
        self.select = select

    def __call__(self, frames: Iterable[Frame]) -> Iterator[FaceFrame]:
        """One ``FaceFrame`` for each frame, all with the first frame's face.

        Raises:
            NoFaceError: The first frame has no face.
        """
        iterator = iter(frames)
        for first in iterator:
            found = next(track_face([first], self.detector, every=1, select=self.select))
            region = _region(first, found.face, self.pads)
            if region is None:
                raise NoFaceError(_without_face(first))
            for frame in chain([first], iterator):
                yield FaceFrame(frame, found.face, region)


class FixedBox:
    """The same hand-given box on every frame; nothing is detected and no pads are added.

    Args:
        box: ``top, bottom, left, right`` in pixels of the frame, the order of ``--box``.

    Raises:
        ConfigError: The box is empty.
    """

    def __init__(self, box: tuple[int, int, int, int]) -> None:
        top, bottom, left, right = box
        if bottom <= top or right <= left:
            raise ConfigError(
                f"box={list(box)} is empty: give top, bottom, left, right with top < bottom, left < right"
            )
        self.box = list(box)
        self.face = Face(Box(left, top, right, bottom), score=1.0)

    def __call__(self, frames: Iterable[Frame]) -> Iterator[FaceFrame]:
        """One ``FaceFrame`` for each frame, all with the given box.

        Raises:
            ConfigError: The box lies outside the frame.
        """
        for frame in frames:
            if _region(frame, self.face, (0, 0, 0, 0)) is None:
                height, width = frame.image.shape[:2]
                raise ConfigError(f"box={self.box} lies outside the picture of {width}x{height} pixels")
            yield FaceFrame(frame, self.face)


def _region(frame: Frame, face: Face | None, pads: Pads) -> Box | None:
    """The face's box grown by ``pads``; None where nothing of it is inside the frame."""
    if face is None:
        return None
    height, width = frame.image.shape[:2]
    box = face.box.padded(*pads)
    return None if whole_box(box, width, height) is None else box


class _PassNumber:
    """Counts how often a repeated video has started again, seen by a jump back in the frames' time.

    Frames that come one by one in reverse order, as on the way back of a bounce, go on with the pass.
    """

    def __init__(self) -> None:
        self.number = 0
        self._time = float("-inf")
        self._step = 0.0

    def __call__(self, frame: Frame) -> int:
        step = frame.time - self._time
        if step < -2 * self._step:
            self.number += 1
        elif isfinite(step) and step:
            self._step = abs(step)
        self._time = frame.time
        return self.number


def _without_face(frame: Frame) -> str:
    where = f"{frame.source}: " if frame.source else ""
    return f"{where}no face in frame {frame.index} (at {frame.time:.2f} s); {HOW_TO_HELP}"
