"""What became of each source, kept in the output so that a second run is quick."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lipsync.data.clip import MANIFEST
from lipsync.data.clip_writer import remove_clip
from lipsync.data.preprocessing.sources import Source
from lipsync.files import write_text

RECORDS = ".sources"
"""Folder in the output with one record a source."""
_VERSION = 1  # of the records and of what the worker does


@dataclass(frozen=True)
class Outcome:
    """What became of one source."""

    name: str
    source: str
    """Path below the data root."""
    clips: tuple[str, ...] = ()
    reason: str | None = None
    """Why there is no clip; None when there is."""
    frames: int = 0
    """Frames at 25 fps."""
    frames_without_face: int = 0
    corrupt_packets: int = 0
    """Damaged packets of the video stream; the frames they carry are frozen or missing."""
    short_tracks: int = 0
    """Face tracks left out for their length."""
    reused: bool = False
    """Found finished from an earlier run."""


class Record:
    """The outcome of a source kept in the output, valid for the same file and the same settings."""

    def __init__(self, output: Path, source: Source, digest: str) -> None:
        self.output = output
        self.path = output / RECORDS / f"{source.name}.json"
        self.key = {"version": _VERSION, "stamp": stamp(source.path), "settings": digest}

    def finished(self) -> Outcome | None:
        """The earlier outcome if it still holds and its clips are there."""
        content = self._read()
        if content is None or content["key"] != self.key:
            return None
        values = {**content["outcome"], "clips": tuple(content["outcome"]["clips"]), "reused": True}
        outcome = Outcome(**values)
        complete = all((self.output / name / MANIFEST).is_file() for name in outcome.clips)
        return outcome if complete else None

    def write(self, outcome: Outcome) -> None:
        """Keep the outcome; clips of the earlier outcome that it does not have are removed."""
        self._remove_clips_but(outcome.clips)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"key": self.key, "outcome": asdict(outcome)}
        write_text(self.path, json.dumps(content, ensure_ascii=False))

    def forget(self) -> None:
        """The source can no longer be read: its earlier clips go, and it is tried again next time."""
        self._remove_clips_but(())
        self.path.unlink(missing_ok=True)

    def _remove_clips_but(self, keep: tuple[str, ...]) -> None:
        content = self._read()
        for name in content["outcome"]["clips"] if content else ():
            if name not in keep:
                remove_clip(self.output / name)

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        return dict(json.loads(self.path.read_text(encoding="utf-8")))


def stamp(path: Path) -> list[int]:
    """Size and time of change: as good as a checksum for noticing another file, and free."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
