"""The one LightningDataModule: clips of a preprocessed root, windows as the model needs them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lipsync.data.base_clip import BaseClip
from lipsync.data.clip import Clip
from lipsync.data.filelist import read_filelist, resolve_filelist
from lipsync.data.pack import Pack, load_pack, pack_folder
from lipsync.data.resident import Plans, decoded_store, packed_store
from lipsync.data.sampling import DrawSampler
from lipsync.data.window_dataset import ResidentStore, WindowDataset
from lipsync.errors import ConfigError, DataError

Windows = WindowDataset[Any, Any]
_CHOICES = {"storage": ("auto", "clips", "pack"), "resident": ("auto", True, False)}
_ROOM = 0.6
"""Share of a GPU's free memory that ``resident=auto`` may take."""


def load_clips(root: Path, split: str) -> list[Clip]:
    """The clips that ``root/filelists/<split>.txt`` names.

    Raises:
        DataError: No list, an empty list, or a clip folder that is missing or broken.
    """
    return [Clip(root / name, name) for name in read_filelist(resolve_filelist(root, split))]


def pin_worker(_worker: int) -> None:
    """One thread a worker: oversubscribed BLAS and OpenCV pools are the classic slow loader.

    OpenCV is given 0, which means "no threads": 1 would wait for ever for the threads of a pool that the
    parent process had started before this one was forked.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


class LipSyncData(pl.LightningDataModule):
    """Loads train and validation windows.

    Args:
        root: Preprocessed root (clip folders and ``filelists/``, or packs and ``filelists/``).
        windows: Partial of the data set class: ``windows(clips, train, image_size=...)``.
        image_size: Side of the square face crop.
        batch_size: Windows a step and process; a multiple of the data set's windows a draw.
        val_batch_size: Items of a validation batch (clips for the expert, windows for the generator).
        train_split: Name of the training list.
        val_splits: Names of the validation lists; metrics are logged as ``<name>/...``, and what watches
            validation (the sync gate) watches the first.
        num_workers: Loader processes; with resident data there are none.
        epoch_draws: Draws that make one epoch over all processes; by default one per clip.
        storage: Read clip folders (``clips``), packs (``pack``), or packs where there are some (``auto``).
        resident: Keep pictures and mels on the device and gather batches there. ``auto``: packs, where they
            fit a GPU's free memory, or always on a CPU, where that is the memory-mapped file.
        offsets: JSON file ``{clip: frames}`` by which the speech of training clips is moved, null to leave a
            clip out (``offsets.json`` of an expert's run).
    """

    def __init__(
        self,
        root: str,
        windows: Callable[..., Windows],
        *,
        image_size: int = 96,
        batch_size: int = 16,
        val_batch_size: int = 16,
        train_split: str = "train",
        val_splits: Sequence[str] = ("val",),
        num_workers: int = 1,
        epoch_draws: int | None = None,
        storage: Literal["auto", "clips", "pack"] = "auto",
        resident: Literal["auto"] | bool = "auto",
        offsets: str | None = None,
    ) -> None:
        super().__init__()
        counts = (("batch_size", batch_size, 1), ("val_batch_size", val_batch_size, 1))
        for name, value, least in (*counts, ("num_workers", num_workers, 0)):
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"data.{name}={value}: give a whole number of at least {least}")
        for name, choice in (("storage", storage), ("resident", resident)):
            if choice not in _CHOICES[name]:
                raise ConfigError(
                    f"data.{name}={choice}: choose one of {', '.join(map(str, _CHOICES[name]))}"
                )
        self.root, self.windows, self.image_size = Path(root), windows, image_size
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.train_split, self.val_splits = train_split, list(val_splits)
        self.num_workers, self.epoch_draws = num_workers, epoch_draws
        self.storage, self.resident, self.offsets = storage, resident, offsets
        self._packs: dict[str, Pack] = {}
        self._stores: dict[str, ResidentStore] = {}

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
        if self.offsets is not None:
            self.train_set.set_offsets(read_offsets(Path(self.offsets)))

    def _dataset(self, split: str, *, train: bool) -> Windows:
        dataset = self.windows(self._clips(split), train, image_size=self.image_size)
        if dataset.skipped:
            warnings.warn(f"{split}: {dataset.skipped} clips are too short and left out", stacklevel=2)
        return dataset

    def _clips(self, split: str) -> Sequence[BaseClip]:
        folder = pack_folder(self.root, split, self.image_size)
        if self.storage == "clips" or (self.storage == "auto" and not folder.is_dir()):
            return load_clips(self.root, split)
        self._packs[split] = load_pack(self.root, split, self.image_size)
        return self._packs[split].clips

    def train_dataloader(self) -> DataLoader[Any]:
        """Random windows; draw numbers are dealt to ranks and workers, from where a resumed run stopped."""
        per_step = self.batch_size // self.train_set.items_per_draw
        # Whole optimizer steps: one that an epoch's end cuts short would have small gradients.
        step = per_step * self._rank()[1] * (self.trainer.accumulate_grad_batches if self.trainer else 1)
        length = max(1, (self.epoch_draws or len(self.train_set)) // step) * step
        sampler = DrawSampler(length, *self._rank(), position=lambda: self._steps_done() * per_step)
        return self._loader(self.train_split, self.train_set, per_step, sampler, train=True)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader a validation list; the same windows every time."""
        return [
            self._loader(
                split, dataset, self.val_batch_size, DrawSampler(len(dataset), *self._rank()), train=False
            )
            for split, dataset in self.val_sets.items()
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
        self, split: str, dataset: Windows, batch: int, sampler: DrawSampler, *, train: bool
    ) -> DataLoader[Any]:
        if split not in self._stores and self._is_resident(split):
            self._stores[split] = self._store(split, dataset)
        resident = split in self._stores
        workers = 0 if resident else self.num_workers
        return DataLoader(
            Plans(dataset) if resident else dataset,
            batch_size=batch,
            collate_fn=dataset.collate,
            sampler=sampler,
            num_workers=workers,
            worker_init_fn=pin_worker,
            drop_last=train,
            persistent_workers=train and workers > 0,
            pin_memory=torch.cuda.is_available() and not resident,
        )

    def _is_resident(self, split: str) -> bool:
        if self.resident != "auto" or split not in self._packs:
            return self.resident is True
        device = self._device()
        if device.type != "cuda":
            return device.type == "cpu"
        wanted = sum(pack.frames.nbytes + pack.mels.nbytes for pack in self._packs.values())
        return wanted < _ROOM * torch.cuda.mem_get_info(device)[1]

    def _store(self, split: str, dataset: Windows) -> ResidentStore:
        if split in self._packs:
            store = packed_store(self._packs[split], dataset.clips)
        else:
            store = decoded_store(dataset.clips, self.image_size, self.num_workers)
        return store.to(self._device())

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Gather, scale, augment and mask on the device."""
        training = self.trainer is None or self.trainer.training
        split = self.train_split if training else self.val_splits[dataloader_idx]
        dataset = self.train_set if training else self.val_sets[split]
        store = self._stores.get(split)
        return dataset.assemble(batch if store is None else dataset.gather(batch, store))


def read_offsets(path: Path) -> dict[str, int | None]:
    """Frames by which to move the speech of each named clip, None to leave it out.

    Raises:
        DataError: No such file, or not a table of whole numbers.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        pairs = table.items()
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a table of offsets ({error}); give data.offsets=FILE.json") from error
    for name, offset in pairs:
        if offset is not None and (not isinstance(offset, int) or isinstance(offset, bool)):
            raise DataError(
                f"{path}: offset of {name} is {offset!r}; give whole frames, or null to leave it out"
            )
    return dict(pairs)
