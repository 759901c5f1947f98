"""Score the videos of every system: one result each, with values or with the reason why there are none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lipsync.errors import DataError, MediaError, NoFaceError, NotScorableError
from lipsync.evaluation.columns import Family
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.journal import Journal
from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.evaluation.results import SystemResult, VideoResult
from lipsync.evaluation.sounds import SoundShelf
from lipsync.evaluation.sync import SHIFTED, SyncReading, one_line, read_sync
from lipsync.evaluation.systems import Plan
from lipsync.evaluation.visual import SetObserver, VisualPass
from lipsync.media.probe import probe
from lipsync.metrics.judges import Judge
from lipsync.types import VideoInfo, Waveform

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""``(step, completed, total)``."""

PER_VIDEO = (MediaError, NoFaceError, DataError, NotScorableError)
"""What is wrong with one video; anything else ends the run."""

PROBES = {
    "shuffled": (
        "Shuffled sound",
        "The same frames scored against another video's sound: the floor, what a mouth gets that says "
        "something else.",
    ),
    SHIFTED: (
        "Known shifts",
        "The same frames scored against their own sound shifted by known numbers of frames: whether the "
        "measured offset moves by as much.",
    ),
}
"""Label and description of the systems that probes make."""


@dataclass(frozen=True)
class Evaluator:
    """Scores systems.

    Args:
        judge: None leaves the sync scores out.
        protocol: How crops for the judge are made.
        visual: Picture, identity and landmark measures; None leaves them out.
        journal: Where finished videos are kept.
        progress: Told after every video.
    """

    judge: Judge | None
    protocol: EvaluationProtocol
    visual: VisualPass | None
    journal: Journal
    progress: Progress | None = None

    def system(self, plan: Plan, failed: Mapping[str, str] | None = None) -> list[SystemResult]:
        """The plan's system, then those that its probes make.

        Args:
            plan: What to score.
            failed: Videos that could not be made, with the reason.
        """
        shelf = SoundShelf(self._load_sound)
        rows: dict[str, list[VideoResult]] = {plan.name: []}
        for done, item in enumerate(plan.items, start=1):
            for system, result in self._results(item, shelf, (failed or {}).get(item.name)).items():
                rows.setdefault(system, []).append(result)
            if self.progress is not None:
                self.progress(f"score {plan.name}", done, len(plan.items))
        names = [result.name for result in rows[plan.name] if result.reason is None]
        aggregates, notes = self._aggregates(plan.name, names)
        own = SystemResult(
            plan.name, plan.label, plan.about, rows.pop(plan.name), aggregates, [*plan.notes, *notes]
        )
        return [own, *(SystemResult(name, *PROBES[name], results) for name, results in rows.items())]

    def _results(self, item: VideoItem, shelf: SoundShelf, failure: str | None) -> dict[str, VideoResult]:
        known = self.journal.find(item)
        if known is None:
            known = self._measure(item, shelf, failure)
            self.journal.add(item, known)
        return known

    def _measure(self, item: VideoItem, shelf: SoundShelf, failure: str | None) -> dict[str, VideoResult]:
        """Results by system."""
        info: VideoInfo | None = None
        if failure is None:
            try:
                info = probe(item.path)
            except PER_VIDEO as error:
                failure = one_line(error)
        if info is None:
            return {item.system: _unreadable(item, self._families(), failure or "")}
        readings = self._sync(item, shelf)
        own = readings.pop(item.system)
        values = {**own.values}
        reasons: dict[Family, str] = {} if own.reason is None else {"sync": own.reason}
        thumbnail = None
        if self.visual is not None:
            seen, missing, thumbnail = self.visual.measure(item, info)
            values |= seen
            reasons |= missing
        values |= {
            "fps": float(info.fps),
            "width": info.width,
            "height": info.height,
            "n_frames": info.frame_count,
            "duration": info.duration,
        }
        results = {
            item.system: VideoResult(
                item.name,
                str(item.path),
                values,
                reasons,
                reference=None if item.reference is None else str(item.reference),
                notes=own.notes,
                thumbnail=thumbnail,
                **own.details,
            )
        }
        return results | {system: _probed(item, reading) for system, reading in readings.items()}

    def _sync(self, item: VideoItem, shelf: SoundShelf) -> dict[str, SyncReading]:
        if self.judge is None:
            return {item.system: SyncReading()}
        try:
            return read_sync(item, self.judge, self.protocol, shelf.sounds_for(item))
        except PER_VIDEO as error:
            systems = [item.system, *dict.fromkeys(name.partition(":")[0] for name in item.probes)]
            return {system: SyncReading(reason=one_line(error)) for system in systems}

    def _load_sound(self, path: Path) -> Waveform:
        if self.judge is None:
            raise ValueError("no judge, so no sound is asked for")
        return self.protocol.load_sound(path, self.judge)

    def _aggregates(self, system: str, names: Sequence[str]) -> tuple[dict[str, float], list[str]]:
        """Values that only the set of videos has, and remarks on them."""
        values: dict[str, float] = {}
        notes: list[str] = []
        for observer in self.visual.observers if self.visual is not None else ():
            if isinstance(observer, SetObserver):
                found, remarks = observer.aggregates(system, names)
                values |= found
                notes += remarks
        return values, notes

    def _families(self) -> list[Family]:
        """Families of values that were asked for."""
        families: list[Family] = ["sync"] if self.judge is not None else []
        seen = () if self.visual is None else (observer.family for observer in self.visual.observers)
        return [*families, *dict.fromkeys(seen)]


def _unreadable(item: VideoItem, families: Iterable[Family], reason: str) -> VideoResult:
    return VideoResult(item.name, str(item.path), {}, dict.fromkeys(families, reason))


def _probed(item: VideoItem, reading: SyncReading) -> VideoResult:
    reasons: dict[Family, str] = {} if reading.reason is None else {"sync": reading.reason}
    return VideoResult(
        item.name, str(item.path), reading.values, reasons, notes=reading.notes, **reading.details
    )


def check_output(folder: Path) -> None:
    """Create the output folder before anything is computed.

    Raises:
        DataError: It cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); give output=DIR"
        ) from error
