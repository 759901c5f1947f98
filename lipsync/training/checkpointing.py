"""Checkpoints a killed run goes on from as if nothing had happened.

A run can be killed at any moment, so every file is written under another name first; the last checkpoint
describes a moment *between* two steps (everything of the step done, its validation and its rows in the log
too), and random numbers depend on the step and not on what happened before it.
"""

from __future__ import annotations

import os
import random
import struct
import time
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from typing_extensions import override

from lipsync.checkpoints.loading import load_state
from lipsync.errors import CheckpointError, ConfigError
from lipsync.files import replacing
from lipsync.training.loggers import AppendingCSVLogger

ASK_EVERY = 10
"""Several processes ask the first one whether it is time to save once in this many steps."""

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes ``<name>.part`` beside the file, flushes it to the disk and renames it.

    Lightning's own writer goes through a file in the system's temporary folder, which is a plain copy to the
    final name where that folder lies on another disk, and through two more copies in memory.

    Args:
        path: A checkpoint that has been read already.
        state: What it holds; handed out once instead of reading the file again.
    """

    def __init__(self, path: Path | None = None, state: dict[str, Any] | None = None) -> None:
        self._read = {} if path is None or state is None else {str(path): state}

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint``; the file of that name is the old or the new one at any moment, and whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    @override
    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """What ``path`` holds, from memory where it has been read already."""
        if str(path) in self._read:
            return self._read.pop(str(path))
        return super().load_checkpoint(path, map_location, weights_only)


class BetweenSteps(Checkpoint, ABC):
    """Base of what saves between two steps, so that a run resumed from the file is the run that went on.

    A step is complete when the next one begins, or when training ends: the validation that belongs to it may
    have opened the sync gate, and its rows are in the log.

    The trainer runs callbacks of Lightning's base class after all others.
    """

    def __init__(self) -> None:
        self._step = 0
        self._progress: dict[str, Any] | None = None
        self._complete = False

    @abstractmethod
    def step_complete(self, trainer: pl.Trainer, *, at_end: bool) -> None:
        """Save, if it is time; ``at_end`` once, when training ends."""

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A step that was done before is no step of this run."""
        self._step = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note where the loops stand after an optimizer step.

        Lightning resumes exactly from here; later they have moved on to the next batch, perhaps to the next
        epoch, and a run resumed from there would count a step and an epoch twice.
        """
        if trainer.global_step != self._step:  # else gradients are still being accumulated
            self._step = trainer.global_step
            self._progress = {"epoch": trainer.current_epoch, "fit_loop": _progress(trainer)}
            self._complete = True

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The step before is complete."""
        if self._complete:
            self.step_complete(trainer, at_end=False)
            self._complete = False

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last step is complete."""
        if self._progress is not None:
            self._complete = True
            self.step_complete(trainer, at_end=True)

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Between two steps, whoever saves, put down where the loops stood when the step was done."""
        if self._complete and self._progress is not None:
            checkpoint["epoch"] = self._progress["epoch"]
            checkpoint["loops"]["fit_loop"] = self._progress["fit_loop"]


