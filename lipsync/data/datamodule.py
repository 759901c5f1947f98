"""The one LightningDataModule: clips of a preprocessed root, windows as the model needs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lipsync.data.clip import Clip
from lipsync.data.filelist import read_filelist, resolve_filelist
from lipsync.data.sampling import DrawSampler
from lipsync.errors import ConfigError, DataError


class WindowDataset(Protocol):
    """What the DataModule needs of a data set of windows."""

    items_per_draw: int
    clips: list[Clip]
    skipped: int

    def __len__(self) -> int:
        """Draws of one epoch."""

    def __getitem__(self, draw: int) -> Any:
        """The sample of one draw."""

    def collate(self, samples: Sequence[Any]) -> Any:
        """Samples of several draws -> one sample of the batch."""

    def assemble(self, sample: Any) -> Any:
        """Collated samples on the device -> batch."""


def load_clips(root: Path, split: str) -> list[Clip]:
    """The clips that ``root/filelists/<split>.txt`` names.

    Raises:
        DataError: No list, an empty list, or a clip folder that is missing or broken.
    """
    return [Clip(root / name, name) for name in read_filelist(resolve_filelist(root, split))]


def pin_worker(_worker: int) -> None:
    """One thread a worker: oversubscribed BLAS and OpenCV pools are the classic slow loader."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


class LipSyncData(pl.LightningDataModule):
    """Loads train and validation windows.

    Args:
        root: Preprocessed root (clip folders and ``filelists/``).
        windows: Partial of the data set class: ``windows(clips, train)``.
        batch_size: Windows a step and process; a multiple of the data set's windows a draw.
        val_batch_size: Items of a validation batch (clips for the expert, windows for the generator).
        train_split: Name of the training list.
        val_splits: Names of the validation lists; metrics are logged as ``<name>/...``, and what watches
            validation (the sync gate) watches the first.
        num_workers: Loader processes.
        epoch_draws: Draws that make one epoch over all processes; by default one per clip.
    """

    def __init__(
        self,
        root: str,
        windows: Callable[[Sequence[Clip], bool], WindowDataset],
        *,
        batch_size: int = 16,
        val_batch_size: int = 16,
        train_split: str = "train",
        val_splits: Sequence[str] = ("val",),
        num_workers: int = 1,
        epoch_draws: int | None = None,
    ) -> None:
        super().__init__()
        counts = (("batch_size", batch_size, 1), ("val_batch_size", val_batch_size, 1))
        for name, value, least in (*counts, ("num_workers", num_workers, 0)):
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"data.{name}={value}: give a whole number of at least {least}")
        self.root, self.windows = Path(root), windows
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.train_split, self.val_splits = train_split, list(val_splits)
        self.num_workers, self.epoch_draws = num_workers, epoch_draws

    def setup(self, stage: str) -> None:
        """Index the clips, once; every skip rule is applied here and counted."""
        if hasattr(self, "train_set"):
            return
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; run preprocess.py first and give data.root=FOLDER")
        self.train_set = self._dataset(self.train_split, train=True)
        self.val_sets = {split: self._dataset(split, train=False) for split in self.val_splits}
        if self.batch_size % self.train_set.items_per_draw:
            raise ConfigError(
                f"data.batch_size={self.batch_size} is not a multiple of the "
                f"{self.train_set.items_per_draw} windows drawn from a clip"
            )

    def _dataset(self, split: str, *, train: bool) -> WindowDataset:
        dataset = self.windows(load_clips(self.root, split), train)
        if dataset.skipped:
            warnings.warn(f"{split}: {dataset.skipped} clips are too short and left out", stacklevel=2)
        return dataset

    def train_dataloader(self) -> DataLoader[Any]:
        """Random windows; draw numbers are dealt to ranks and workers, from where a resumed run stopped."""
        per_step = self.batch_size // self.train_set.items_per_draw
        length = max(self.epoch_draws or len(self.train_set), per_step * self._rank()[1])
        sampler = DrawSampler(length, *self._rank(), position=lambda: self._steps_done() * per_step)
        return self._loader(self.train_set, per_step, sampler, train=True)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader a validation list; the same windows every time."""
        return [
            self._loader(dataset, self.val_batch_size, DrawSampler(len(dataset), *self._rank()), train=False)
            for dataset in self.val_sets.values()
        ]

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _steps_done(self) -> int:
        """Batches this rank has trained on since the run began, before interruptions too."""
        if self.trainer is None:
            return 0
        total = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)  # type: ignore[attr-defined]  # declared as its base class

    def _loader(
        self, dataset: WindowDataset, batch: int, sampler: DrawSampler, *, train: bool
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset,  # type: ignore[arg-type]  # a map-style data set by protocol
            batch_size=batch,
            collate_fn=dataset.collate,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=pin_worker,
            drop_last=train,
            persistent_workers=train and self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale, permute and mask on the device."""
        return self.train_set.assemble(batch)
