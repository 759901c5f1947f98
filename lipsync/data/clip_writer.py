"""Write side of a clip folder; :mod:`lipsync.data.clip` describes the layout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.audio.spec import TRAINING_FPS, WAV2LIP
from lipsync.data.clip import AUDIO, MANIFEST, VERSION
from lipsync.errors import DataError, MediaError
from lipsync.media.waveform import save_wav
from lipsync.types import Image

JPEG_QUALITY = 95


class ClipWriter:
    """Writes ``<folder>.part`` and renames it to ``folder`` at :meth:`commit`.

    Used as a context manager: whatever was not committed is removed on exit.

    Args:
        part: Temporary folder (made anew; what an interrupted run left there is removed).
    """

    def __init__(self, part: Path) -> None:
        if part.suffix != ".part":
            raise ValueError(f"temporary clip folder {part} must end in .part")
        self.part = part
        self.present: list[int] = []
        self.boxes: list[tuple[int, int, int, int]] = []
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write(self, index: int, image: Image, box: tuple[int, int, int, int]) -> None:
        """Add the crop of frame ``index`` (ascending) and the box it was cut from."""
        if self.present and index <= self.present[-1]:
            raise ValueError(f"frame {index} after frame {self.present[-1]}")
        done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise ValueError(f"frame {index} of shape {image.shape} cannot be encoded as JPEG")
        encoded.tofile(self.part / f"{index:05d}.jpg")
        self.present.append(index)
        self.boxes.append(box)

    def commit(
        self, folder: Path, waveform: npt.NDArray[np.float32], frames: int, extra: Mapping[str, Any]
    ) -> None:
        """Add sound and manifest, then rename to ``folder``; a clip written earlier there is replaced.

        Args:
            folder: Final clip folder.
            waveform: ``(N,)`` at 16 kHz from the start of frame 0, in [-1, 1].
            frames: Length of the clip in frames, gaps included.
            extra: Further plain values of the manifest.

        Raises:
            DataError: ``folder`` exists and is not a clip that preprocessing wrote.
            OSError: The disk is full or not writable.
        """
        try:
            save_wav(self.part / AUDIO, waveform, WAV2LIP.sample_rate)
        except MediaError as error:  # a full disk says nothing about the source, so it must not read so
            raise OSError(str(error)) from error
        manifest = {
            "version": VERSION,
            "fps": f"{TRAINING_FPS}/1",
            "frames": frames,
            "samples": len(waveform),
            "present": self.present,
            "boxes": self.boxes,
            **extra,
        }
        (self.part / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_clip(folder)
        os.replace(self.part, folder)

    def discard(self) -> None:
        """Remove what was written and not committed."""
        if self.part.exists():
            shutil.rmtree(self.part)


def remove_clip(folder: Path) -> None:
    """Remove a clip folder that preprocessing wrote; nothing happens where there is none.

    Raises:
        DataError: The folder has no manifest, so it is somebody else's.
    """
    if not folder.exists():
        return
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder}: exists and is not from preprocess; remove it or choose another preprocessed_root"
        )
    shutil.rmtree(folder)