class LastCheckpoint(BetweenSteps):
    """Keeps ``last.ckpt``, and as ``previous.ckpt`` the one before.

    Saved at intervals, when training ends and when Ctrl-C ends it.

    Args:
        dirpath: Folder of the checkpoints.
        every_n_steps: Save after this many optimizer steps; None: not by steps.
        every_minutes: Save once this much time has passed since the last saving; None: not by time.
    """

    def __init__(
        self, dirpath: str, every_n_steps: int | None = None, every_minutes: float | None = None
    ) -> None:
        super().__init__()
        _check_interval("last.every_n_steps", every_n_steps)
        _check_interval("last.every_minutes", every_minutes)
        self.folder = Path(dirpath)
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self._saved_at = 0.0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time runs from here."""
        super().on_train_start(trainer, pl_module)
        self._saved_at = time.monotonic()

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save on Ctrl-C in a single process; other ranks may be gone, and saving is collective."""
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1 and trainer.global_step:
            self._complete = trainer.global_step == self._step
            self._save(trainer)

    @override
    def step_complete(self, trainer: pl.Trainer, *, at_end: bool) -> None:
        """Save at the end and when an interval has passed."""
        if at_end or self._due(trainer):
            self._save(trainer)

    def _due(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        if self.every_n_steps is not None and step % self.every_n_steps == 0:
            return True
        if self.every_minutes is None or (trainer.world_size > 1 and step % ASK_EVERY):
            return False
        late = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        return trainer.strategy.broadcast(late)  # saving is collective, and clocks differ

    def _save(self, trainer: pl.Trainer) -> None:
        """Write under another name, then shift ``last`` to ``previous``: one whole file is always there."""
        new, last = self.folder / "next.ckpt", self.folder / "last.ckpt"
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            if last.is_file():
                last.replace(self.folder / "previous.ckpt")
            new.replace(last)
        self._saved_at = time.monotonic()


class StepCheckpoint(BetweenSteps, ModelCheckpoint):
    """Lightning's ModelCheckpoint, but what it saves by steps or time describes a moment between two steps.

    Args:
        **settings: Those of ModelCheckpoint.
    """

    def __init__(self, **settings: Any) -> None:
        _check_interval("checkpoint.every_n_train_steps", settings.get("every_n_train_steps"))
        BetweenSteps.__init__(self)
        ModelCheckpoint.__init__(self, **settings)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Both parents'."""
        BetweenSteps.on_train_start(self, trainer, pl_module)
        ModelCheckpoint.on_train_start(self, trainer, pl_module)

    @override
    def step_complete(self, trainer: pl.Trainer, *, at_end: bool) -> None:
        """What ModelCheckpoint does at the end of a batch."""
        ModelCheckpoint.on_train_batch_end(self, trainer, trainer.lightning_module, None, None, 0)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Both parents'."""
        BetweenSteps.on_train_end(self, trainer, pl_module)
        ModelCheckpoint.on_train_end(self, trainer, pl_module)


class ExactResume(Callback):
    """Makes a step's random numbers depend on its number only, and the log go on where the weights do.

    Data are drawn by number anyway; this is for what draws from the global generators of the process.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the rows of the log that will be written again."""
        for logger in trainer.loggers if trainer.ckpt_path is not None else []:
            if isinstance(logger, AppendingCSVLogger) and trainer.is_global_zero:
                logger.drop_from(trainer.global_step)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed Python, NumPy and torch for this step of this process."""
        key = (self.seed, trainer.global_step, batch_idx, trainer.global_rank)
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def read_training_state(path: Path) -> dict[str, Any]:
    """What a checkpoint of a training run holds, every byte of it checked.

    Raises:
        CheckpointError: The file is missing, damaged, or holds weights only.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give ckpt_path=FILE of an earlier run")
    _check_sums(path)
    state = load_state(path)
    if "pytorch-lightning_version" not in state:
        raise CheckpointError(
            f"{path}: holds weights only, no training state; give the last.ckpt of a run of this program"
        )
    return state


def read_last(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that ``ckpt_path=last`` means: ``last.ckpt``, or the newest other one that can be read.

    Args:
        folder: ``checkpoints/`` of a run.

    Returns:
        Its path, which is not ``last.ckpt`` where that is missing or damaged, and what it holds.

    Raises:
        CheckpointError: There is none.
    """
    last = folder / "last.ckpt"
    others = [path for path in folder.glob("*.ckpt") if path != last]
    others.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    errors = []
    for path in (last, *others):
        try:
            return path, read_training_state(path)
        except CheckpointError as error:
            errors.append(error)
    if not others:
        raise errors[0]
    raise CheckpointError(
        f"{folder}: no checkpoint in it can be read, {errors[0]}; start again without ckpt_path"
    )


def _check_sums(path: Path) -> None:
    """Raise CheckpointError where a torch archive's bytes are not those that were written.

    torch itself reads changed weights without a word.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except _ZIP_ERRORS as error:
        raise CheckpointError(f"{path}: is damaged ({error})") from error
    if broken is not None:
        raise CheckpointError(f"{path}: is damaged (checksum of {broken})")


def _check_interval(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ConfigError(f"callbacks.{name}={value}: give a number above 0")


def _progress(trainer: pl.Trainer) -> dict[str, Any]:
    """The state of the training loops."""
    state: dict[str, Any] = trainer.fit_loop.state_dict()
    for count in state["epoch_progress"].values():
        # A run resumed at the start of an epoch has not counted that start.
        count["completed"] = count["processed"]
        count["ready"] = count["started"] = count["processed"] + 1
    return state
