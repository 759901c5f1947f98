"""The clips of one file list in one store: faces ready-resized, log-mels ready-made, both memory-mapped.

Layout of a pack folder (``<root>/pack/<split>_<size>/``)::

    frames.npy    (rows, size, size, 3) uint8 BGR: the present frames of all clips, one after another
    mels.npy      (columns, 80) float32: the log-mels of all clips, time-major
    index.json    what is where, and the state of the clip folders it was made from

Nothing is decoded on reading: a random window is one copy of a few pages of the map, which the processes of
a machine share through the page cache. Written by :func:`lipsync.data.pack_writer.write_pack`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lipsync.audio.spec import WAV2LIP
from lipsync.data.base_clip import BaseClip
from lipsync.data.clip import AUDIO, MANIFEST
from lipsync.data.filelist import read_filelist, resolve_filelist
from lipsync.errors import DataError
from lipsync.media.waveform import load_waveform

INDEX, FRAMES, MELS = "index.json", "frames.npy", "mels.npy"
VERSION = 1
_SOURCES = (MANIFEST, AUDIO)


class PackedClip(BaseClip):
    """One clip of a :class:`Pack`.

    Args:
        pack: The pack that holds it.
        entry: Its entry of the index.
    """

    def __init__(self, pack: Pack, number: int, entry: dict[str, Any]) -> None:
        super().__init__(str(entry["name"]))
        self.pack, self.number = pack, number
        self.first_row, self.first_column = int(entry["first_row"]), int(entry["first_column"])
        self._length, self._mel_steps = int(entry["length"]), int(entry["mel_steps"])
        self._present = _expanded(entry["present"])

    @property
    def path(self) -> Path:
        """The clip folder it was packed from; it may be gone."""
        return self.pack.root / self.name

    @property
    def length(self) -> int:
        """Length in frames at 25 fps, gaps included."""
        return self._length

    @property
    def present(self) -> npt.NDArray[np.int64]:
        """Sorted indices of the frames that have a face crop, ``(n,)``: rows ``first_row`` on of the pack."""
        return self._present

    @property
    def mel_steps(self) -> int:
        """Columns of :meth:`mel`: ``first_column`` on of the pack."""
        return self._mel_steps

    def frames(self, indices: Sequence[int] | npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint8]:
        """Face crops of the frames ``indices`` as ``(n, size, size, 3)`` uint8 BGR, copied from the map.

        Raises:
            DataError: The pack has another size, or a frame has no face crop.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        at = np.searchsorted(self._present, wanted)
        lost = wanted[self._present[np.minimum(at, len(self._present) - 1)] != wanted]
        if len(lost):
            raise DataError(f"{self.pack.folder}: clip {self.name} has no picture of frame {lost[0]}")
        return self.pictures(at, size)

    def pictures(self, positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint8]:
        """As the parent's, in one copy from the map.

        Raises:
            DataError: The pack has another size.
        """
        if size != self.pack.size:
            raise DataError(
                f"{self.pack.folder}: packed at size {self.pack.size}, asked for {size}; "
                f"pack again at size {size} or read the clips (data.storage=clips)"
            )
        return np.asarray(self.pack.frames)[self.first_row + positions]

    def mel(self) -> npt.NDArray[np.float32]:
        """Wav2Lip log-mel, ``(80, T)`` float32: a read-only view of the map."""
        first = self.first_column
        return np.asarray(self.pack.mels)[first : first + self._mel_steps].T

    def waveform(self) -> npt.NDArray[np.float32]:
        """Sound at 16 kHz, mono, ``(N,)`` in [-1, 1], from the clip folder.

        Raises:
            MediaError: The clip folder's sound is no longer there or cannot be decoded.
        """
        return load_waveform(self.path / AUDIO, WAV2LIP.sample_rate)

    def __reduce__(self) -> tuple[Any, ...]:
        return _clip_of, (self.pack, self.number)

    def __repr__(self) -> str:
        return f"PackedClip({self.name!r}, length={self.length}, present={len(self.present)})"


