"""What the two data sets of windows share: which clip and moment a draw takes, and where that lies.

A draw is *planned* (numbers only), then *read*: by a worker from clip folders or a pack, or on the device
from a :class:`ResidentStore`, where a corpus that fits is kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipsync.audio.spec import MEL_STEPS, SYNC_FRAMES
from lipsync.data.base_clip import BaseClip
from lipsync.data.sampling import clips_with_partners, speaker_weights
from lipsync.errors import DataError

Ints = npt.NDArray[np.int64]
Plan = TypeVar("Plan", bound=NamedTuple)
Sample = TypeVar("Sample", bound=NamedTuple)


@dataclass(frozen=True)
class ResidentStore:
    """All pictures and mels of a data set's clips, one clip after another, on one device."""

    frames: Tensor
    """``(rows, S, S, 3)`` uint8."""
    mels: Tensor
    """``(columns, 80)`` float32."""
    first_row: Tensor
    """``(clips,)`` int64: where a clip's pictures begin."""
    first_column: Tensor
    """``(clips,)`` int64: where a clip's mel begins."""

    def to(self, device: torch.device) -> ResidentStore:
        """The same on ``device``."""
        parts = (self.frames, self.mels, self.first_row, self.first_column)
        return ResidentStore(*(part.to(device) for part in parts))

    def pictures(self, clip: Tensor, first: Tensor, top: int = 0) -> Tensor:
        """``(N, 5, S - top, S, 3)``: five pictures from each ``first`` ``(N,)`` on, below ``top``."""
        rows = (self.first_row[clip] + first)[:, None] + torch.arange(SYNC_FRAMES, device=first.device)
        return self.frames[:, top:][rows]

    def speech(self, clip: Tensor, column: Tensor) -> Tensor:
        """Mel windows from each ``column`` ``(N,)`` of its clip: ``(N, 80, 16)``."""
        span = torch.arange(MEL_STEPS, device=column.device)
        return self.mels[(self.first_column[clip] + column)[:, None] + span].transpose(1, 2)


class WindowDataset(Dataset[Sample], Generic[Plan, Sample]):
    """Draws windows; what draw ``n`` takes depends on ``seed``, ``n`` and the table of offsets alone.

    Args:
        clips: Preprocessed clips; those without two windows ``gap`` frames apart are left out.
        gap: Least distance in frames between two windows that belong together.
        mel_shift: Of the speech segments of single frames, see :meth:`BaseClip.window_starts`.
        speaker_exponent: A speaker's share of the draws is proportional to its clips to this power.
        image_size: Side of the square face crop.
        seed: Of the draws.

    Raises:
        DataError: No clip is long enough.
    """

    items_per_draw = 1

    @abstractmethod
    def __len__(self) -> int:
        """Draws of one epoch."""

    def __init__(
        self,
        clips: Sequence[BaseClip],
        *,
        gap: int,
        mel_shift: int,
        speaker_exponent: float,
        image_size: int,
        seed: int,
    ) -> None:
        self.clips, self.starts = clips_with_partners(clips, gap, mel_shift)
        self.skipped = len(clips) - len(self.clips)
        self.gap, self.mel_shift, self.image_size, self.seed = gap, mel_shift, image_size, seed
        self._weights = speaker_weights(self.clips, speaker_exponent)
        self._cumulated = self._weights.cumsum()
        # Shared memory: workers that are already running see a change, and `version` tells them of it.
        self._offsets = torch.zeros(len(self.clips), dtype=torch.int64).share_memory_()
        self._dropped = torch.zeros(len(self.clips), dtype=torch.bool).share_memory_()
        self._version = torch.zeros((), dtype=torch.int64).share_memory_()
        self._seen = 0

    @abstractmethod
    def plan(self, draw: int) -> Plan:
        """What draw number ``draw`` (any integer >= 0) takes."""

    @abstractmethod
    def read(self, plan: Plan) -> Sample:
        """The pictures and mels of one planned draw, from its clip."""

    @abstractmethod
    def gather(self, plan: Plan, store: ResidentStore) -> Sample:
        """The pictures and mels of collated plans, from a store on their device."""

    @staticmethod
    @abstractmethod
    def collate(samples: Sequence[Any]) -> Any:
        """Plans or samples of several draws -> one."""

    @abstractmethod
    def assemble(self, sample: Sample) -> Any:
        """Collated samples -> network inputs, on the samples' device."""

    def __getitem__(self, draw: int) -> Sample:
        """The sample of draw number ``draw``."""
        return self.read(self.plan(draw))

    @property
    def offsets(self) -> dict[str, int | None]:
        """Of each clip that has one: frames by which its speech is moved; None where it is left out."""
        self._refresh()
        table = zip(self.clips, self._offsets.tolist(), self._dropped.tolist(), strict=True)
        return {
            clip.name: None if dropped else offset for clip, offset, dropped in table if offset or dropped
        }

    def set_offsets(self, offsets: Mapping[str, int | None]) -> None:
        """Pair frame ``f`` of a clip with the speech of frame ``f + offset``; None leaves the clip out.

        Clips that are not named have offset 0. Call it between epochs: running workers may have read ahead.

        Raises:
            DataError: None of the clips is named, or none would be left.
        """
        if offsets and not any(clip.name in offsets for clip in self.clips):
            raise DataError(
                f"offsets are of other clips ({next(iter(offsets))}, ...): give those of this corpus"
            )
        dropped = torch.tensor([offsets.get(clip.name, 0) is None for clip in self.clips])
        if bool(dropped.all()):
            raise DataError("offsets leave no clip to train on: give fewer of null")
        self._offsets.copy_(torch.tensor([offsets.get(clip.name, 0) or 0 for clip in self.clips]))
        self._dropped.copy_(dropped)
        self._version += 1
        self._refresh()

    def _refresh(self) -> None:
        """Recompute what follows from the offsets, where they have changed."""
        version = int(self._version)
        if version == self._seen:
            return
        self._seen = version
        offsets, dropped = self._offsets.tolist(), self._dropped.numpy().copy()
        for index, clip in enumerate(self.clips):
            starts = clip.window_starts(SYNC_FRAMES, self.mel_shift, offsets[index])
            # As when the clips were chosen: every window needs a partner.
            dropped[index] |= not len(starts) or starts[-1] - starts[0] < 2 * self.gap
            self.starts[index] = starts
        self._cumulated = np.where(dropped, 0.0, self._weights).cumsum()

    def _draw_clip(self, rng: np.random.Generator) -> tuple[int, Ints, int]:
        """A clip, its window starts and its offset."""
        self._refresh()
        at = rng.random() * self._cumulated[-1]
        index = min(int(np.searchsorted(self._cumulated, at, side="right")), len(self.clips) - 1)
        return index, self.starts[index], int(self._offsets[index])

    def _pictures(self, clip: BaseClip, first: Ints) -> npt.NDArray[np.uint8]:
        """Five pictures from each position ``first`` ``(N,)`` in ``clip.present``: ``(N, 5, S, S, 3)``."""
        return clip.pictures(first[:, None] + np.arange(SYNC_FRAMES), self.image_size)


def speech_windows(mel: npt.NDArray[np.float32], columns: Ints) -> Tensor:
    """Mel windows from each of ``columns`` ``(N,)``: ``(N, 80, 16)`` float32."""
    windows = mel[:, columns[:, None] + np.arange(MEL_STEPS)]
    return torch.from_numpy(np.ascontiguousarray(windows.transpose(1, 0, 2)))


def int_tensor(values: npt.ArrayLike) -> Tensor:
    """int64 tensor."""
    return torch.from_numpy(np.asarray(values, dtype=np.int64))
