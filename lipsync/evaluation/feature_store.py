"""Features of videos on disk, so that a set of any size fits in memory and an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from lipsync.errors import DataError
from lipsync.files import replacing, write_text

Features = npt.NDArray[np.float32]
ROWS = 512
"""Rows that are read at once."""
_REFERENCES = "references"


class FeatureStore:
    """Rows of float32 features in a folder, one ``.npy`` file a video or reference.

    ``<system>/<digest of the name>.<kind>.npy`` for videos, ``references/<digest of the path>.<kind>.npy``
    for references, which are kept once however many videos have them. Beside each video's file a small JSON
    names its reference's. Files appear only when they are complete.

    Args:
        folder: Created when the first features are written.
        kind: What tells these features from others of the same videos: network, region, step.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind

    def video(self, system: str, name: str) -> Path:
        """File of a video's features."""
        return self.folder / system / f"{_digest(name)}.{self.kind}.npy"

    def reference(self, path: Path) -> Path:
        """File of a reference's features; another one when the reference is changed.

        Raises:
            DataError: The reference is missing.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        identity = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
        return self.folder / _REFERENCES / f"{_digest(identity)}.{self.kind}.npy"

    def link(self, system: str, name: str, reference: Path) -> None:
        """Note which reference a video has; the last step, which makes the video count."""
        content = {"name": name, "reference": self.reference(reference).name}
        write_text(self.video(system, name).with_suffix(".json"), json.dumps(content))

    def linked(self, system: str, name: str) -> tuple[Path, Path] | None:
        """Files of a video and of its reference; None where the video is not complete.

        Raises:
            DataError: The note of its reference is damaged.
        """
        video = self.video(system, name)
        note = video.with_suffix(".json")
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            reference = self.folder / _REFERENCES / str(content["reference"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{note}: is damaged; delete it and score the video again") from error
        return (video, reference) if video.is_file() and reference.is_file() else None

    def forget(self, system: str, name: str) -> None:
        """Let a video count no longer, as it is about to be measured anew."""
        self.video(system, name).with_suffix(".json").unlink(missing_ok=True)


class FeatureWriter:
    """Takes rows and writes them to a ``.npy`` file as they come.

    Args:
        path: Appears when :meth:`close` ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._width = 0
        self._raw = path.with_name(f"{path.name}.rows.part")
        self._stream: BinaryIO | None = None

    def append(self, features: Features) -> None:
        """Add rows ``(N, D)``."""
        if self._stream is None:
            self._raw.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._raw.open("wb")
        self._stream.write(np.ascontiguousarray(features, dtype="<f4").tobytes())
        self.rows += len(features)
        self._width = features.shape[1]

    def close(self) -> None:
        """Finish the file; without any rows there is none."""
        if self._stream is None:
            return
        self._stream.close()
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self._width)}
        with replacing(self.path) as part, part.open("wb") as target:
            np.lib.format.write_array_header_1_0(target, header)
            with self._raw.open("rb") as source:
                shutil.copyfileobj(source, target)
        rows = self.rows
        self.discard()
        self.rows = rows

    def discard(self) -> None:
        """Drop what was not finished."""
        if self._stream is not None:
            self._stream.close()
            self._raw.unlink(missing_ok=True)
            self._stream, self.rows = None, 0


def read_features(path: Path, width: int) -> Iterator[Features]:
    """The rows of a file in parts ``(n, width)``, so that memory stays flat.

    Raises:
        DataError: The file is damaged or has other features.
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read; delete it and score the video again") from error
    if rows.ndim != 2 or rows.shape[1] != width:
        raise DataError(f"{path}: has features of shape {rows.shape}, not (n, {width}); delete it")
    for start in range(0, len(rows), ROWS):
        yield np.array(rows[start : start + ROWS], dtype=np.float32)


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()
