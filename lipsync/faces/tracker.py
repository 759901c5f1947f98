"""Follow one face through a stream of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from lipsync.faces.detector import FaceDetector, RefindingDetector
from lipsync.faces.selection import Selection, largest
from lipsync.faces.shots import CutFinder
from lipsync.types import Box, Face, FaceFrame, Frame

AS_EXPECTED = 0.5
"""Overlap with the place where a face should be by now from which on it needs no closer look."""
ESTABLISHED = 3
"""Looks that make a face somebody; less may be a mistake of the detector."""


def track_face(
    frames: Iterable[Frame],
    detector: FaceDetector,
    *,
    every: int = 5,
    min_iou: float = 0.3,
    max_gap: int = 12,
    batch: int = 1,
    cut_threshold: float = 20.0,
    select: Selection = largest,
    patience: int | None = 0,
    glances: int = 0,
) -> Iterator[FaceFrame]:
    """Give every frame the face followed in it.

    A track begins with the face that ``select`` chooses and goes on with the same one: it overlaps where that
    face was last, and no other face followed beside it has a better claim (see :func:`assign`).
    The detector looks at every ``every``-th frame. Between two such frames the box and landmarks are
    interpolated where the followed face is found again, overlapping, without a shot cut between and without
    a second face in the same place; otherwise the detector looks at the frames between, too. Up to
    ``max_gap`` frames without the face inside a track are interpolated. After a longer gap, or a cut, the
    next track begins with whichever face is chosen then; the frames of the gap get the one chosen in them,
    or None.

    One item is given per frame, in order. At most ``every * batch + max_gap`` frames are held.

    Args:
        frames: In order.
        detector: Finds the faces of single frames.
        every: Schedule of detection; 1 looks at all frames.
        min_iou: Least overlap of a face with the followed one to be the same.
        max_gap: Longest run of frames without the face that is interpolated.
        batch: Scheduled frames handed to the detector at once (for detectors on a GPU).
        cut_threshold: See :class:`lipsync.faces.shots.CutFinder`.
        select: Chooses the face that a track begins with.
        patience: Frames from the followed face's last sight on for which, within the shot, no track begins
            with a face that was seen beside it; None: the rest of the shot.
        glances: After this many scheduled frames in which a :class:`RefindingDetector` was only asked about
            the faces it knows, it looks for all faces; 0 always does. For ``batch`` 1.

    Raises:
        ValueError: ``every`` or ``batch`` below 1, or ``max_gap`` below 0.
    """
    if every < 1 or batch < 1 or max_gap < 0:
        raise ValueError(f"need every >= 1, batch >= 1, max_gap >= 0, got {every}, {batch}, {max_gap}")
    linker = _Linker(min_iou, max_gap, select, patience)
    return _Follower(detector, linker, CutFinder(cut_threshold), every, glances).run(iter(frames), batch)


@dataclass(frozen=True, slots=True)
class Trail:
    """Where a face was seen last, and how it moves."""

    face: Face
    at: int
    """Number of the frame."""
    velocity: tuple[float, float] = (0.0, 0.0)
    """Pixels a frame."""
    sights: int = 1
    """Looks that found it."""
    misses: int = 0
    """Looks since then that did not."""

    def follow(self, face: Face, at: int, *, looked: bool = True) -> Trail:
        """The trail with its face seen again, or known by interpolation."""
        steps = max(1, at - self.at)
        (x, y), (x0, y0) = face.box.center, self.face.box.center
        # Halfway to the newest step: one box taken from a passer-by does not turn the direction round.
        velocity = tuple(
            (old + new / steps) / 2 for old, new in zip(self.velocity, (x - x0, y - y0), strict=True)
        )
        return Trail(face, at, (velocity[0], velocity[1]), self.sights + looked)

    def expected(self, at: int) -> Box:
        """Where the face would be in another frame if it went on moving."""
        last, steps = self.face.box, max(0, at - self.at)
        dx, dy = (speed * steps for speed in self.velocity)
        return Box(last.x1 + dx, last.y1 + dy, last.x2 + dx, last.y2 + dy)

    def affinity(self, face: Face, at: int) -> float:
        """How well a face goes on from here: overlap with the last box and with where it should be by now.

        Of two that overlap equally, the one in the direction of motion and of more similar size is better.
        """
        last = self.face.box
        areas = sorted((last.area, face.box.area))
        similarity = (areas[0] / areas[1]) ** 0.5 if areas[1] > 0 else 0.0
        return (last.iou(face.box) + self.expected(at).iou(face.box)) / 2 * similarity


def assign(trails: Sequence[Trail], faces: Sequence[Face], at: int, min_iou: float) -> list[int | None]:
    """For each trail which of the faces goes on with it, the best pairs first; none is shared.

    Args:
        trails: Of one shot.
        faces: Seen in one frame.
        at: Number of that frame.
        min_iou: Least overlap with the trail's last box.
    """
    pairs = [
        (trail.affinity(face, at), i, j)
        for i, trail in enumerate(trails)
        for j, face in enumerate(faces)
        if trail.face.box.iou(face.box) >= min_iou
    ]
    found: list[int | None] = [None] * len(trails)
    taken: set[int] = set()
    for _, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if found[i] is None and j not in taken:
            found[i] = j
            taken.add(j)
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of a frame."""

    frame: Frame
    at: int
    """Its number, counted here."""
    faces: Sequence[Face]
    cut: bool
    """Whether a new shot begins with it."""
    sure: bool = False
    """Whether the one face is the followed one, interpolated."""


