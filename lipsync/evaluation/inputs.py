"""Which videos to score, and which reference belongs to which."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from lipsync.errors import DataError
from lipsync.media.probe import VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Sound:
    """What a video is scored against where that is not its own sound."""

    path: Path | None = None
    """File whose sound it is, repeated or cut to the video's length; None: the video's own."""
    shift: int = 0
    """Frames of 40 ms by which the sound comes earlier (negative: later): the offset to be found."""


@dataclass(frozen=True, slots=True)
class VideoItem:
    """A video to score."""

    name: str
    """Path below the folder asked for, with ``/``; the row's name in reports."""
    path: Path
    reference: Path | None = None
    paired: bool = True
    """Whether frame i of the reference is what frame i should look like; otherwise the reference only shows
    the same person in the same place (speech was changed)."""
    sound: Sound = Sound()
    """What its own row is scored against."""
    probes: Mapping[str, Sound] = field(default_factory=dict)
    """Further sounds to score the same frames against; each makes a row of the system so named. Sounds named
    ``shifted:<k>`` make one row together, of the system ``shifted``."""
    system: str = "videos"


def find_videos(videos: str | Path) -> list[VideoItem]:
    """The videos behind ``videos=DIR|GLOB|LIST|FILE``, sorted by name (a list keeps its order).

    A folder is searched to any depth. A text file lists one path a line, relative to the file's own folder or
    else to the working directory; empty lines and lines that start with ``#`` do not count, and a listed file
    that is missing stays in the result, to be reported.

    Raises:
        DataError: Nothing there, or no video among it.
    """
    text, path = str(videos), Path(videos)
    if path.is_dir():
        items = [VideoItem(_posix(found, path), found) for found in _videos_below(path)]
    elif path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        items = [VideoItem(path.name, path)]
    elif path.is_file():
        items = _named(_listed(path))
    elif glob.has_magic(text):
        found = (Path(match) for match in glob.glob(text, recursive=True))
        items = _named(sorted(match for match in found if _is_video(match)))
    else:
        raise DataError(f"{text}: no such folder, file or pattern; give videos=DIR, a glob or a list file")
    if not items:
        raise DataError(f"{text}: no video found (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")
    return items


def match_references(items: list[VideoItem], references: str | Path) -> list[VideoItem]:
    """Give every item the reference with the same relative path, whatever the suffix (same suffix first).

    A single reference file belongs to a single video. Items without a counterpart keep None.

    Raises:
        DataError: ``references`` does not exist, or one file is given for several videos.
    """
    root = Path(references)
    if root.is_file():
        if len(items) != 1:
            raise DataError(f"{root}: one reference file for {len(items)} videos; give references=DIR")
        return [VideoItem(items[0].name, items[0].path, root)]
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give references=DIR with the ground-truth videos")
    by_stem: dict[PurePath, list[Path]] = {}
    for path in _videos_below(root):
        by_stem.setdefault(path.relative_to(root).with_suffix(""), []).append(path)
    return [VideoItem(item.name, item.path, _counterpart(item, by_stem)) for item in items]


def _counterpart(item: VideoItem, by_stem: dict[PurePath, list[Path]]) -> Path | None:
    candidates = by_stem.get(PurePath(item.name).with_suffix(""), [])
    return min(candidates, key=lambda path: (path.suffix != item.path.suffix, path.name), default=None)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _videos_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if _is_video(path))


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is neither a video by its suffix nor a text file with one path a line"
        ) from error
    entries = [line.strip() for line in lines]
    named = (Path(entry) for entry in entries if entry and not entry.startswith("#"))
    beside = ((path.parent / entry, entry) for entry in named)
    return [near if near.exists() or not entry.exists() else entry for near, entry in beside]


def _named(paths: Iterable[Path]) -> list[VideoItem]:
    """Items named by their path below the deepest common folder; repeated paths count once."""
    unique = list(dict.fromkeys(paths))
    if not unique:
        return []
    root = Path(os.path.commonpath([path.absolute().parent for path in unique]))
    return [VideoItem(_posix(path.absolute(), root), path) for path in unique]


def _posix(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
