"""Callbacks: the sync-weight gate, sample grids."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from typing_extensions import override

from lipsync.data.generation import GenerationBatch
from lipsync.errors import ConfigError
from lipsync.files import replacing
from lipsync.training.sample_video import generator_of, to_pixels

RAMPS = ("linear", "cosine")


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
        ramp_steps: Steps from 0 to ``weight``; 0 jumps, as in the reference.
        ramp: Course of the weight meanwhile: ``linear``, or ``cosine``, which begins and ends flat.

    Raises:
        ConfigError: ``ramp`` is unknown.
    """

    def __init__(
        self,
        *,
        weight: float = 0.03,
        threshold: float | None = 0.75,
        copy_margin: float | None = None,
        start_step: int | None = None,
        ramp_steps: int = 0,
        ramp: Literal["linear", "cosine"] = "linear",
    ) -> None:
        if ramp not in RAMPS:
            raise ConfigError(f"callbacks.sync_gate.ramp={ramp}: choose {' or '.join(RAMPS)}")
        self.weight, self.threshold, self.copy_margin = weight, threshold, copy_margin
        self.start_step, self.ramp_steps, self.ramp = start_step, ramp_steps, ramp
        self.opened_at: int | None = None
        self._written: float | None = None

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
        if self.opened_at is None:
            return
        weight = self.weight * self._share(step - self.opened_at + 1)
        if weight != self._written:  # writing makes the module ask the device
            pl_module.sync_weight.fill_(weight)
            self._written = weight

    def _share(self, steps: int) -> float:
        """Share of the full weight in the ``steps``-th step since it opened, counted from 1."""
        progress = min(1.0, steps / self.ramp_steps) if self.ramp_steps else 1.0
        return (1 - math.cos(math.pi * progress)) / 2 if self.ramp == "cosine" else progress

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
        generator = generator_of(pl_module)
        if batch_idx or dataloader_idx or generator is None or not isinstance(batch, GenerationBatch):
            return
        # Compiled, it would be compiled again for so few windows.
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            fake = generator(batch.mels[: self.windows], batch.faces[: self.windows]).float()
        grid = picture_grid(batch, fake)
        self.dirpath.mkdir(parents=True, exist_ok=True)
        with replacing(self.dirpath / f"step{trainer.global_step:09d}.jpg") as part:
            cv2.imencode(".jpg", grid)[1].tofile(part)
        for logger in trainer.loggers:
            _log_image(logger, "val/samples", grid, trainer.global_step)


def picture_grid(batch: GenerationBatch, fake: Tensor) -> npt.NDArray[np.uint8]:
    """``(B * H, 4 * W, 3)`` BGR: middle frame of every window of ``fake`` ``(B, 3, T, H, W)``."""
    n, middle = len(fake), fake.shape[2] // 2
    columns = [batch.faces[:n, 3:], batch.faces[:n, :3], fake, batch.target[:n]]
    pixels = to_pixels(torch.cat([column[:, :, middle] for column in columns], dim=3))  # (B, H, 4W, 3)
    return pixels.reshape(-1, pixels.shape[2], 3)


def _log_image(logger: Any, name: str, image: npt.NDArray[np.uint8], step: int) -> None:
    """Hand a BGR picture to loggers that take pictures."""
    rgb = image[..., ::-1]
    if isinstance(logger, pl.loggers.TensorBoardLogger):
        logger.experiment.add_image(name, rgb.copy(), step, dataformats="HWC")
    elif isinstance(logger, pl.loggers.WandbLogger):
        logger.log_image(name, [rgb], step=step)
