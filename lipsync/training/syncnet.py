"""Objective of the sync expert."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from lipsync.data.sync_pairs import SyncBatch
from lipsync.losses.sync import contrastive_loss, cosine_bce
from lipsync.models.syncnet import SyncNet
from lipsync.training.optimization import OptimizerFactory, SchedulerFactory, configure, planned_steps

MAX_OFFSET = 7
"""Validation looks for the audio offset within this many frames."""
FAR = 5
"""Validation compares with speech at least this many frames away."""


class SyncNetModule(pl.LightningModule):
    """Trains a SyncNet to tell speech that fits the lips from speech that does not.

    Args:
        optimizer: Partial of a torch optimizer.
        objective: ``contrastive`` (signed embeddings, learned temperature, negatives from the batch and
            from the same clip) or ``bce`` (the reference: non-negative embeddings, BCE of the cosine).
        width: Channel multiplier of the network.
        min_gap: Contrastive: windows of one clip nearer than this many frames are no negatives.
        scheduler: Partial of a schedule, called with the optimizer and the number of steps.
    """

    def __init__(
        self,
        optimizer: OptimizerFactory,
        objective: Literal["contrastive", "bce"] = "contrastive",
        width: float = 1.0,
        min_gap: int = 3,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        if objective not in ("contrastive", "bce"):
            raise ValueError(f"model.objective={objective}: choose contrastive or bce")
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.optimizer, self.scheduler = optimizer, scheduler
        self.objective, self.min_gap = objective, min_gap
        self.expert = SyncNet(width=width, head="cosine" if objective == "bce" else "contrastive")

    def training_step(self, batch: SyncBatch, batch_idx: int) -> Tensor:
        """Loss of one batch of windows."""
        audio, face = self.expert(batch.mel, batch.face)
        loss = self.objective_loss(audio, face, batch)
        self.log("train/sync", loss, prog_bar=True, batch_size=len(audio))
        return loss

    def objective_loss(self, audio: Tensor, face: Tensor, batch: SyncBatch) -> Tensor:
        """The training objective for embeddings ``(N, D)``; scalar."""
        if self.objective == "bce":
            return cosine_bce(audio, face, batch.match)
        return contrastive_loss(audio, face, self.expert.scale, batch.clip, batch.frame, min_gap=self.min_gap)

    def validation_step(self, batch: SyncBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores runs of consecutive windows, one run a clip."""
        audio, face = self.expert(batch.mel, batch.face)
        prefix = self.trainer.datamodule.val_splits[dataloader_idx]  # type: ignore[attr-defined]
        audio, face = audio.float(), face.float()
        scores = {f"{prefix}/sync": self.validation_loss(audio, face, batch)}
        runs = [clip_scores(a, f) for a, f in zip(*self._runs(audio, face, batch), strict=True)]
        for key in runs[0]:
            scores[f"{prefix}/{key}"] = torch.stack([run[key] for run in runs]).mean()
        self.log_dict(
            scores,
            batch_size=len(runs),
            sync_dist=True,
            add_dataloader_idx=False,
            prog_bar=dataloader_idx == 0,
        )

    def validation_loss(self, audio: Tensor, face: Tensor, batch: SyncBatch) -> Tensor:
        """The objective; for ``bce`` over each window once with its own speech, once with far speech."""
        if self.objective == "contrastive":
            return self.objective_loss(audio, face, batch)
        far = audio.roll(len(audio) // 2, dims=0)
        ones = torch.ones(len(audio), device=audio.device)
        return (cosine_bce(audio, face, ones) + cosine_bce(far, face, 0 * ones)) / 2

    @staticmethod
    def _runs(audio: Tensor, face: Tensor, batch: SyncBatch) -> tuple[list[Tensor], list[Tensor]]:
        _, sizes = torch.unique_consecutive(batch.clip, return_counts=True)
        parts = sizes.tolist()
        return list(audio.split(parts)), list(face.split(parts))

    def configure_optimizers(self) -> Any:
        """Optimizer over the expert; weight decay spares nothing, as in the measured recipe."""
        steps = planned_steps(self.trainer.estimated_stepping_batches, self.trainer.max_steps)
        return configure(self.expert.parameters(), self.optimizer, self.scheduler, steps)


def clip_scores(audio: Tensor, face: Tensor) -> dict[str, Tensor]:
    """How well an expert reads one clip.

    Args:
        audio: ``(n, D)`` unit embeddings of consecutive windows.
        face: ``(n, D)`` likewise.

    Returns:
        ``pair_accuracy``: share of windows whose own speech scores above speech at least five frames away
        in the same clip (two-alternative forced choice, chance 0.5). ``offset_accuracy``: 1 where the best
        offset within +-7 frames lies within one frame of zero, else 0.
    """
    similarity = face @ audio.T  # (n, n)
    n = len(similarity)
    index = torch.arange(n, device=similarity.device)
    lag = index[None, :] - index[:, None]
    own = similarity.diagonal()[:, None]
    far = lag.abs() >= FAR
    wins = ((own > similarity).float() + 0.5 * (own == similarity).float())[far]
    shifts = range(-MAX_OFFSET, MAX_OFFSET + 1)
    never = own.new_tensor(-2.0)
    means = torch.stack([similarity.diagonal(s).mean() if abs(s) < n else never for s in shifts])
    offset = int(means.argmax()) - MAX_OFFSET
    chance = own.new_tensor(0.5)
    return {
        "pair_accuracy": wins.mean() if len(wins) else chance,
        "offset_accuracy": own.new_tensor(float(abs(offset) <= 1)),
    }
