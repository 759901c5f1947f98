"""One pass over the pictures of a video, beside those of its reference, for all who want to see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from lipsync.errors import NotScorableError
from lipsync.evaluation.columns import Column, Family
from lipsync.evaluation.frame_pairs import (
    Comparison,
    FramePair,
    FramePairs,
    SourceLostError,
    Thumbnail,
    compare,
)
from lipsync.evaluation.inputs import VideoItem
from lipsync.faces.detector import FaceDetector
from lipsync.types import Face, Image, VideoInfo

__all__ = ["FramePair", "Measured", "Observer", "Pairing", "SetObserver", "VisualPass", "needs_faces"]

NO_DETECTOR = "no face detector; give detector=default"
UNPAIRED = ("no reference", "the reference")
"""How reasons begin that say that there is no reference to pair frames with."""
REFERENCE_FRAMES = Column(
    *("n_frames_reference", "frames of the reference", "image"),
    digits=0,
    about="More than compared: it is longer.",
)

Pairing: TypeAlias = Literal["none", "person", "frames"]
"""What an observer wants the reference for. ``frames``: frame i of it is what frame i should look like;
``person``: it shows the same person, whatever is said and at whatever size and rate; ``none``: it is shown
where its frames can be paired or where it is known to say something else, and not missed otherwise."""


class Measured(NamedTuple):
    """What was found of one video."""

    values: dict[str, float]
    """By column key."""
    reasons: dict[Family, str]
    """Why values of a family are missing."""
    thumbnail: str | None
    """JPEG in base64."""
    notes: tuple[str, ...] = ()
    """Why single values of a family that has others are missing."""
    probed: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """Values against the item's probes, by their system."""


