"""Callbacks: the sync-weight gate, sample grids, the last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from typing_extensions import override

from lipsync.data.generation import GenerationBatch


class SyncGate(Callback):
    """Raises the weight of the sync loss once validation says that the generator is ready for it.

    The reference waits for a validation sync loss below 0.75. Under L1 alone that may never come (the net
    learns to copy the reference mouth), so the gate can also open when the generator clearly beats copying.
    Once open it never closes; the weight is a buffer of the module and survives resume.

    Args:
        weight: Sync weight when fully open (reference: 0.01 for Wav2Lip, 0.03 for HQ).
        threshold: Opens when ``val/sync`` falls below it; None: never by this rule.
        copy_margin: Opens when ``val/l1_lower`` falls below this share of ``val/l1_copy``; None: never.
        start_step: Opens at this training step at the latest; None: never by this rule.
        ramp_steps: Steps from 0 to ``weight``, linear; 0 jumps, as in the reference.
    """

    def __init__(
        self,
        weight: float = 0.03,
        threshold: float | None = 0.75,
        copy_margin: float | None = None,
        start_step: int | None = None,
        ramp_steps: int = 0,
    ) -> None:
        self.weight, self.threshold, self.copy_margin = weight, threshold, copy_margin
        self.start_step, self.ramp_steps = start_step, ramp_steps
        self.opened_at: int | None = None

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Decide from the metrics of the validation that has just ended."""
        if trainer.sanity_checking or self.opened_at is not None or pl_module.expert is None:
            return
        split = trainer.datamodule.val_splits[0]  # type: ignore[attr-defined]
        reason = self._reason(split, trainer.callback_metrics)
        if reason:
            self._open(trainer.global_step, reason)

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Open by step, and move the weight along its ramp."""
        if pl_module.expert is None:
            return
        step = trainer.global_step
        if self.opened_at is None and self.start_step is not None and step >= self.start_step:
            self._open(step, f"step {step} reached")
        if self.opened_at is not None:
            progress = (step - self.opened_at + 1) / self.ramp_steps if self.ramp_steps else 1.0
            pl_module.sync_weight.fill_(self.weight * min(1.0, progress))

    def _reason(self, split: str, metrics: dict[str, Tensor]) -> str | None:
        names = (f"{split}/{name}" for name in ("sync", "l1_lower", "l1_copy"))
        sync, l1, copy = (float(metrics.get(name, "nan")) for name in names)
        # Comparisons with nan (a metric that was not logged) are false.
        if self.threshold is not None and sync < self.threshold:
            return f"{split}/sync {sync:.3f} < {self.threshold}"
        if self.copy_margin is not None and l1 < self.copy_margin * copy:
            return f"{split}/l1_lower {l1:.4f} < {self.copy_margin} x {split}/l1_copy {copy:.4f}"
        return None

    def _open(self, step: int, reason: str) -> None:
        self.opened_at = step
        rank_zero_info(f"sync loss on: {reason}; weight 0 -> {self.weight} over {self.ramp_steps} steps")

    def state_dict(self) -> dict[str, Any]:
        """When it opened, for resume."""
        return {"opened_at": self.opened_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` saved."""
        self.opened_at = state_dict["opened_at"]


class SampleGrid(Callback):
    """Writes ``[reference | masked | generated | truth]`` of the first validation windows as a picture.

    Files go to ``<dirpath>/step%09d.jpg``; TensorBoard and W&B get them too when they are on.

    Args:
        dirpath: Folder of the pictures.
        windows: Windows a picture, one row each (its middle frame).
    """

    def __init__(self, dirpath: str, windows: int = 8) -> None:
        self.dirpath, self.windows = Path(dirpath), windows

    @override
    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch of the first validation list."""
        if batch_idx or dataloader_idx or not isinstance(batch, GenerationBatch):
            return
        with torch.inference_mode():
            fake = pl_module.generator(batch.mels[: self.windows], batch.faces[: self.windows]).float()
        grid = picture_grid(batch, fake)
        self.dirpath.mkdir(parents=True, exist_ok=True)
        cv2.imencode(".jpg", grid)[1].tofile(self.dirpath / f"step{trainer.global_step:09d}.jpg")
        for logger in trainer.loggers:
            _log_image(logger, "val/samples", grid, trainer.global_step)


def picture_grid(batch: GenerationBatch, fake: Tensor) -> npt.NDArray[np.uint8]:
    """``(B * H, 4 * W, 3)`` BGR: middle frame of every window of ``fake`` ``(B, 3, T, H, W)``."""
    n, middle = len(fake), fake.shape[2] // 2
    columns = [batch.faces[:n, 3:], batch.faces[:n, :3], fake, batch.target[:n]]
    rows = torch.cat([column[:, :, middle] for column in columns], dim=3)  # (B, 3, H, 4W)
    pixels = (rows.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(pixels.reshape(-1, pixels.shape[2], 3))


def _log_image(logger: Any, name: str, image: npt.NDArray[np.uint8], step: int) -> None:
    """Hand a BGR picture to loggers that take pictures."""
    rgb = image[..., ::-1]
    if isinstance(logger, pl.loggers.TensorBoardLogger):
        logger.experiment.add_image(name, rgb.copy(), step, dataformats="HWC")
    elif isinstance(logger, pl.loggers.WandbLogger):
        logger.log_image(name, [rgb], step=step)


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` when training ends and when it is interrupted, whatever the saving interval.

    The trainer runs callbacks of this base class after all others.

    Args:
        dirpath: Folder of the checkpoints.
    """

    def __init__(self, dirpath: str) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self._part = self.path.with_name("last.ckpt.part")
        self._saved_at = -1

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after the last step, while the loops still stand at that step.

        When training has ended they have moved on to the next epoch, and a run resumed from there would count
        a step and an epoch twice.
        """
        if trainer.global_step == trainer.max_steps or trainer.should_stop:
            trainer.save_checkpoint(self._part)
            self._saved_at = trainer.global_step

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put it in place; ModelCheckpoint, whose turn is before, may have written its own this late."""
        if self._saved_at != trainer.global_step:  # ended otherwise, after a number of epochs for instance
            trainer.save_checkpoint(self.path)
        elif trainer.is_global_zero:
            self._part.replace(self.path)

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save on Ctrl-C in a single process; other ranks may be gone, and saving is collective."""
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1 and trainer.global_step:
            trainer.save_checkpoint(self.path)
            self._part.unlink(missing_ok=True)
