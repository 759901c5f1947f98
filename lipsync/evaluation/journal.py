"""Finished videos of a run that did not end, so that the next one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.results import VideoResult

FOLDER = ".unfinished"
"""Below the output folder; removed when the report is written."""


class Journal:
    """One line of JSON a finished video; use as a context manager.

    What another version of the settings measured is not taken over: a different fingerprint starts anew. A
    file that changed since (size or time) is scored again. A line cut short by a crash does not count.

    Args:
        output: Folder of the run.
        fingerprint: Settings that the values depend on.
    """

    def __init__(self, output: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = output / FOLDER
        self.head = _digest(fingerprint)
        self._path = self.folder / "videos.jsonl"
        self._known: dict[str, dict[str, VideoResult]] = {}
        self._stream: IO[str] | None = None

    def __enter__(self) -> Self:
        lines = self._path.read_text(encoding="utf-8").split("\n") if self._path.exists() else [""]
        if lines[0] != self.head:
            shutil.rmtree(self.folder, ignore_errors=True)
            lines = [self.head, ""]
        complete = lines[:-1]  # what follows the last line end was cut short
        for line in complete[1:]:
            record = json.loads(line)
            self._known[record["key"]] = {
                system: VideoResult.from_json(content) for system, content in record["results"].items()
            }
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(f"{line}\n" for line in complete), encoding="utf-8")
        self._stream = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def find(self, item: VideoItem) -> dict[str, VideoResult] | None:
        """What was found for the item, by system; None where it is still to be done."""
        return self._known.get(_key(item))

    def add(self, item: VideoItem, results: Mapping[str, VideoResult]) -> None:
        """Keep what was found."""
        if self._stream is None:
            raise ValueError("the journal is not open")
        content = {system: result.to_json() for system, result in results.items()}
        self._stream.write(json.dumps({"key": _key(item), "results": content}) + "\n")
        self._stream.flush()

    def discard(self) -> None:
        """Remove it: the report holds everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _key(item: VideoItem) -> str:
    sounds = {"": item.sound, **item.probes}
    files = [item.path, item.reference, *(sound.path for sound in sounds.values())]
    named = {name: [str(sound.path), sound.shift] for name, sound in sounds.items()}
    states = {str(path): _state(path) for path in files if path is not None}
    return _digest([item.system, item.name, item.paired, str(item.reference), named, states])


def _state(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
