"""A corpus that fits, decoded once and kept on the device: batches are gathered there, without workers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lipsync.data.base_clip import BaseClip
from lipsync.data.pack import Pack, PackedClip
from lipsync.data.window_dataset import ResidentStore, WindowDataset, int_tensor


class Plans(Dataset[Any]):
    """The plans of a data set: what a loader hands out when the pictures are on the device already."""

    def __init__(self, windows: WindowDataset[Any, Any]) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, draw: int) -> Any:
        return self.windows.plan(draw)


def packed_store(pack: Pack, clips: Sequence[BaseClip]) -> ResidentStore:
    """The store of ``clips``, all of them of ``pack``; on a CPU it is the memory-mapped file itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nobody writes to it
        frames, mels = torch.from_numpy(pack.frames), torch.from_numpy(pack.mels)
    packed = [clip for clip in clips if isinstance(clip, PackedClip)]
    return ResidentStore(
        frames,
        mels,
        int_tensor([clip.first_row for clip in packed]),
        int_tensor([clip.first_column for clip in packed]),
    )


def decoded_store(clips: Sequence[BaseClip], size: int, workers: int = 1) -> ResidentStore:
    """Decode all pictures and mels of ``clips`` into memory.

    Args:
        clips: Clips in the order of the data set.
        size: Side of the square face crop.
        workers: Threads that decode.
    """
    rows = np.cumsum([0, *(len(clip.present) for clip in clips)])
    columns = np.cumsum([0, *(clip.mel_steps for clip in clips)])
    frames = np.empty((int(rows[-1]), size, size, 3), dtype=np.uint8)
    mels = np.empty((int(columns[-1]), 80), dtype=np.float32)

    def load(index: int) -> None:
        clip = clips[index]
        frames[rows[index] : rows[index + 1]] = clip.frames(clip.present, size)
        mels[columns[index] : columns[index + 1]] = clip.mel().T

    with ThreadPoolExecutor(max(1, workers)) as pool:
        list(pool.map(load, range(len(clips))))
    return ResidentStore(
        torch.from_numpy(frames), torch.from_numpy(mels), int_tensor(rows[:-1]), int_tensor(columns[:-1])
    )
