"""Which clips are for training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from lipsync.data.filelist import read_filelist
from lipsync.data.preprocessing.sources import clip_name

_MIN_FOLDERS = 10
_LARGE_FOLDER = 0.2  # share of all clips; such a folder always trains
_HELD_OUT = 0.05

Splits = dict[str, list[str]]


def given_splits(lists: Mapping[str, Path], kept: Mapping[str, Sequence[str]]) -> Splits:
    """The data's own lists, restricted to the clips kept.

    Args:
        lists: Split -> file list with source names (a leading ``main/`` does not count).
        kept: Source name -> clip names.

    Returns:
        Split -> clip names, in the order of the lists; a source of several tracks stands there with all.

    Raises:
        DataError: A list is damaged.
    """
    splits: Splits = {}
    for split, path in lists.items():
        names = [clip_name(name) for name in read_filelist(path)]
        sources = [name if name in kept else name.removeprefix("main/") for name in names]
        splits[split] = [clip for source in sources for clip in kept.get(source, ())]
    return splits


def hashed_splits(kept: Mapping[str, Sequence[str]]) -> Splits:
    """About 90 / 5 / 5 % for train, val and test, chosen by a hash of names: the same on every machine.

    Whole folders (speakers) are held out where there are at least 10 of them; a folder with more than a fifth
    of all clips always trains. Otherwise whole sources, and single clips where there are under three sources.
    Three clips suffice for val and test to have one each.

    Args:
        kept: Source name -> clip names.
    """
    folders: dict[str, list[str]] = {}
    for source, clips in kept.items():
        folders.setdefault(source.rpartition("/")[0], []).extend(clips)
    total = sum(map(len, folders.values()))
    small = {name: clips for name, clips in folders.items() if len(clips) <= _LARGE_FOLDER * total}
    if len(small) >= _MIN_FOLDERS:
        return _held_out(folders, small)
    units = {source: list(clips) for source, clips in kept.items()}
    if len(units) < 3:
        units = {clip: [clip] for clips in kept.values() for clip in clips}
    return _held_out(units, units)


def _held_out(units: Mapping[str, list[str]], candidates: Mapping[str, list[str]]) -> Splits:
    ranked = sorted(candidates, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = max(1, round(_HELD_OUT * len(units)))
    val = ranked[:count] if len(units) > 1 else []
    test = ranked[count : 2 * count] if len(units) > 2 else []
    held = {*val, *test}

    def clips(names: Sequence[str]) -> list[str]:
        return sorted(clip for name in names for clip in units[name])

    return {
        "train": clips([name for name in units if name not in held]),
        "val": clips(val),
        "test": clips(test),
    }
