"""What training needs of a preprocessed clip, wherever it is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lipsync.audio.spec import MEL_STEPS, SYNC_FRAMES
from lipsync.audio.windows import training_start


class BaseClip(ABC):
    """Face crops at 25 fps and the log-mel of the same seconds.

    Args:
        name: ``speaker/id`` as file lists have it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def length(self) -> int:
        """Length in frames at 25 fps, gaps included."""

    @property
    @abstractmethod
    def present(self) -> npt.NDArray[np.int64]:
        """Sorted indices of the frames that have a face crop, ``(n,)``."""

    @property
    @abstractmethod
    def mel_steps(self) -> int:
        """Columns of :meth:`mel`, known without reading the sound."""

    @abstractmethod
    def frames(self, indices: Sequence[int] | npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint8]:
        """Face crops of the frames ``indices`` as ``(n, size, size, 3)`` uint8 BGR."""

    def pictures(self, positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint8]:
        """Face crops by their position in :attr:`present`: ``(*positions.shape, size, size, 3)``."""
        needed, inverse = np.unique(positions, return_inverse=True)
        images = self.frames(self.present[needed], size)
        return np.asarray(images[inverse.reshape(positions.shape)])

    @abstractmethod
    def mel(self) -> npt.NDArray[np.float32]:
        """Wav2Lip log-mel, ``(80, T)`` float32 in [-4, 4]."""

    def runs(self, length: int) -> npt.NDArray[np.int64]:
        """Start frames of ``length`` consecutive frames that all have a face crop."""
        present = self.present
        if len(present) < length:
            return np.empty(0, dtype=np.int64)
        spans = present[length - 1 :] - present[: len(present) - length + 1]
        return present[: len(spans)][spans == length - 1]

    def window_starts(
        self, length: int = SYNC_FRAMES, mel_shift: int = -1, offset: int = 0
    ) -> npt.NDArray[np.int64]:
        """Start frames usable for training, as the reference data loaders accept them.

        ``length`` consecutive crops exist, and inside the sound lie the 16-step mel window at the start frame
        and those of the single frames, of which frame ``f`` starts at ``training_start(f + mel_shift)``. With
        the reference's -1 a window never starts at frame 0. All speech is taken ``offset`` frames later.
        """
        starts = self.runs(length)
        room = self.mel_steps - MEL_STEPS
        last = [max(start, start + length - 1 + mel_shift) + offset for start in starts.tolist()]
        fits = np.array([frame >= 0 and training_start(frame) <= room for frame in last], dtype=bool)
        return starts[fits & (starts + min(0, mel_shift) + offset >= 0)]
