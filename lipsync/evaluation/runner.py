"""Score the videos of every system: one result each, with values or with the reason why there are none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from lipsync.errors import DataError, MediaError, NoFaceError, NotScorableError, UserError
from lipsync.evaluation.columns import Family
from lipsync.evaluation.inputs import VideoItem, printable
from lipsync.evaluation.journal import Journal
from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.evaluation.results import SystemResult, Value, VideoResult
from lipsync.evaluation.sounds import OWN, SHIFTED, SoundShelf
from lipsync.evaluation.sync import SyncReading, one_line, read_sync, sound_notes
from lipsync.evaluation.systems import Plan
from lipsync.evaluation.visual import Measured, VisualPass
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
        names = [result.name for result in rows[plan.name] if result.values]
        aggregates, notes = ({}, []) if self.visual is None else self.visual.aggregates(plan.name, names)
        own = SystemResult(
            plan.name, plan.label, plan.about, rows.pop(plan.name), aggregates, [*plan.notes, *notes]
        )
        return [own, *(SystemResult(name, *PROBES[name], results) for name, results in rows.items())]

    def _results(self, item: VideoItem, shelf: SoundShelf, failure: str | None) -> dict[str, VideoResult]:
        known = None if failure else self.journal.find(item)
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
        readings = self._sync(item, info, shelf)
        own = readings.pop(item.system)
        seen = Measured({}, {}, None) if self.visual is None else self.visual.measure(item, info)
        reasons: dict[Family, str] = {} if own.reason is None else {"sync": own.reason}
        result = VideoResult(
            item.name,
            printable(str(item.path)),
            {**_facts(info), **own.values, **seen.values},
            {**reasons, **{family: printable(reason) for family, reason in seen.reasons.items()}},
            reference=None if item.reference is None else printable(str(item.reference)),
            notes=(*own.notes, *map(printable, seen.notes)),
            thumbnail=seen.thumbnail,
            **own.details,
        )
        probed = {
            system: _probed(item, readings.get(system, SyncReading()), seen.probed.get(system, {}))
            for system in dict.fromkeys([*readings, *seen.probed])
        }
        return {item.system: result} | probed

    def _sync(self, item: VideoItem, info: VideoInfo, shelf: SoundShelf) -> dict[str, SyncReading]:
        if self.judge is None:
            return {item.system: SyncReading()}
        sounds = shelf.sounds_for(item)
        try:
            readings = read_sync(item, self.judge, self.protocol, sounds)
        except PER_VIDEO as error:
            systems = [item.system, *dict.fromkeys(name.partition(":")[0] for name in item.probes)]
            return {system: SyncReading(reason=one_line(error)) for system in systems}
        own, sound = readings[item.system], sounds[OWN]
        if own.reason is None and not isinstance(sound, UserError):
            notes = (*own.notes, *sound_notes(sound, info.duration))
            readings[item.system] = replace(own, notes=notes)
        return readings

    def _load_sound(self, path: Path) -> Waveform:
        if self.judge is None:
            raise ValueError("no judge, so no sound is asked for")
        return self.protocol.load_sound(path, self.judge)

    def _families(self) -> list[Family]:
        """Families of values that were asked for."""
        seen = () if self.visual is None else self.visual.families
        return [*(("sync",) if self.judge is not None else ()), *seen]


def _facts(info: VideoInfo) -> dict[str, Value]:
    """Values of the family ``file``."""
    return {
        "fps": float(info.fps),
        "width": info.width,
        "height": info.height,
        "n_frames": info.frame_count,
        "duration": info.duration,
    }


def _unreadable(item: VideoItem, families: Iterable[Family], reason: str) -> VideoResult:
    return VideoResult(item.name, printable(str(item.path)), {}, dict.fromkeys(families, reason))


def _probed(item: VideoItem, reading: SyncReading, seen: Mapping[str, Value]) -> VideoResult:
    reasons: dict[Family, str] = {} if reading.reason is None else {"sync": reading.reason}
    path = printable(str(item.path))
    values = {**reading.values, **seen}
    return VideoResult(item.name, path, values, reasons, notes=reading.notes, **reading.details)


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
