"""Which videos to score, and which reference belongs to which."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import NamedTuple

from lipsync.errors import DataError
from lipsync.media.probe import VIDEO_SUFFIXES

_LONGEST_NAME = 255
"""Bytes of a file's name; what is longer is a text, not a list."""


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
    expects_reference: bool = True
    """Whether the absence of a reference is worth a reason: an unmodified clip has none."""
    sound: Sound = Sound()
    """What its own row is scored against."""
    probes: Mapping[str, Sound] = field(default_factory=dict)
    """Further sounds to score the same frames against; each makes a row of the system so named. Sounds named
    ``shifted:<k>`` make one row together, of the system ``shifted``."""
    system: str = "videos"


class VideoList(NamedTuple):
    """What was found."""

    items: list[VideoItem]
    notes: list[str]
    """What is to be known of the list: repeated lines."""


def find_videos(videos: str | Path) -> list[VideoItem]:
    """The items of :func:`read_videos`."""
    return read_videos(videos).items


def read_videos(videos: str | Path) -> VideoList:
    """The videos behind ``videos=DIR|GLOB|LIST|FILE``, sorted by name (a list keeps its order).

    A folder is searched to any depth. A text file lists one path a line, relative to the file's own folder or
    else to the working directory; empty lines and lines that start with ``#`` do not count, a repeated line
    counts once, and a listed file that is missing stays in the result, to be reported.

    Raises:
        DataError: Nothing there, no video among it, or a line that is no path (with its number).
    """
    text, path = str(videos), Path(videos)
    notes: list[str] = []
    if not text:
        raise DataError("videos=: is empty; give videos=DIR, a glob, a list file or a video")
    if os.path.isdir(path):
        items = [VideoItem(_posix(found, path), found) for found in _videos_below(path)]
    elif os.path.isfile(path) and path.suffix.lower() in VIDEO_SUFFIXES:
        items = [VideoItem(printable(path.name), path)]
    elif os.path.isfile(path):
        listed = _listed(path)
        items = _named(listed)
        notes = _repeated(path.name, listed, items)
    elif glob.has_magic(text):
        found = (Path(match) for match in glob.glob(text, recursive=True))
        items = _named(sorted(match for match in found if _is_video(match)))
    else:
        raise DataError(f"{text}: no such folder, file or pattern; give videos=DIR, a glob or a list file")
    if not items:
        raise DataError(f"{text}: no video found (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")
    return VideoList(items, notes)


def printable(text: str) -> str:
    """A file name as reports can write it: bytes that are no UTF-8 become escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def match_references(items: list[VideoItem], references: str | Path) -> list[VideoItem]:
    """Give every item the reference with the same relative path, whatever the suffix (same suffix first).

    A single reference file belongs to a single video. Items without a counterpart keep None.

    Raises:
        DataError: ``references`` does not exist, fits no video, or is one file for several videos.
    """
    root = Path(references)
    if root.is_file():
        if len(items) != 1:
            raise DataError(f"{root}: one reference file for {len(items)} videos; give references=DIR")
        return [replace(items[0], reference=root)]
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give references=DIR with the ground-truth videos")
    by_stem: dict[PurePath, list[Path]] = {}
    for path in _videos_below(root):
        by_stem.setdefault(path.relative_to(root).with_suffix(""), []).append(path)
    matched = [replace(item, reference=_counterpart(item, by_stem)) for item in items]
    if all(item.reference is None for item in matched):
        raise DataError(
            f"{root}: holds no video named like one of the {len(items)} to score (such as {items[0].name}); "
            "give references=DIR with the same relative names"
        )
    return matched


def _counterpart(item: VideoItem, by_stem: dict[PurePath, list[Path]]) -> Path | None:
    candidates = by_stem.get(PurePath(item.name).with_suffix(""), [])
    return min(candidates, key=lambda path: (path.suffix != item.path.suffix, path.name), default=None)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _videos_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if _is_video(path))


def _listed(path: Path) -> list[Path]:
    """Paths of a list, repeated ones too."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is neither a video by its suffix nor a text file with one path a line"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    found = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if "\0" in entry or max(len(os.fsencode(part)) for part in entry.split(os.sep)) > _LONGEST_NAME:
            raise DataError(f"{path}:{number}: is no path; a list holds the path of one video a line")
        near = path.parent / entry
        found.append(near if os.path.exists(near) or not os.path.exists(entry) else Path(entry))
    return found


def _named(paths: Iterable[Path]) -> list[VideoItem]:
    """Items named by their path below the deepest common folder; repeated paths count once."""
    unique: dict[str, Path] = {}
    for path in paths:
        unique.setdefault(os.path.abspath(path), path)
    if not unique:
        return []
    root = Path(os.path.commonpath([os.path.dirname(place) for place in unique]))
    return [VideoItem(_posix(Path(place), root), path) for place, path in unique.items()]


def _repeated(name: str, listed: Sequence[Path], items: Sequence[VideoItem]) -> list[str]:
    """A note on lines that count once only."""
    surplus = len(listed) - len(items)
    if not surplus:
        return []
    counts = Counter(map(os.path.abspath, listed))
    names = [item.name for item in items if counts[os.path.abspath(item.path)] > 1]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{name}: {surplus} of {len(listed)} lines repeat another one and count once ({shown})."]


def _posix(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())
