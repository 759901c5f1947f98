"""Lists of clips to evaluate a generator on, and which speech each face gets.

Two kinds of list are told apart by their lines::

    6330311066473698535/00011            an LRS2 list; split words such as "NF" may follow
    6330311066473698535/00011 6331559613336179781/00034
                                         Wav2Lip's LRS2 pairs: the clip whose sound is used, then the face
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from lipsync.errors import DataError
from lipsync.media.probe import VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Clip:
    """A listed clip."""

    name: str
    """``folder/id``."""
    path: Path
    """Its file; where there is none, the file it should be."""

    @property
    def speaker(self) -> str:
        """Its folder."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class ClipList:
    """What a list names."""

    clips: tuple[Clip, ...]
    """Faces, each once, in the order of the list."""
    pairs: tuple[tuple[Clip, Clip], ...] | None
    """``(sound, face)`` of a list of pairs, None for a list of clips."""
    notes: tuple[str, ...] = ()
    """What is to be known of the list: repeated lines, missing files."""


def read_clips(filelist: str | Path, data_root: str | Path | None = None) -> ClipList:
    """Read a list of clips or of pairs.

    Clips lie at ``<data_root>/<id>.mp4`` or ``<data_root>/main/<id>.mp4``, under any video suffix. Clips
    without a file stay in the result, so that they are reported.

    Args:
        filelist: Text file.
        data_root: None takes the folder above the list's own, or the list's own, that has ``main``.

    Raises:
        DataError: The list is missing, unreadable, empty, of wrong form (with the number of the line), names
            no clip that has a file, or the data folder is not to be found.
    """
    path = Path(filelist)
    lines = _lines(path)
    finder = _Finder(_root(path, data_root))
    entries = [_entry(tokens, finder, path, number) for number, tokens in lines]
    forms = {len(entry) for entry in entries}
    if len(forms) > 1:
        usual = len(entries[0])
        odd = next(place for place, entry in enumerate(entries) if len(entry) != usual)
        raise DataError(
            f"{path}:{lines[odd][0]}: names {len(entries[odd])} where the lines before name {usual}; give "
            "one clip, or the clip of the sound and that of the face, on every line"
        )
    unique = list(dict.fromkeys(entries))
    faces = list(dict.fromkeys(entry[-1] for entry in unique))
    if not any(clip.path.is_file() for clip in faces):
        raise DataError(
            f"{path}: none of its {len(faces)} clips is below {finder.root} (looked for {faces[0].path}); "
            "give data_root=DIR"
        )
    pairs = tuple((entry[0], entry[1]) for entry in unique) if forms == {2} else None
    return ClipList(tuple(faces), pairs, tuple(_notes(path.name, entries, unique)))


def deranged(names: Sequence[str], groups: Sequence[str], seed: int = 0) -> dict[str, str]:
    """For every name another one, each used once; of another group wherever that is possible.

    Depends on the set of names, not on their order. Empty for fewer than two names.

    Args:
        names: Distinct.
        groups: Of each name, such as its speaker.
        seed: Chooses among the many ways.
    """
    if len(names) < 2:
        return {}
    ordered = sorted(zip(names, groups, strict=True))
    shuffled = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    members: dict[str, list[str]] = {}
    for name, group in shuffled:
        members.setdefault(group, []).append(name)
    # In a ring of whole groups, the largest first, a step as long as the largest leaves every group that is
    # no larger than all others together.
    largest_first = sorted(members.values(), key=len, reverse=True)
    ring = [name for group in largest_first for name in group]
    step = len(largest_first[0]) % len(ring) or 1
    return {name: ring[(place + step) % len(ring)] for place, name in enumerate(ring)}


class _Finder:
    """Looks clips up below a folder; each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[Path, Mapping[str, Path]] = {}

    def clip(self, name: str) -> Clip:
        """The clip, found or not."""
        return Clip(name, self.find(name) or self.root / "main" / f"{name}.mp4")

    def find(self, name: str) -> Path | None:
        """The clip's file; None without one."""
        for base in (self.root, self.root / "main"):
            place = base / name
            found = self._files(place.parent).get(place.name)
            if found is not None:
                return found
        return None

    def _files(self, folder: Path) -> Mapping[str, Path]:
        """Videos of a folder by name without suffix, mp4 before others."""
        if folder not in self._listed:
            videos = [path for path in folder.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES]
            videos.sort(key=lambda path: (path.suffix == ".mp4", path.name))
            self._listed[folder] = {path.stem: path for path in videos}
        return self._listed[folder]


def _root(filelist: Path, data_root: str | Path | None) -> Path:
    if data_root is not None:
        root = Path(data_root)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give data_root=DIR, the folder that holds main/")
        return root
    own = filelist.absolute().parent
    for folder in (own.parent, own):
        if (folder / "main").is_dir():
            return folder
    raise DataError(f"{filelist}: neither {own.parent} nor {own} has a folder main; give data_root=DIR")


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Number and words of every line that counts."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path}: cannot read this file list ({error.strerror}); give filelist=FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; a file list holds one folder/id a line") from error
    numbered = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, words) for number, words in numbered if words and not words[0].startswith("#")]
    if not lines:
        raise DataError(f"{path}: lists no clip; give it one folder/id a line")
    return lines


def _entry(words: list[str], finder: _Finder, path: Path, number: int) -> tuple[Clip, ...]:
    """One clip, or the clip of the sound and that of the face."""
    first = finder.clip(_checked(words[0], path, number))
    if len(words) == 1 or not _names_clip(words[1], finder):
        return (first,)
    if len(words) > 2:
        raise DataError(f"{path}:{number}: {len(words)} words; a pair is `sound_id face_id`")
    return first, finder.clip(_checked(words[1], path, number))


def _names_clip(word: str, finder: _Finder) -> bool:
    """Whether the second word of a line is a clip and no split word such as ``NF``."""
    return "/" in word or finder.find(word) is not None


def _checked(word: str, path: Path, number: int) -> str:
    pure = PurePosixPath(word)
    if pure.is_absolute() or ".." in pure.parts or "\0" in word or not pure.parts:
        raise DataError(f"{path}:{number}: {word!r} is no folder/id below the data folder; correct the line")
    return str(pure.with_suffix("") if pure.suffix.lower() in VIDEO_SUFFIXES else pure)


def _notes(
    name: str, entries: Sequence[tuple[Clip, ...]], unique: Sequence[tuple[Clip, ...]]
) -> Iterator[str]:
    repeated = len(entries) - len(unique)
    if repeated:
        yield f"{name}: {repeated} of {len(entries)} lines repeat another one and count once."
    clips = dict.fromkeys(clip for entry in unique for clip in entry)
    missing = [clip.name for clip in clips if not clip.path.is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        yield f"{name}: {len(missing)} of {len(clips)} clips have no file ({shown})."
