"""One preprocessed clip: face crops at 25 fps, the sound of the same seconds, and a manifest.

Layout of ``<root>/<folder>/<id>/``::

    00000.jpg ...    face crops; the number is the frame index at 25 fps, missing where there is no face
    audio.wav        16 kHz mono, 16 bit; sample 0 belongs to the start of frame 0
    manifest.json    source, frame count, indices present, boxes, settings

Written by :class:`lipsync.data.clip_writer.ClipWriter`. A folder without a manifest is read as the original
Wav2Lip preprocessing wrote it (``<index>.jpg`` with any number of digits, ``audio.wav`` at any rate).
"""

from __future__ import annotations

import contextlib
import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.audio.mel import log_mel
from lipsync.audio.spec import TRAINING_FPS, WAV2LIP
from lipsync.data.base_clip import BaseClip
from lipsync.errors import DataError
from lipsync.media.waveform import load_waveform
from lipsync.types import Image

MANIFEST = "manifest.json"
AUDIO = "audio.wav"
VERSION = 1
_MEL_CACHE_CLIPS = 256  # 77 KB for 3 seconds: about 20 MB a process


@dataclass(frozen=True, slots=True)
class _Layout:
    """What both forms of a clip folder have in common."""

    frames: int
    present: npt.NDArray[np.int64]
    samples: int
    stems: tuple[str, ...] | None
    """File stems beside ``present`` where they are not zero-padded to five digits."""


class Clip(BaseClip):
    """Read side of a clip folder; pictures and sound are read on demand.

    Args:
        path: The clip folder.
        name: ``folder/id`` as file lists have it; by default the last two parts of ``path``.

    Raises:
        DataError: The folder is missing or is not a clip.
    """

    def __init__(self, path: Path | str, name: str | None = None) -> None:
        self.path = Path(path)
        super().__init__(name if name is not None else "/".join(self.path.parts[-2:]))
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such clip folder; run preprocess or correct the file list")
        manifest = self.path / MANIFEST
        self.manifest: dict[str, Any] = read_manifest(manifest) if manifest.is_file() else {}
        self._layout = (
            _from_manifest(self.path, self.manifest) if self.manifest else _from_reference(self.path)
        )

    @property
    def length(self) -> int:
        """Length in frames at 25 fps, gaps included."""
        return self._layout.frames

    @property
    def present(self) -> npt.NDArray[np.int64]:
        """Sorted indices of the frames that have a face crop, ``(n,)``."""
        return self._layout.present

    @property
    def mel_steps(self) -> int:
        """Columns of :meth:`mel`, known without decoding the sound."""
        return 1 + self._layout.samples // WAV2LIP.hop

    def frames(self, indices: Sequence[int] | npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint8]:
        """Face crops resized bilinearly to ``(n, size, size, 3)`` uint8 BGR; the aspect is not kept.

        Raises:
            DataError: A frame is missing or is not a picture.
        """
        out = np.empty((len(indices), size, size, 3), dtype=np.uint8)
        for row, index in enumerate(indices):
            cv2.resize(self.image(int(index)), (size, size), dst=out[row], interpolation=cv2.INTER_LINEAR)
        return out

    def image(self, index: int) -> Image:
        """One face crop at its stored size.

        Raises:
            DataError: The frame is missing or is not a picture.
        """
        path = self._frame_path(index)
        try:
            encoded = np.fromfile(path, dtype=np.uint8)  # cv2.imread fails on non-ASCII names on some systems
        except OSError as error:
            raise DataError(
                f"{path}: cannot read this frame ({error.strerror}); preprocess the clip again"
            ) from error
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
        if image is None:
            raise DataError(f"{path}: not a readable picture; preprocess the clip again")
        return np.asarray(image, dtype=np.uint8)

    def waveform(self) -> npt.NDArray[np.float32]:
        """Sound at 16 kHz, mono, ``(N,)`` in [-1, 1].

        Raises:
            MediaError: ``audio.wav`` cannot be decoded.
        """
        return _waveform(self.path / AUDIO)

    def mel(self) -> npt.NDArray[np.float32]:
        """Wav2Lip log-mel, ``(80, T)`` float32; the clips used last are remembered by each process.

        Raises:
            DataError: ``audio.wav`` is missing.
            MediaError: ``audio.wav`` cannot be decoded.
        """
        audio = self.path / AUDIO
        try:
            stamp = audio.stat().st_mtime_ns
        except OSError as error:
            raise DataError(f"{audio}: {error.strerror}; preprocess the clip again") from error
        return _mel(audio, stamp).copy()

    def _frame_path(self, index: int) -> Path:
        stems = self._layout.stems
        if stems is None:
            return self.path / f"{index:05d}.jpg"
        row = int(np.searchsorted(self.present, index))
        if row == len(self.present) or self.present[row] != index:
            raise DataError(f"{self.path}: has no picture of frame {index}; preprocess the clip again")
        return self.path / f"{stems[row]}.jpg"

    def __repr__(self) -> str:
        return f"Clip({self.name!r}, length={self.length}, present={len(self.present)})"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a clip folder.

    Raises:
        DataError: Not JSON, of another version, or not at 25 fps.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, fps = manifest["version"], Fraction(manifest["fps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged manifest ({error}); preprocess the clip again") from error
    if version != VERSION:
        raise DataError(f"{path}: manifest version {version}, expected {VERSION}; preprocess the clip again")
    if fps != TRAINING_FPS:
        raise DataError(
            f"{path}: clip at {fps} fps, training needs {TRAINING_FPS}; preprocess the clip again"
        )
    return dict(manifest)


def _from_manifest(path: Path, manifest: dict[str, Any]) -> _Layout:
    try:
        present = np.asarray(manifest["present"], dtype=np.int64).reshape(-1)
        frames = int(manifest["frames"])
        samples = int(manifest["samples"]) if "samples" in manifest else _wav_samples(path / AUDIO)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path / MANIFEST}: damaged manifest ({error}); preprocess the clip again"
        ) from error
    if len(present) == 0 or (np.diff(present) <= 0).any() or present[0] < 0 or present[-1] >= frames:
        raise DataError(f"{path / MANIFEST}: frame indices out of order or range; preprocess the clip again")
    return _Layout(frames, present, samples, None)