class Pack:
    """Read side of a pack folder. A pickled pack is opened anew, so it costs loader processes nothing.

    Args:
        folder: The pack folder.
        verify: Compare with the clip folders, where they still exist: a clip that was preprocessed again
            or whose sound was replaced makes the pack stale. Two file stamps a clip, and a checksum of
            the files whose stamp differs; pictures are not looked at.

    Raises:
        DataError: No pack, one of another version, damaged, truncated, or stale.
    """

    def __init__(self, folder: Path | str, *, verify: bool = True) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        try:
            self.size = int(index["size"])
            # By name only: <root>/pack may be a link to another disk.
            self.root = Path(os.path.normpath(self.folder.absolute() / index["root"]))
            rows, columns = int(index["rows"]), int(index["columns"])
            self.clips = [PackedClip(self, number, entry) for number, entry in enumerate(index["clips"])]
            sources = [entry["sources"] for entry in index["clips"]]
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{self.folder / INDEX}: damaged index ({error!r}); pack again") from error
        self.frames = _mapped(self.folder / FRAMES, np.uint8, (rows, self.size, self.size, 3))
        """``(rows, size, size, 3)`` uint8 BGR."""
        self.mels = _mapped(self.folder / MELS, np.float32, (columns, WAV2LIP.n_mels))
        """``(columns, 80)`` float32."""
        if verify:
            for clip, stamps in zip(self.clips, sources, strict=True):
                _check_fresh(clip, stamps)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder,)

    def __repr__(self) -> str:
        return f"Pack({str(self.folder)!r}, {len(self.clips)} clips, {len(self.frames)} frames)"


def pack_folder(root: Path, split: str, size: int) -> Path:
    """Where the pack of a file list stands."""
    return Path(root) / "pack" / f"{split}_{size}"


def load_pack(root: Path, split: str, size: int) -> Pack:
    """The pack of ``root/filelists/<split>.txt``.

    Raises:
        DataError: As :class:`Pack`; also where the file list names other clips than the pack holds.
    """
    pack = Pack(pack_folder(root, split, size))
    path = resolve_filelist(root, split)
    if read_filelist(path) != [clip.name for clip in pack.clips]:
        raise DataError(f"{pack.folder}: {path} has changed since packing; pack again")
    return pack


def source_stamps(folder: Path) -> dict[str, list[Any]]:
    """Size, time of change and checksum of the files of a clip folder that a pack depends on.

    Raises:
        DataError: One of them cannot be read.
    """
    found = [folder / name for name in _SOURCES if (folder / name).is_file()]
    try:
        return {path.name: [*_stamp(path), _checksum(path)] for path in found}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _check_fresh(clip: PackedClip, stamps: dict[str, list[Any]]) -> None:
    for name, (size, changed, checksum) in stamps.items():
        path = os.path.join(clip.pack.root, clip.name, name)  # no Path: this runs for every clip
        try:
            stamp = _stamp(path)
            # A copied clip has another time of change, but the same content.
            same = stamp == [size, changed] or (stamp[0] == size and _checksum(path) == checksum)
        except FileNotFoundError:
            continue  # the pack stands for itself
        if not same:
            raise DataError(f"{clip.pack.folder}: {path} has changed since packing; pack again")


def _stamp(path: Path | str) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]


def _checksum(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        version = index["version"]
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no pack here; pack the clips (scripts/pack_corpus.py)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged index ({error!r}); pack again") from error
    if version != VERSION:
        raise DataError(f"{path}: pack version {version}, expected {VERSION}; pack again")
    return dict(index)


def _mapped(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: missing, damaged or truncated ({reason}); pack again") from error
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{path}: holds {array.dtype} {array.shape}, the index says {np.dtype(dtype)} {shape}; pack again"
        )
    return array


def _expanded(runs: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.arange(start, start + count, dtype=np.int64) for start, count in runs])


def _reopened(folder: Path) -> Pack:
    return Pack(folder, verify=False)


def _clip_of(pack: Pack, number: int) -> PackedClip:
    return pack.clips[number]
