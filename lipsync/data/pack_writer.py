"""Write side of a pack; :mod:`lipsync.data.pack` describes the layout."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lipsync.audio.spec import WAV2LIP
from lipsync.data.clip import Clip
from lipsync.data.filelist import read_filelist, resolve_filelist
from lipsync.data.pack import FRAMES, INDEX, MELS, VERSION, load_pack, pack_folder, source_stamps
from lipsync.errors import ConfigError, DataError

Progress = Callable[[int, int, str], None]
"""Called after each clip with the number done, the total and a name."""
Runner = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Maps a task over jobs in any order, as :class:`lipsync.data.preprocessing.engine.LocalEngine` does."""

SIZES = range(32, 1025, 2)
"""Sides of the square face crop that can be packed (their lower half is whole)."""
_CHUNK = 256  # frames held in memory at once: 7 MB at 96 pixels
_SPARE = 64 << 20  # bytes to leave free on the disk


class _Job(NamedTuple):
    """One clip and where it goes."""

    number: int
    path: Path
    name: str
    first_row: int
    first_column: int
    columns: int
    """Room for its mel."""


@dataclass(frozen=True)
class _Plan:
    """The whole pack before it is written."""

    jobs: list[_Job]
    root: Path
    size: int
    rows: int
    columns: int

    @property
    def frames_shape(self) -> tuple[int, ...]:
        return self.rows, self.size, self.size, 3

    @property
    def mels_shape(self) -> tuple[int, ...]:
        return self.columns, WAV2LIP.n_mels

    @property
    def bytes(self) -> int:
        return math.prod(self.frames_shape) + 4 * math.prod(self.mels_shape)


@dataclass(frozen=True)
class _ClipCopier:
    """Picklable ``_Job -> (number, entry of the index)``; every job writes its own part of both files."""

    part: Path
    size: int
    frames_start: int
    mels_start: int

    def __call__(self, job: _Job) -> tuple[int, dict[str, Any]]:
        """Decode, resize and write one clip.

        Raises:
            DataError: A frame or the sound is missing or damaged.
            OSError: The disk is full.
        """
        stamps = source_stamps(job.path)  # before reading: what changes meanwhile is then seen as changed
        clip = Clip(job.path, job.name)
        with (self.part / FRAMES).open("r+b") as file:
            file.seek(self.frames_start + job.first_row * self.size * self.size * 3)
            for first in range(0, len(clip.present), _CHUNK):
                file.write(clip.frames(clip.present[first : first + _CHUNK], self.size).data)
        mel = np.ascontiguousarray(clip.mel().T)
        if len(mel) > job.columns:
            raise DataError(
                f"{job.path}: its sound is longer than stated ({len(mel)} mel columns, room for "
                f"{job.columns}); preprocess the clip again"
            )
        with (self.part / MELS).open("r+b") as file:
            file.seek(self.mels_start + job.first_column * WAV2LIP.n_mels * 4)
            file.write(mel.data)
        return job.number, {
            "name": job.name,
            "length": clip.length,
            "present": _runs(clip.present),
            "mel_steps": len(mel),
            "first_row": job.first_row,
            "first_column": job.first_column,
            "sources": stamps,
        }


def write_pack(
    clips: Iterable[Clip],
    folder: Path,
    size: int,
    progress: Progress | None = None,
    *,
    runner: Runner | None = None,
) -> None:
    """Write the clips to ``<folder>.part`` and rename it to ``folder``; an older pack there is replaced.

    Faces are resized and mels computed exactly as :class:`~lipsync.data.clip.Clip` does. Memory holds a few
    numbers a clip. What an interrupted run left is removed; packing starts anew.

    Args:
        clips: Clips of one preprocessed root, in the order of the file list.
        folder: Pack folder; see :func:`~lipsync.data.pack.pack_folder`.
        size: Side of the square face crop, pixels.
        progress: Called after each clip.
        runner: Maps the work over clips; by default in this process.

    Raises:
        ConfigError: ``size`` is out of range.
        DataError: No clips, a clip is damaged, ``folder`` is something else, or the disk is full.
    """
    check_size(size)
    if folder.exists() and not (folder / INDEX).is_file():
        raise DataError(f"{folder}: exists and is not a pack; remove it")
    plan = _planned(clips, folder, size)
    part = folder.with_name(folder.name + ".part")
    try:
        _check_space(folder, plan)
        _remove(part)
        part.mkdir(parents=True)
        copier = _ClipCopier(
            part,
            size,
            frames_start=_create(part / FRAMES, np.uint8, plan.frames_shape),
            mels_start=_create(part / MELS, np.float32, plan.mels_shape),
        )
        entries = _collected((runner or _here)(copier, plan.jobs), len(plan.jobs), progress)
        _finish(part, folder, plan, entries)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            f"the pack takes {_gigabytes(plan.bytes)}"
        ) from error
    finally:
        _remove(part)


