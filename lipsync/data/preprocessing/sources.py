"""What there is to preprocess: video files below a folder, and the file lists beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lipsync.errors import DataError
from lipsync.media.probe import VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Source:
    """One video file and the clip name it leads to."""

    path: Path
    name: str
    """``folder/id``: the path below the scanned folder without suffix; no whitespace."""


@dataclass(frozen=True, slots=True)
class Sources:
    """All that :func:`find_sources` found, in the order of names."""

    scanned: Path
    videos: tuple[Source, ...]
    clashes: tuple[Source, ...]
    """Videos whose clip name an earlier one has already taken (same name, another suffix)."""


def find_sources(data_root: Path, exclude: Path) -> Sources:
    """Videos below ``data_root/main`` where that holds any (LRS2), else below ``data_root``.

    The clip name is the relative path without suffix; a video directly in the scanned folder gets the
    folder's name in front. Whitespace becomes ``_``, because file lists end a name at whitespace. Hidden
    files and folders are passed over, links to folders are followed.

    Args:
        data_root: Folder to scan.
        exclude: Folder to leave out, for instance the output inside it.

    Raises:
        DataError: There is no such folder, or no video in it.
    """
    if not data_root.is_dir():
        raise DataError(f"{data_root}: no such folder; give data_root=FOLDER with videos in it")
    for scanned in (data_root / "main", data_root):
        paths = sorted(_videos(scanned, exclude.resolve()))
        if paths:
            return _named(scanned, paths)
    suffixes = " ".join(sorted(VIDEO_SUFFIXES))
    raise DataError(f"{data_root}: no video file below this folder (looked for {suffixes})")


def find_filelists(data_root: Path) -> dict[str, Path]:
    """Split -> file list: ``data_root/filelists/*.txt``, else LRS2's ``{train,val,test}.txt`` in the root."""
    lists = {path.stem: path for path in sorted((data_root / "filelists").glob("*.txt"))}
    if lists:
        return lists
    beside = {split: data_root / f"{split}.txt" for split in ("train", "val", "test")}
    return {split: path for split, path in beside.items() if path.is_file()}


def clip_name(relative: str) -> str:
    """A name that a file list can hold: whitespace and a leading ``#`` become ``_``."""
    return re.sub(r"^#|\s", "_", relative)


def _videos(folder: Path, exclude: Path) -> Iterator[Path]:
    seen: set[str] = set()  # resolved folders, so that a link to a parent does not loop
    for parent, folders, files in os.walk(folder, followlinks=True):
        resolved = os.path.realpath(parent)
        if resolved in seen or resolved == str(exclude):
            folders.clear()
            continue
        seen.add(resolved)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
                yield Path(parent, name)


def _named(scanned: Path, paths: list[Path]) -> Sources:
    taken: dict[str, Source] = {}
    clashes = []
    for path in paths:
        relative = path.relative_to(scanned).with_suffix("")
        if len(relative.parts) == 1:
            relative = Path(scanned.resolve().name or "clips") / relative
        source = Source(path, clip_name(relative.as_posix()))
        if source.name in taken:
            clashes.append(source)
        else:
            taken[source.name] = source
    return Sources(scanned, tuple(taken[name] for name in sorted(taken)), tuple(clashes))
