"""Finished videos of a run that did not end, so that the next one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from lipsync.errors import DataError
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.results import VideoResult
from lipsync.faces.annotated import annotation_of
from lipsync.files import write_text

FOLDER = ".unfinished"
"""Below the output folder; removed when the report is written."""


class Journal:
    """One line of JSON a finished video; use as a context manager.

    What another version of the settings measured is not taken over: a different fingerprint starts anew. A
    file that changed since (size or time) is scored again. A line cut short by a crash, or damaged otherwise,
    does not count.

    Args:
        output: Folder of the run.
        fingerprint: Settings that the values depend on.

    Raises:
        DataError: On entering and on adding: the folder cannot be written.
    """

    def __init__(self, output: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = output / FOLDER
        self.head = _digest(fingerprint)
        self._path = self.folder / "videos.jsonl"
        self._known: dict[str, dict[str, VideoResult]] = {}
        self._stream: IO[str] | None = None
        self.restarted = False
        """Whether there was a journal of other settings, which is gone now."""

    def __enter__(self) -> Self:
        try:
            lines = self._lines()
            if lines[:1] != [self.head]:
                self.restarted = bool(lines)
                shutil.rmtree(self.folder, ignore_errors=True)
                lines = [self.head]
            kept = [line for line in lines[1:] if self._take(line)]
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self._path, "".join(f"{line}\n" for line in (self.head, *kept)))
            self._stream = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(self._path, error) from error
        return self

    def __len__(self) -> int:
        return len(self._known)

    def _lines(self) -> list[str]:
        """Complete lines of the file: what follows the last line end was cut short."""
        if not self._path.exists():
            return []
        return self._path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]

    def _take(self, line: str) -> bool:
        """Whether the line could be read; its results are known then."""
        try:
            record = json.loads(line)
            key = str(record["key"])
            found = {name: VideoResult.from_json(content) for name, content in record["results"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
        self._known[key] = found
        return True

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
        try:
            self._stream.write(json.dumps({"key": _key(item), "results": content}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def discard(self) -> None:
        """Remove it: the report holds everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _key(item: VideoItem) -> str:
    sounds = {"": item.sound, **item.probes}
    files = [item.path, item.reference, *(sound.path for sound in sounds.values())]
    named = {name: [str(sound.path), sound.shift] for name, sound in sounds.items()}
    present = [path for path in files if path is not None]
    states = {str(path): _state(path) for path in [*present, *map(annotation_of, present)]}
    return _digest([item.system, item.name, item.paired, str(item.reference), named, states])


def _state(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: no name that a file can have
        return None
    return [status.st_size, status.st_mtime_ns]


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({error.strerror or error}); give another output=DIR")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