class _Follower:
    """Runs the detector on schedule, and between the scheduled frames where that is needed."""

    def __init__(
        self, detector: FaceDetector, linker: _Linker, begins_shot: CutFinder, every: int, glances: int
    ) -> None:
        self.detector = detector
        self.linker = linker
        self.begins_shot = begins_shot
        self.every = every
        self.glances = glances
        self._glanced = 0  # scheduled frames since the last in which all faces were looked for

    def run(self, frames: Iterator[Frame], batch: int) -> Iterator[FaceFrame]:
        size = 1  # the first frame alone, so that every block has a scheduled frame on either side
        number = 0
        while chunk := list(islice(frames, size)):
            seen = [
                _Seen(frame, at, (), self.begins_shot(frame.image)) for at, frame in enumerate(chunk, number)
            ]
            number += len(seen)
            # The last frame of a block is the scheduled one; the stream's last block may be shorter.
            blocks = [seen[i : i + self.every] for i in range(0, len(seen), self.every)]
            scheduled = self._scheduled(blocks)
            for block, faces in zip(blocks, scheduled, strict=True):
                for item in [*self._between(block, faces), replace(block[-1], faces=faces)]:
                    yield from self.linker.push(item)
            size = self.every * batch
        yield from self.linker.finish()

    def _scheduled(self, blocks: Sequence[Sequence[_Seen]]) -> list[list[Face]]:
        """Faces in the last frame of each block: the known ones if all are found again, else all."""
        faces = self._glanced_at(blocks[0]) if len(blocks) == 1 else None
        if faces is not None:
            self._glanced += 1
            return [faces]
        self._glanced = 0
        return self.detector.detect([block[-1].frame for block in blocks])

    def _glanced_at(self, block: Sequence[_Seen]) -> list[Face] | None:
        """The known faces where they are now; None where it takes detection to tell."""
        last = block[-1]
        known = self.linker.known(last.at)
        if not known or self._glanced >= self.glances or any(item.cut for item in block):
            return None
        if not isinstance(self.detector, RefindingDetector):
            return None
        found = [face for face in self.detector.refind(last.frame, known) if face is not None]
        # Fewer than one a face: somebody left. No match: two of them became one, or the face jumped.
        complete = len(found) == len(known) and self.linker.match(found, last.at) is not None
        return found if complete else None

    def _between(self, block: Sequence[_Seen], faces: Sequence[Face]) -> list[_Seen]:
        """All frames of the block but its last, given the ``faces`` of that one."""
        inner, last = block[:-1], block[-1]
        if not inner:
            return []
        if any(item.cut for item in block):
            return self._looked(inner)
        start = self.linker.newest
        if start is not None and (end := self.linker.match(faces, last.at)) is not None:
            return [
                replace(item, faces=[interpolate(start, end, i / len(block))], sure=True)
                for i, item in enumerate(inner, start=1)
            ]
        if start is None and self.linker.ignores(last, faces):
            return self._search(inner)
        return self._looked(inner)

    def _search(self, inner: Sequence[_Seen]) -> list[_Seen]:
        """Frames between two that are of no use: one is tried, the rest only if that one is."""
        middle = len(inner) // 2
        tried = self._looked(inner[middle : middle + 1])
        if self.linker.ignores(tried[0], tried[0].faces):
            return [*inner[:middle], *tried, *inner[middle + 1 :]]
        others = self._looked([*inner[:middle], *inner[middle + 1 :]])
        return [*others[:middle], *tried, *others[middle:]]

    def _looked(self, items: Sequence[_Seen]) -> list[_Seen]:
        found = self.detector.detect([item.frame for item in items])
        return [replace(item, faces=faces) for item, faces in zip(items, found, strict=True)]