def _from_reference(path: Path) -> _Layout:
    stems = sorted((int(entry.stem), entry.stem) for entry in path.glob("*.jpg") if entry.stem.isdecimal())
    if not stems:
        raise DataError(f"{path}: no manifest.json and no numbered .jpg, not a clip; run preprocess")
    samples = _wav_samples(path / AUDIO)
    present = np.array([index for index, _ in stems], dtype=np.int64)
    frames = int(present[-1]) + 1
    # The original keeps the source's frame rate but trains as if it were 25, which drifts out of sync.
    surplus = frames - samples * TRAINING_FPS / WAV2LIP.sample_rate
    if surplus > max(5.0, 0.05 * frames):
        raise DataError(
            f"{path}: pictures outlast the sound by {surplus:.0f} frames at {TRAINING_FPS} fps, so they have "
            "another frame rate; run preprocess on the source videos"
        )
    return _Layout(frames, present, samples, tuple(stem for _, stem in stems))


def _wav_samples(path: Path) -> int:
    """Length at 16 kHz, from the header where it is plain PCM."""
    if not path.is_file():
        raise DataError(f"{path}: missing; preprocess the clip again")
    try:
        with wave.open(str(path)) as file:
            return file.getnframes() * WAV2LIP.sample_rate // file.getframerate()
    except (wave.Error, EOFError):
        return len(load_waveform(path, WAV2LIP.sample_rate))  # float or compressed wav


@lru_cache(maxsize=_MEL_CACHE_CLIPS)
def _mel(audio: Path, _stamp: int) -> npt.NDArray[np.float32]:
    return np.asarray(log_mel(_waveform(audio)), dtype=np.float32)


def _waveform(path: Path) -> npt.NDArray[np.float32]:
    """Sound at 16 kHz; what preprocessing writes is read without a decoder, three hundred times as fast."""
    with contextlib.suppress(wave.Error, EOFError, OSError), wave.open(str(path)) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, WAV2LIP.sample_rate):
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
            return samples.astype(np.float32) / np.float32(32768)
    return load_waveform(path, WAV2LIP.sample_rate)
