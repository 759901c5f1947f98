"""Follow the main face through a stream of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lipsync.faces.detector import FaceDetector
from lipsync.faces.shots import CutFinder
from lipsync.types import Face, FaceFrame, Frame


def track_face(
    frames: Iterable[Frame],
    detector: FaceDetector,
    *,
    every: int = 5,
    min_iou: float = 0.3,
    max_gap: int = 12,
    batch: int = 1,
    cut_threshold: float = 20.0,
) -> Iterator[FaceFrame]:
    """Give every frame the main face in it.

    A track begins with the largest face (area times score) and goes on with the face that overlaps it most.
    The detector looks at every ``every``-th frame. Between two such frames the box and landmarks are
    interpolated where the followed face is found again, overlapping, without a shot cut between; otherwise
    the detector looks at the frames between, too. Up to ``max_gap`` frames without the face inside a track
    are interpolated. After a longer gap, or a cut, the next track begins with whichever face is the main one;
    the frames of the gap get the main face seen in them, or None.

    One item is given per frame, in order. At most ``every * batch + max_gap`` frames are held.

    Args:
        frames: In order.
        detector: Finds the faces of single frames.
        every: Schedule of detection; 1 looks at all frames.
        min_iou: Least overlap of a face with the followed one to be the same.
        max_gap: Longest run of frames without the face that is interpolated.
        batch: Scheduled frames handed to the detector at once (for detectors on a GPU).
        cut_threshold: See :class:`lipsync.faces.shots.CutFinder`.

    Raises:
        ValueError: ``every`` or ``batch`` below 1, or ``max_gap`` below 0.
    """
    if every < 1 or batch < 1 or max_gap < 0:
        raise ValueError(f"need every >= 1, batch >= 1, max_gap >= 0, got {every}, {batch}, {max_gap}")
    follower = _Follower(detector, _Linker(min_iou, max_gap), CutFinder(cut_threshold), every)
    return follower.run(iter(frames), batch)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A frame, the faces that may be the followed one, and whether a new shot begins with it."""

    frame: Frame
    faces: Sequence[Face]
    cut: bool


class _Follower:
    """Runs the detector on schedule, and between the scheduled frames where that is needed."""

    def __init__(self, detector: FaceDetector, linker: _Linker, begins_shot: CutFinder, every: int) -> None:
        self.detector = detector
        self.linker = linker
        self.begins_shot = begins_shot
        self.every = every

    def run(self, frames: Iterator[Frame], batch: int) -> Iterator[FaceFrame]:
        size = 1  # the first frame alone, so that every block has a scheduled frame on either side
        while chunk := list(islice(frames, size)):
            cuts = [self.begins_shot(frame.image) for frame in chunk]
            # The last frame of a block is the scheduled one; the stream's last block may be shorter.
            blocks = [slice(i, min(i + self.every, len(chunk))) for i in range(0, len(chunk), self.every)]
            scheduled = self.detector.detect([chunk[block][-1] for block in blocks])
            for block, faces in zip(blocks, scheduled, strict=True):
                for item in self._complete(chunk[block], cuts[block], faces):
                    yield from self.linker.push(item)
            size = self.every * batch
        yield from self.linker.finish()

    def _complete(self, block: Sequence[Frame], cuts: Sequence[bool], faces: Sequence[Face]) -> list[_Seen]:
        """What is seen in the frames of a block, given the ``faces`` detected in its last frame."""
        found = [*self._between(block, any(cuts), faces), faces]
        return [_Seen(*item) for item in zip(block, found, cuts, strict=True)]

    def _between(self, block: Sequence[Frame], cut: bool, faces: Sequence[Face]) -> list[list[Face]]:
        """Faces of all frames of the block but its last."""
        inner = block[:-1]
        start = self.linker.newest
        if not inner:
            return []
        if cut:
            return self.detector.detect(inner)
        if start is not None and (end := self.linker.match(start, faces)) is not None:
            return [[interpolate(start, end, (i + 1) / len(block))] for i in range(len(inner))]
        if start is None and not faces:
            return self._search(inner)
        return self.detector.detect(inner)

    def _search(self, inner: Sequence[Frame]) -> list[list[Face]]:
        """Faces of frames that have none on either side: one is tried, the rest only if it shows a face."""
        middle = len(inner) // 2
        tried = self.detector.detect([inner[middle]])[0]
        if not tried:
            return [[] for _ in inner]
        others = self.detector.detect([*inner[:middle], *inner[middle + 1 :]])
        return [*others[:middle], tried, *others[middle:]]


class _Linker:
    """Chooses one face a frame; holds back frames whose face depends on what follows."""

    def __init__(self, min_iou: float, max_gap: int) -> None:
        self.min_iou = min_iou
        self.max_gap = max_gap
        self._last: Face | None = None  # newest face of the live track
        self._held: list[_Seen] = []  # frames since then, in which the followed face was not found

    @property
    def newest(self) -> Face | None:
        """The followed face if it was found in the frame pushed last."""
        return None if self._held else self._last

    def match(self, face: Face, faces: Sequence[Face]) -> Face | None:
        """The one of ``faces`` that overlaps ``face`` most, if enough to be the same."""
        best = max(faces, key=lambda other: face.box.iou(other.box), default=None)
        return best if best is not None and face.box.iou(best.box) >= self.min_iou else None

    def push(self, item: _Seen) -> Iterator[FaceFrame]:
        """Take one frame; give those whose face is settled by it."""
        if item.cut:
            yield from self.finish()
        if self._last is None:
            self._last = max(item.faces, key=lambda face: face.box.area * face.score, default=None)
            yield FaceFrame(item.frame, self._last)
            return
        face = self.match(self._last, item.faces)
        if face is None:
            self._held.append(item)
            if len(self._held) > self.max_gap:
                yield from self._abandon()
            return
        for i, held in enumerate(self._held, start=1):
            yield FaceFrame(held.frame, interpolate(self._last, face, i / (len(self._held) + 1)))
        self._held.clear()
        self._last = face
        yield FaceFrame(item.frame, face)

    def finish(self) -> Iterator[FaceFrame]:
        """End the track; give all frames held back."""
        while self._held:
            yield from self._abandon()
        self._last = None

    def _abandon(self) -> Iterator[FaceFrame]:
        """The followed face is lost: look at the frames held back anew, for another track."""
        held, self._held, self._last = self._held, [], None
        for item in held:
            yield from self.push(item)


def interpolate(start: Face, end: Face, weight: float) -> Face:
    """The face between two: ``start`` at weight 0, ``end`` at 1; landmarks only where both have them."""
    landmarks = None
    if start.landmarks is not None and end.landmarks is not None:
        landmarks = (start.landmarks + (end.landmarks - start.landmarks) * np.float32(weight)).astype(
            np.float32
        )
    return Face(start.box.lerp(end.box, weight), start.score + (end.score - start.score) * weight, landmarks)
