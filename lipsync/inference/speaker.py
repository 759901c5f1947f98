"""Whose mouth agrees with a sound: a first pass over a video with several faces.

    choice = SpeakerFinder(detector, judge).find(video, waveform)
    FollowFace(detector, select=choice)(video)

All faces are followed, and those that are in the picture together are compared with the sound by a judge. The
sound has to be the one that was recorded with the video: what a mouth is to say next agrees with nobody yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from fractions import Fraction
from itertools import islice

import cv2
import numpy as np
import torch
from torch import Tensor

from lipsync.audio.spec import SAMPLES_PER_FRAME, SYNC_FRAMES, TRAINING_FPS
from lipsync.errors import NotScorableError
from lipsync.faces.crop import crop, whole_box
from lipsync.faces.detector import FaceDetector
from lipsync.faces.selection import Chosen, FacePath, ShotChoice, apart
from lipsync.faces.shots import CutFinder
from lipsync.faces.tracker import AS_EXPECTED, Trail, assign
from lipsync.inference.hooks import Hook
from lipsync.media.reader import constant_rate
from lipsync.metrics.functional import DistanceStream
from lipsync.metrics.judges import Judge
from lipsync.metrics.stretches import finite
from lipsync.types import Box, Face, Frame, Image, Waveform

FPS = Fraction(TRAINING_FPS)
"""Rate at which a judge looks at faces."""
REACH = 3
"""Frames of 40 ms by which sound and picture of a video may be apart."""
PAIRS = 10
"""Fewest pairs of crops and sound behind the distance at any shift."""
STRIDE = 32
"""Rows compared at once."""
PASSING = 0.4
"""Seconds: who is there for less is nobody to choose."""
SILENT = 2.0**-15
"""Loudest sample of digital silence: below one step of 16 bits."""


@dataclass(frozen=True)
class SpeakerFinder:
    """Find in each shot of a video the face that speaks.

    Of the faces that are in the picture together, the one is chosen that fits the sound best: the median of
    its distances over all shifts less the least one within ``REACH`` frames. The distance alone would favour
    faces that the judge finds near to any sound: among pairs of different people it chose the wrong one in
    13 % of cases where this chose it in 3 %. A least distance far from shift zero is chance.
    Memory grows with the length of the video by the boxes and distances only, some 150 bytes a frame of each
    face beside another.

    Args:
        detector: Finds faces.
        judge: Compares crops with sound: a SyncNet expert, or SyncNet v2.
        every: Run the detector on every n-th frame of 25 a second.
        batch: Frames handed to the detector at once.
        pads: Pixels added to the box, ``top, bottom, left, right``, as the expert's training crops had.
        min_iou: Least overlap of a face with a followed one to be the same.
        max_gap: Frames of 40 ms that a face may be missing inside a track.
    """

    detector: FaceDetector
    judge: Judge
    _: KW_ONLY
    every: int = 5
    batch: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    min_iou: float = 0.3
    max_gap: int = 12

    def __post_init__(self) -> None:
        if min(self.every, self.batch) < 1 or self.max_gap < 0:
            raise ValueError(f"need every >= 1, batch >= 1, max_gap >= 0, got {self}")

    def find(
        self,
        video: Iterable[Frame],
        waveform: Waveform,
        hook: Hook | None = None,
        total: int | None = None,
    ) -> Chosen:
        """Read the video once and choose.

        Args:
            video: Frames of any rate, in order of time, as the second pass will see them.
            waveform: ``(N,)`` in [-1, 1] at 16 kHz, recorded with the video; sample 0 belongs to time 0.
            hook: Told about each frame.
            total: Frames of the video, for the hook.

        Raises:
            CheckpointError: The judge's features are not finite.
        """
        ear = _Ear(self.judge, waveform)
        starts: list[float] = []
        crowd = _Crowd(self, ear)
        crowd.watch(constant_rate(_timed(video, starts, hook, total), FPS, Fraction(1, 1000)))
        shots: list[list[_Person]] = [[] for _ in starts]
        for person in crowd.people:
            shots[person.shot].append(person)
        chosen = tuple(_choice(start, people, ear) for start, people in zip(starts, shots, strict=True))
        return Chosen(chosen, self.max_gap / TRAINING_FPS, self.min_iou)

    def crop(self, image: Image, box: Box) -> Image | None:
        """What the judge wants to see of a face; None where nothing of it is inside the image."""
        if self.judge.view == "face":
            whole = whole_box(box.padded(*self.pads), image.shape[1], image.shape[0])
            return None if whole is None else crop(image, whole, self.judge.size)
        return _scene(image, box, self.judge.size)


@dataclass(frozen=True, slots=True)
class _Still:
    """A frame as the judge's rate has it."""

    frame: Frame
    shot: int