class Observer(Protocol):
    """Measures one family of values. Called ``begin, update, update, ..., finish`` for every video.

    Three further attributes may be there: ``needs_faces: bool`` (default True: without a face detector the
    observer is not asked), ``pairing:`` :data:`Pairing` (default ``none``), and ``missing: Mapping[str,
    str]``, after ``finish`` the reason by key of every column without a value. With ``person`` and ``frames``
    the observer is asked only about videos that have such a reference; the pass says why about the others.
    """

    @property
    def family(self) -> Family:
        """What a reason stands for when there is no value."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """The values it may give."""
        ...

    def begin(self, item: VideoItem, info: VideoInfo) -> None:
        """A new video; an unfinished one before it is forgotten. ``item.reference`` is None if not shown."""
        ...

    def update(self, pair: FramePair) -> None:
        """The next frame."""
        ...

    def finish(self) -> Mapping[str, float]:
        """Values by column key, those that there are.

        Raises:
            NotScorableError: There are none; the message says why. May come from the other methods, too.
        """
        ...


@runtime_checkable
class SetObserver(Observer, Protocol):
    """Measures sets of videos, from what it keeps of every single one."""

    def update_reference(self, index: int, image: Image, face: Face | None) -> None:
        """A frame of the reference past the end of the video: a reference counts as a whole."""
        ...

    def aggregates(self, system: str, names: Sequence[str]) -> tuple[dict[str, float], list[str]]:
        """Values of the videos ``names`` of a system by column key, and remarks on them.

        Videos that were finished in an earlier run count, too.
        """
        ...


class VisualPass:
    """Shows the frames of videos to observers.

    Frames are paired by index, up to the end of the shorter video. Memory does not grow with length.

    Args:
        observers: Who measures.
        detector: Finds the faces that are followed through video and reference; None: no faces.
        expect_references: Whether a video without a reference is worth a reason; False where none were asked
            for.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        detector: FaceDetector | None = None,
        *,
        expect_references: bool = True,
    ) -> None:
        self.observers = tuple(observers)
        self.detector = detector
        self.expect_references = expect_references

    @property
    def columns(self) -> tuple[Column, ...]:
        """All values it may give, in the order of the observers."""
        found = {column.key: column for observer in self.observers for column in observer.columns}
        return (*found.values(), REFERENCE_FRAMES)

    @property
    def families(self) -> tuple[Family, ...]:
        """Families of the values, each once, in the order of the observers."""
        return tuple(dict.fromkeys(observer.family for observer in self.observers))

    def aggregates(self, system: str, names: Sequence[str]) -> tuple[dict[str, float], list[str]]:
        """Values that only the set of the videos ``names`` of a system has, and remarks on them.

        Raises:
            DataError: What was kept of a video is damaged.
        """
        values: dict[str, float] = {}
        notes: list[str] = []
        for observer in self.observers:
            if isinstance(observer, SetObserver):
                found, remarks = observer.aggregates(system, names)
                values |= found
                notes += remarks
        return values, notes

    def measure(self, item: VideoItem, info: VideoInfo) -> Measured:
        """What the observers have to say about one video, of whose file ``info`` tells.

        A reference or a face detection that fails midway costs the values that need it: the video is shown
        again without. A video that fails costs all values of all families.
        """
        wants_faces = any(needs_faces(observer) for observer in self.observers)
        comparison = compare(item, info, faces=wants_faces and self.detector is not None)
        while True:
            try:
                return self._show(item, info, comparison)
            except SourceLostError as lost:
                if lost.source == "video":
                    return Measured({}, dict.fromkeys(self.families, str(lost)), None)
                comparison = comparison.without(lost)

    def _show(self, item: VideoItem, info: VideoInfo, comparison: Comparison) -> Measured:
        reasons = _Reasons()
        obstacles = [(observer, self._obstacle(observer, item, comparison)) for observer in self.observers]
        for observer, obstacle in obstacles:
            reasons.add(observer.family, obstacle or "")
        asked = [observer for observer, obstacle in obstacles if obstacle is None]
        watchers = [_Watcher(observer, item, info, comparison) for observer in asked]
        thumbnail = Thumbnail(info.frame_count // 2)
        with closing(FramePairs(item.path, comparison, self.detector)) as pairs:
            for pair in pairs:
                thumbnail.offer(pair)
                for watcher in watchers:
                    watcher.update(pair)
                if not watchers and pair.index >= thumbnail.middle:
                    break
            _show_rest(pairs, [watcher.observer for watcher in watchers if watcher.reason is None])
        values: dict[str, float] = {}
        notes: list[str] = []
        probed: dict[str, dict[str, float]] = {}
        for watcher in watchers:
            values.update(watcher.finish())
            reasons.add(watcher.observer.family, watcher.reason or "")
            notes += watcher.notes()
            for system, found in watcher.probed().items():
                probed.setdefault(system, {}).update(found)
        if comparison.comparable:
            # Counted: what the container states of a video's length may be an estimate.
            values |= {REFERENCE_FRAMES.key: pairs.reference_frames, "n_frames": pairs.video_frames}
        return Measured(values, reasons.joined(), thumbnail.encoded(), tuple(notes), probed)

    def _obstacle(self, observer: Observer, item: VideoItem, comparison: Comparison) -> str | None:
        """Why an observer is not asked about a video, empty where that goes without saying; None if it is."""
        if needs_faces(observer) and not comparison.faces:
            return comparison.why_no_faces or NO_DETECTOR
        wanted = _pairing(observer)
        if wanted == "none":
            return None
        if item.reference is None:
            return "no reference of this name" if self.expect_references and item.expects_reference else ""
        if wanted == "frames" and not item.paired:
            return ""
        if comparison.why_unreadable is not None:
            return comparison.why_unreadable
        return comparison.why_unpaired if wanted == "frames" else None


class _Watcher:
    """One observer during one video, until it gives up."""

    def __init__(self, observer: Observer, item: VideoItem, info: VideoInfo, comparison: Comparison) -> None:
        self.observer = observer
        self.reason: str | None = None
        useful = _pairing(observer) == "person" or comparison.comparable or not item.paired
        self._sees_reference = comparison.reference is not None and useful
        self._pairs = comparison.comparable
        shown = item if self._sees_reference else dataclasses.replace(item, reference=None)
        try:
            observer.begin(shown, info)
        except NotScorableError as error:
            self._give_up(error)

    def update(self, pair: FramePair) -> None:
        if self.reason is None:
            try:
                self.observer.update(pair if self._sees_reference else pair.alone())
            except NotScorableError as error:
                self._give_up(error)

    def finish(self) -> Mapping[str, float]:
        if self.reason is None:
            try:
                return self.observer.finish()
            except NotScorableError as error:
                self._give_up(error)
        return {}

    def notes(self) -> list[str]:
        """Which columns have no value, and why; those of one reason together.

        Not where frames cannot be paired: that holds for whole rows, or the values that need it say so.
        """
        if self.reason is not None:
            return []
        by_reason: dict[str, list[str]] = {}
        for key, why in getattr(self.observer, "missing", {}).items():
            if self._pairs or not why.startswith(UNPAIRED):
                by_reason.setdefault(why, []).append(key)
        return [f"{', '.join(keys)}: {why}" for why, keys in by_reason.items()]

    def probed(self) -> Mapping[str, Mapping[str, float]]:
        """Values against the item's probes, by their system; most observers hear nothing."""
        found: Mapping[str, Mapping[str, float]] = getattr(self.observer, "probed", {})
        return found if self.reason is None else {}

    def _give_up(self, error: NotScorableError) -> None:
        self.reason = " ".join(str(error).split())


def _show_rest(pairs: FramePairs, observers: Sequence[Observer]) -> None:
    """Show the reference past the end of the video to those who measure sets; count it in any case."""
    sets = [observer for observer in observers if isinstance(observer, SetObserver)]
    if sets:
        for left in pairs.rest():
            for observer in sets:
                observer.update_reference(left.frame.index, left.frame.image, left.face)
    pairs.finish()


class _Reasons:
    """Why values of a family are missing: each reason once, in the order they came."""

    def __init__(self) -> None:
        self._found: dict[Family, list[str]] = {}

    def add(self, family: Family, reason: str) -> None:
        known = self._found.setdefault(family, [])
        if reason and reason not in known:
            known.append(reason)

    def joined(self) -> dict[Family, str]:
        return {family: "; ".join(reasons) for family, reasons in self._found.items() if reasons}


def needs_faces(observer: Observer) -> bool:
    """Whether an observer has nothing to say without a face detector."""
    return bool(getattr(observer, "needs_faces", True))


def _pairing(observer: Observer) -> Pairing:
    wanted: Pairing = getattr(observer, "pairing", "none")
    return wanted
