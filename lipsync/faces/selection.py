"""Which of several faces a track begins with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lipsync.errors import ConfigError
from lipsync.types import Box, Face, Frame

Selection: TypeAlias = Callable[[Frame, Sequence[Face]], Face | None]
"""Asked on the frame where a track may begin; None: none of the faces, so ask again on the next frame.

It must depend on its arguments alone: a tracker may ask twice, or leave frames out.
"""


def largest(frame: Frame, faces: Sequence[Face]) -> Face | None:
    """The greatest area times score."""
    return max(faces, key=lambda face: face.box.area * face.score, default=None)


def center(frame: Frame, faces: Sequence[Face]) -> Face | None:
    """The face whose centre is nearest to the centre of the frame."""
    height, width = frame.image.shape[:2]

    def distance(face: Face) -> float:
        x, y = face.box.center
        return (x - width / 2) ** 2 + (y - height / 2) ** 2

    return min(faces, key=distance, default=None)


def left(frame: Frame, faces: Sequence[Face]) -> Face | None:
    """The leftmost centre."""
    return min(faces, key=_across, default=None)


def right(frame: Frame, faces: Sequence[Face]) -> Face | None:
    """The rightmost centre."""
    return max(faces, key=_across, default=None)


def nth(index: int) -> Selection:
    """The ``index``-th face from the left, counted from 0; none while there are fewer.

    Raises:
        ConfigError: ``index`` is negative.
    """
    if index < 0:
        raise ConfigError(f"face index {index}: give 0 for the leftmost face, 1 for the next one, and so on")

    def select(frame: Frame, faces: Sequence[Face]) -> Face | None:
        return sorted(faces, key=_across)[index] if index < len(faces) else None

    return select


RULES: dict[str, Selection] = {"largest": largest, "center": center, "left": left, "right": right}


def selection(name: str, index: int = 0) -> Selection:
    """The rule of a name: ``largest``, ``center``, ``left``, ``right``, or ``index`` with its number.

    Raises:
        ConfigError: Unknown name, or a negative index.
    """
    if name == "index":
        return nth(index)
    if name not in RULES:
        raise ConfigError(f"face selection {name!r} is unknown: use {', '.join(RULES)} or index")
    return RULES[name]


def _across(face: Face) -> float:
    return face.box.center[0]


@dataclass(frozen=True, slots=True)
class FacePath:
    """Where a face was in the course of its track."""

    times: tuple[float, ...]
    """Seconds, increasing; the face was looked at then."""
    boxes: tuple[Box, ...]

    def at(self, time: float, slack: float = 0.0) -> Box | None:
        """The box at a time, interpolated; at most ``slack`` seconds beyond the ends the last one."""
        if not self.times[0] - slack <= time <= self.times[-1] + slack:
            return None
        after = bisect_right(self.times, time)
        if after in (0, len(self.times)):
            return self.boxes[min(after, len(self.times) - 1)]
        start, end = self.times[after - 1], self.times[after]
        return self.boxes[after - 1].lerp(self.boxes[after], (time - start) / (end - start))

    def overlaps(self, other: FacePath) -> bool:
        """Whether both faces are there at one time."""
        return self.times[0] <= other.times[-1] and other.times[0] <= self.times[-1]

    @property
    def seconds(self) -> float:
        """Length of the track."""
        return self.times[-1] - self.times[0]

    @property
    def presence(self) -> float:
        """Area times time: who is large and stays."""
        return sum(box.area for box in self.boxes) / len(self.boxes) * self.seconds


def apart(paths: Sequence[FacePath]) -> tuple[FacePath, ...]:
    """The first path, and those after it that are at no time beside one already taken."""
    taken: list[FacePath] = []
    for path in paths:
        if not any(path.overlaps(other) for other in taken):
            taken.append(path)
    return tuple(taken)


@dataclass(frozen=True, slots=True)
class ShotChoice:
    """Who is to be followed in one shot."""

    start: float
    """Seconds."""
    faces: int
    """Tracks that were found, but for those of passing faces."""
    paths: tuple[FacePath, ...] = ()
    """Of the face chosen, best first; none where no two faces meet, so that nothing is to be chosen."""
    confidence: float | None = None
    """How well the first path fits the sound; None where nothing was judged."""
    margin: float | None = None
    """By how much the next best face fits worse; None where there was none to compare with."""
    note: str | None = None
    """Why the choice is not the judge's."""


@dataclass(frozen=True)
class Chosen:
    """Rule for the face that a track begins with: the speaker of the shot, found beforehand.

    Goes by the time of a frame, so it serves for any pass over the video, forwards or backwards. While the
    chosen face is not there, none is selected.
    """

    shots: tuple[ShotChoice, ...]
    slack: float = 0.48
    """Seconds around a path in which its last box still counts."""
    min_iou: float = 0.3
    """Least overlap with the path."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user must know: where the choice is not the judge's."""
        return tuple(shot.note for shot in self.shots if shot.note is not None)

    def __call__(self, frame: Frame, faces: Sequence[Face]) -> Face | None:
        """The face on the path of the shot's speaker."""
        at = bisect_right([shot.start for shot in self.shots], frame.time) - 1
        if at < 0 or not self.shots[at].paths:
            return largest(frame, faces)
        paths = self.shots[at].paths
        places = [path.at(frame.time) for path in paths] + [path.at(frame.time, self.slack) for path in paths]
        place = next((box for box in places if box is not None), None)
        if place is None:
            return None
        best = max(faces, key=lambda face: face.box.iou(place), default=None)
        return best if best is not None and best.box.iou(place) >= self.min_iou else None