def check_size(size: int) -> None:
    """Raise ConfigError unless faces can be packed at ``size`` pixels."""
    if size not in SIZES:
        raise ConfigError(f"pack size {size}: give an even number from {SIZES[0]} to {SIZES[-1]}")


def pack_splits(
    root: Path,
    splits: Sequence[str],
    size: int,
    progress: Progress | None = None,
    *,
    runner: Runner | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Pack several file lists of a preprocessed root; packs that are up to date stay as they are.

    Args:
        root: Preprocessed root.
        splits: Names of file lists.
        size: Side of the square face crop, pixels.
        progress: Called after each clip with the number done, the total and ``pack <split>``.
        runner: Maps the work over clips.
        overwrite: Write packs that are up to date again.

    Returns:
        The splits that were packed now.

    Raises:
        ConfigError: ``size`` is out of range.
        DataError: As :func:`write_pack`, or a file list is missing.
    """
    check_size(size)
    written = []
    for split in splits:
        names = read_filelist(resolve_filelist(root, split))
        if not overwrite and _up_to_date(root, split, size):
            continue

        def report(done: int, total: int, _name: str, split: str = split) -> None:
            if progress is not None:
                progress(done, total, f"pack {split}")

        clips = (Clip(root / name, name) for name in names)
        write_pack(clips, pack_folder(root, split, size), size, report, runner=runner)
        written.append(split)
    return written


def _up_to_date(root: Path, split: str, size: int) -> bool:
    if not (pack_folder(root, split, size) / INDEX).is_file():
        return False
    try:
        load_pack(root, split, size)
    except DataError:  # whatever is wrong with the old one, it is replaced
        return False
    return True


def _here(task: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
    yield from map(task, jobs)


def _planned(clips: Iterable[Clip], folder: Path, size: int) -> _Plan:
    """Give every clip its rows and columns."""
    jobs: list[_Job] = []
    row, column, root = 0, 0, None
    for number, clip in enumerate(clips):
        root = root or clip.path.absolute().parents[len(Path(clip.name).parts) - 1]
        # Without a manifest the length comes from a wav header at any rate, and resampling may round up.
        columns = clip.mel_steps + (0 if clip.manifest else 1)
        jobs.append(_Job(number, clip.path, clip.name, row, column, columns))
        row, column = row + len(clip.present), column + columns
    if root is None:
        raise DataError(f"{folder}: no clip to pack; run preprocess first")
    return _Plan(jobs, root, size, row, column)


def _check_space(folder: Path, plan: _Plan) -> None:
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < plan.bytes + _SPARE:
        raise DataError(
            f"{folder}: the pack takes {_gigabytes(plan.bytes)}, the disk has {_gigabytes(free)} free; "
            "free some space or train from the clips (data.storage=clips)"
        )


def _create(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> int:
    """An ``.npy`` file of full length; returns where its values begin.

    Values are written through the file, not through a map: on a full disk a map kills the process.
    """
    dtype = np.dtype(dtype)
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.truncate(start + math.prod(shape) * dtype.itemsize)
    return start


def _collected(
    results: Iterator[tuple[int, dict[str, Any]]], total: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """Entries of the index in the order of the clips."""
    entries: list[dict[str, Any]] = [{}] * total
    try:
        for done, (number, entry) in enumerate(results, start=1):
            entries[number] = entry
            if progress is not None:
                progress(done, total, entry["name"])
    finally:
        if isinstance(results, Generator):
            results.close()  # ends worker processes before what they write to is removed
    return entries


def _finish(part: Path, folder: Path, plan: _Plan, entries: list[dict[str, Any]]) -> None:
    """Write the index and give the folder its name; an older pack makes room at the last moment."""
    index = {
        "version": VERSION,
        "size": plan.size,
        # Relative, so that clips and packs can be moved together.
        "root": Path(os.path.relpath(plan.root, folder.absolute())).as_posix(),
        "rows": plan.rows,
        "columns": plan.columns,
        "clips": entries,
    }
    content = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    (part / INDEX).write_text(content, encoding="utf-8")
    for name in (FRAMES, MELS, INDEX):
        with (part / name).open("r+b") as file:
            os.fsync(file.fileno())
    old = folder.with_name(folder.name + ".old.part")
    _remove(old)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    _remove(old)


def _runs(present: npt.NDArray[np.int64]) -> list[list[int]]:
    """``[start, count]`` of each stretch of consecutive frames."""
    cuts = np.flatnonzero(np.diff(present) != 1) + 1
    return [[int(run[0]), len(run)] for run in np.split(present, cuts)]


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
