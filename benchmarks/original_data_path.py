"""The training data path of the original Wav2Lip, in our own code, to measure ours against."""

from __future__ import annotations

import glob
import os
import random
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from lipsync.audio.mel import log_mel
from lipsync.audio.spec import MEL_STEPS, SYNC_FRAMES
from lipsync.audio.windows import training_start

SIZE = 96
Tensors = tuple[torch.Tensor, ...]


class OriginalItems:
    """Items as the original's data sets make them: every one from the files, in float64.

    Args:
        folders: Clip folders.
        generator: Items of the generator's trainer, else of the expert's.
    """

    def __init__(self, folders: Sequence[Path], generator: bool) -> None:
        self.folders, self.make = list(folders), self._generator if generator else self._expert
        self.random = random.Random(0)  # noqa: S311 - a draw, no secret

    def __call__(self) -> Tensors:
        """One item."""
        while True:
            folder = self.random.choice(self.folders)
            names = glob.glob(os.path.join(folder, "*.jpg"))
            if len(names) > 3 * SYNC_FRAMES:
                first, other = self.random.sample(names, 2)
                if (item := self.make(folder, first, other)) is not None:
                    return item

    def _expert(self, folder: Path, first: str, other: str) -> Tensors | None:
        match = self.random.random() < 0.5
        window = _read_window(first if match else other)
        if window is None:
            return None
        speech = _cut(_whole_mel(folder), _number(first))
        if len(speech) != MEL_STEPS:
            return None
        faces = (np.concatenate(window, axis=2) / 255.0).transpose(2, 0, 1)[:, SIZE // 2 :]
        return _float(faces), _float(speech.T[None]), _float(np.array([match]))

    def _generator(self, folder: Path, first: str, other: str) -> Tensors | None:
        target, reference = _read_window(first), _read_window(other)
        if target is None or reference is None:
            return None
        mel, frame = _whole_mel(folder).copy(), _number(first)
        segments = [_cut(mel, frame - 1 + k).T for k in range(SYNC_FRAMES)] if frame else []
        speech = _cut(mel, frame)
        if len(speech) != MEL_STEPS or any(part.shape[1] != MEL_STEPS for part in segments) or not segments:
            return None
        planes, shown = ((np.asarray(part) / 255.0).transpose(3, 0, 1, 2) for part in (target, reference))
        truth = planes.copy()
        planes[:, :, SIZE // 2 :] = 0.0
        faces = np.concatenate([planes, shown], axis=0)
        return _float(faces), _float(np.asarray(segments)[:, None]), _float(speech.T[None]), _float(truth)


def _read_window(first: str) -> list[npt.NDArray[Any]] | None:
    folder, stem = os.path.split(first)
    digits = len(stem) - len(".jpg")
    names = [os.path.join(folder, f"{_number(first) + k:0{digits}d}.jpg") for k in range(SYNC_FRAMES)]
    if not all(map(os.path.isfile, names)):
        return None
    return [cv2.resize(np.asarray(cv2.imread(name)), (SIZE, SIZE)) for name in names]


def _whole_mel(folder: Path) -> npt.NDArray[np.float32]:
    with wave.open(str(folder / "audio.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    return log_mel(samples.astype(np.float32) / 32768).T


def _cut(mel: npt.NDArray[np.float32], frame: int) -> npt.NDArray[np.float32]:
    start = training_start(frame)
    return mel[start : start + MEL_STEPS]


def _number(name: str) -> int:
    return int(Path(name).stem)


def _float(array: npt.NDArray[Any]) -> torch.Tensor:
    return torch.FloatTensor(array.astype(np.float32))