def _timed(
    video: Iterable[Frame], starts: list[float], hook: Hook | None, total: int | None
) -> Iterator[tuple[Fraction, Fraction, _Still]]:
    """Time, duration and shot of every frame; ``starts`` gets the time of each shot's first frame.

    Cuts are looked for in all frames, as the second pass does, which then finds the same ones.
    """
    begins_shot = CutFinder()
    previous: _Still | None = None
    step = 1 / FPS
    for done, frame in enumerate(video, start=1):
        if begins_shot(frame.image) or previous is None:
            starts.append(frame.time)
        if previous is not None:
            time = Fraction(previous.frame.time)
            step = Fraction(frame.time) - time
            yield time, step, previous
        previous = _Still(frame, len(starts) - 1)
        if hook is not None:
            hook("find the speaker", done, total)
    if previous is not None:
        yield Fraction(previous.frame.time), step, previous


class _Ear:
    """Hears a sound by blocks of rows, the latest of which are remembered for all faces."""

    def __init__(self, judge: Judge, waveform: Waveform) -> None:
        self.judge = judge
        self.waveform = waveform
        self.deaf: str | None = None
        """Why nothing can be judged."""
        self._blocks: OrderedDict[int, Tensor] = OrderedDict()
        if float(np.abs(waveform).max(initial=0.0)) < SILENT:
            self.deaf = "the sound is silent"
            return
        try:
            judge.windows(waveform, 0, 0)
        except NotScorableError as error:
            self.deaf = str(error)

    def hear(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the whole sound, fewer where it ends before."""
        first, last = start // STRIDE, (stop - 1) // STRIDE
        rows = torch.cat([self._block(number) for number in range(first, last + 1)])
        return rows[start - first * STRIDE : stop - first * STRIDE]

    def _block(self, number: int) -> Tensor:
        if number not in self._blocks:
            windows = self.judge.windows(self.waveform, number * STRIDE, (number + 1) * STRIDE)
            self._blocks[number] = finite(self.judge, self.judge.hear(windows)) if len(windows) else windows
            if len(self._blocks) > 8:  # faces are at most three blocks apart
                self._blocks.popitem(last=False)
        return self._blocks[number]


class _Mouth:
    """Compares the crops of one face with the sound as they come in."""

    def __init__(self, judge: Judge, ear: _Ear) -> None:
        self.judge = judge
        self.ear = ear
        self.least = judge.vshift + PAIRS + SYNC_FRAMES - 1
        """Crops in a row below which they cannot be compared."""
        self.sums = torch.zeros(2 * judge.vshift + 1, dtype=torch.float64)
        self.counts = torch.zeros(2 * judge.vshift + 1, dtype=torch.float64)
        self._crops: list[Image] = []
        self._start = 0
        self._stream: DistanceStream | None = None

    def see(self, number: int, image: Image | None) -> None:
        """The crop of a frame, counted at 25 a second."""
        if self.ear.deaf is not None:
            return
        silent = number >= len(self.ear.waveform) // SAMPLES_PER_FRAME
        if image is None or silent or number != self._start + len(self._crops):
            self.rest()
        if image is None or silent:
            return
        if not self._crops:
            self._start = number
        self._crops.append(image)
        if len(self._crops) == STRIDE + self.least:
            self._compare(STRIDE + SYNC_FRAMES - 1)  # what is left is enough for a judge

    def rest(self) -> None:
        """No crop follows for now."""
        if len(self._crops) >= self.least:
            self._compare(len(self._crops))
        if self._stream is not None:
            distances = self._stream.finish()
            self.counts += distances.isfinite().sum(dim=0)
            self.sums += distances.nansum(dim=0)
        self._stream = None
        self._crops = []

    @property
    def confidence(self) -> float | None:
        """Median over all shifts less the best within reach; None where there are too few pairs."""
        if float(self.counts.min()) < PAIRS:
            return None
        means, middle = self.sums / self.counts, self.judge.vshift
        return float(means.median() - means[max(0, middle - REACH) : middle + REACH + 1].min())

    def _compare(self, crops: int) -> None:
        video = finite(self.judge, torch.cat(list(self.judge.look(self._crops[:crops]))))
        audio = self.ear.hear(self._start, self._start + len(video))
        self._crops = self._crops[len(video) :]
        self._start += len(video)
        if len(audio):
            self._stream = self._stream or DistanceStream(self.judge.vshift, padding=float("nan"))
            self._stream.push(video[: len(audio)], audio)


@dataclass(slots=True)
class _Person:
    """A face, followed through a shot."""

    shot: int
    trail: Trail
    mouth: _Mouth
    times: list[float] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)

    @property
    def path(self) -> FacePath:
        return FacePath(tuple(self.times), tuple(self.boxes))


class _Crowd:
    """Follows all faces of a video; holds frames back until every live face is known in them."""

    def __init__(self, finder: SpeakerFinder, ear: _Ear) -> None:
        self.finder = finder
        self.ear = ear
        self.people: list[_Person] = []
        self._live: list[_Person] = []
        self._held: OrderedDict[int, Frame] = OrderedDict()
        self._shot = 0

    def watch(self, stills: Iterator[_Still]) -> None:
        """All frames, at 25 a second."""
        number, every = 0, self.finder.every
        size = step = 1
        while chunk := list(islice(stills, size)):
            blocks = [chunk[i : i + step] for i in range(0, len(chunk), step)]
            found = self.finder.detector.detect([block[-1].frame for block in blocks])
            for block, faces in zip(blocks, found, strict=True):
                self._take(number, block, faces)
                number += len(block)
            size, step = every * self.finder.batch, every
        self._part(self._live)

    def _take(self, first: int, block: Sequence[_Still], faces: Sequence[Face]) -> None:
        """Frames from number ``first`` on, the last of which shows ``faces``."""
        inner = block[:-1]
        if inner and not self._settled(block, faces, first + len(inner)):
            found = self.finder.detector.detect([still.frame for still in inner])
            for i, (still, seen) in enumerate(zip(inner, found, strict=True)):
                self._step(first + i, still, seen)
        else:
            self._held.update((first + i, still.frame) for i, still in enumerate(inner))
        self._step(first + len(inner), block[-1], faces)

    def _settled(self, block: Sequence[_Still], faces: Sequence[Face], number: int) -> bool:
        """Whether the faces between can be interpolated: one shot, the same faces, where they should be."""
        if any(still.shot != self._shot for still in block):
            return False
        trails = [person.trail for person in self._live if not person.trail.misses]
        found = assign(trails, faces, number, self.finder.min_iou)
        return len(found) == len(faces) and all(
            at is not None and trail.expected(number).iou(faces[at].box) >= AS_EXPECTED
            for trail, at in zip(trails, found, strict=True)
        )

    def _step(self, number: int, still: _Still, faces: Sequence[Face]) -> None:
        """A frame that was looked at."""
        if still.shot != self._shot:
            self._part(self._live)
            self._held.clear()
            self._shot = still.shot
        self._held[number] = still.frame
        found = assign([person.trail for person in self._live], faces, number, self.finder.min_iou)
        gone = []
        for person, at in zip(self._live, found, strict=True):
            if at is not None:
                self._recognise(person, faces[at], number)
            else:
                person.trail = replace(person.trail, misses=person.trail.misses + 1)
                if number - person.trail.at > self.finder.max_gap:
                    gone.append(person)
        self._part(gone)
        self._live += [self._newcomer(still, face, number) for i, face in enumerate(faces) if i not in found]
        oldest = min((person.trail.at for person in self._live), default=number)
        while self._held and next(iter(self._held)) <= oldest:
            self._held.popitem(last=False)

    def _newcomer(self, still: _Still, face: Face, number: int) -> _Person:
        mouth = _Mouth(self.finder.judge, self.ear)
        return _Person(still.shot, Trail(face, number), mouth, [still.frame.time], [face.box])

    def _recognise(self, person: _Person, face: Face, number: int) -> None:
        """A live face was found again: judge the frames since, if it is not alone."""
        last = person.trail
        if len(self._live) > 1:
            for at in range(last.at + 1, number + 1):
                box = last.face.box.lerp(face.box, (at - last.at) / (number - last.at))
                person.mouth.see(at, self.finder.crop(self._held[at].image, box))
        person.trail = last.follow(face, number)
        time = self._held[number].time
        if time > person.times[-1]:  # a frame may be shown twice at 25 a second
            person.times.append(time)
            person.boxes.append(face.box)

    def _part(self, gone: Sequence[_Person]) -> None:
        """These are followed no longer."""
        for person in gone:
            person.mouth.rest()
            if person.times[-1] - person.times[0] >= PASSING:
                self.people.append(person)
        self._live = [person for person in self._live if not any(person is other for other in gone)]


def _choice(start: float, people: Sequence[_Person], ear: _Ear) -> ShotChoice:
    """Who is followed in a shot, given all the faces in it."""
    paths = [person.path for person in people]
    alone = [path for path in paths if sum(path.overlaps(other) for other in paths) == 1]
    if len(alone) == len(paths):
        return ShotChoice(start, len(people))
    scores = [(person.mouth.confidence, path) for person, path in zip(people, paths, strict=True)]
    judged = sorted([(score, path) for score, path in scores if score is not None], key=lambda item: -item[0])
    if not judged:
        least = _Mouth(ear.judge, ear).least
        reason = ear.deaf or f"none is beside another for {least} frames at a stretch, with sound"
        note = f"shot at {start:.2f} s: {len(people)} faces not judged, the largest is followed ({reason})"
        return ShotChoice(
            start, len(people), apart(sorted(paths, key=lambda path: -path.presence)), note=note
        )
    best, chosen = judged[0]
    rivals = [score for score, path in judged[1:] if path.overlaps(chosen)]
    followed = apart([*(path for _, path in judged), *alone])
    return ShotChoice(start, len(people), followed, best, best - rivals[0] if rivals else None)


def _scene(image: Image, box: Box, size: int) -> Image:
    """The wide crop that SyncNet v2 knows, grey outside the picture (Chung and Zisserman, 2016, their code).

    With ``s`` half the longer side and ``(x, y)`` the centre: rows ``y - s .. y + 1.8 s``, columns
    ``x - 1.4 s .. x + 1.4 s``.
    """
    half, (x, y) = max(box.width, box.height) / 2, box.center
    wanted = Box(x - 1.4 * half, y - half, x + 1.4 * half, y + 1.8 * half)
    x1, y1, x2, y2 = wanted.rounded()
    canvas = np.full((max(1, y2 - y1), max(1, x2 - x1), 3), 110, dtype=np.uint8)
    inside = whole_box(wanted, image.shape[1], image.shape[0])
    if inside is not None:
        left, top = int(inside.x1) - x1, int(inside.y1) - y1
        part = crop(image, inside)
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