class _Linker:
    """Chooses one face a frame; holds back frames whose face depends on what follows."""

    def __init__(self, min_iou: float, max_gap: int, select: Selection, patience: int | None) -> None:
        self.min_iou = min_iou
        self.max_gap = max_gap
        self.select = select
        self.patience = patience
        self._trail: Trail | None = None  # of the followed face
        self._others: list[Trail] = []  # of faces seen beside it in this shot
        self._others_then: list[Trail] = []  # as they were when the followed face was found last
        self._lost: int | None = None  # the frame in which the followed face of this shot was seen last
        self._held: list[_Seen] = []  # frames since then, in which it was not found

    @property
    def newest(self) -> Face | None:
        """The followed face if it was found in the frame pushed last."""
        return None if self._trail is None or self._held else self._trail.face

    def known(self, at: int) -> list[Face]:
        """Where the faces of this shot should be in frame ``at``; none while the followed one is lost."""
        if self._trail is None or self._held:
            return []
        return [replace(trail.face, box=trail.expected(at)) for trail in (self._trail, *self._others)]

    def match(self, faces: Sequence[Face], at: int) -> Face | None:
        """The followed face among those of frame ``at``; None also where another one may be it."""
        if self._trail is None:
            return None
        last, expected = self._trail.face.box, self._trail.expected(at)
        near = [face for face in faces if max(last.iou(face.box), expected.iou(face.box)) >= self.min_iou]
        if len(near) != 1 or expected.iou(near[0].box) < AS_EXPECTED:
            return None
        return self._recognised(faces, at)

    def ignores(self, item: _Seen, faces: Sequence[Face]) -> bool:
        """Whether nothing would come of these faces in this frame."""
        return not faces or (self._trail is None and self._chosen(item, faces) is None)

    def push(self, item: _Seen) -> Iterator[FaceFrame]:
        """Take one frame; give those whose face is settled by it."""
        if item.cut:
            yield from self.finish()
        trail = self._trail
        if trail is None:
            face = self._chosen(item, item.faces)
            self._watch(item, face)
            self._trail = None if face is None else Trail(face, item.at)
            yield FaceFrame(item.frame, face)
            return
        if not self._held:
            self._others_then = list(self._others)
        face = item.faces[0] if item.sure else self._recognised(item.faces, item.at)
        self._watch(item, face)
        if face is None:
            self._held.append(item)
            if len(self._held) > self.max_gap:
                yield from self._abandon()
            return
        for i, held in enumerate(self._held, start=1):
            yield FaceFrame(held.frame, interpolate(trail.face, face, i / (len(self._held) + 1)))
        self._held.clear()
        self._trail = trail.follow(face, item.at, looked=not item.sure)
        yield FaceFrame(item.frame, face)

    def finish(self) -> Iterator[FaceFrame]:
        """End the track and the shot; give all frames held back."""
        while self._held:
            yield from self._abandon()
        self._trail = self._lost = None
        self._others = []

    def _abandon(self) -> Iterator[FaceFrame]:
        """The followed face is lost: look at the frames held back anew, for another track."""
        held, self._held = self._held, []
        if self._trail is not None and self._trail.sights >= ESTABLISHED:
            self._lost = self._trail.at
        self._trail, self._others = None, self._others_then
        for item in held:
            yield from self.push(item)

    def _recognised(self, faces: Sequence[Face], at: int) -> Face | None:
        """The followed face, unless another face has a better claim to the place."""
        if self._trail is None:
            return None
        found = assign([self._trail, *self._others], faces, at, self.min_iou)[0]
        return None if found is None else faces[found]

    def _chosen(self, item: _Seen, faces: Sequence[Face]) -> Face | None:
        """What a track would begin with."""
        fresh = list(faces)
        if self._lost is not None and (self.patience is None or item.at - self._lost <= self.patience):
            known = set(assign(self._others, faces, item.at, self.min_iou))
            fresh = [face for i, face in enumerate(faces) if i not in known]
        face = self.select(item.frame, fresh)
        if face is None and len(fresh) < len(faces):
            # A rule that counts must count all of them; still, none that was seen beside the lost one.
            face = self.select(item.frame, faces)
            return face if any(face is other for other in fresh) else None
        return face

    def _watch(self, item: _Seen, followed: Face | None) -> None:
        """Keep the trails of the faces beside the followed one."""
        if item.sure:
            return
        faces = [face for face in item.faces if face is not followed]
        found = assign(self._others, faces, item.at, self.min_iou)
        trails = [
            replace(trail, misses=trail.misses + 1) if at is None else trail.follow(faces[at], item.at)
            for trail, at in zip(self._others, found, strict=True)
        ]
        self._others = [trail for trail in trails if trail.misses <= self.max_gap]
        if followed is None:
            return
        # A box upon the followed face is the same person, detected twice.
        self._others += [
            Trail(face, item.at)
            for i, face in enumerate(faces)
            if i not in found and followed.box.iou(face.box) < self.min_iou
        ]


def interpolate(start: Face, end: Face, weight: float) -> Face:
    """The face between two: ``start`` at weight 0, ``end`` at 1; landmarks only where both have them."""
    landmarks = None
    if start.landmarks is not None and end.landmarks is not None:
        landmarks = (start.landmarks + (end.landmarks - start.landmarks) * np.float32(weight)).astype(
            np.float32
        )
    return Face(start.box.lerp(end.box, weight), start.score + (end.score - start.score) * weight, landmarks)
