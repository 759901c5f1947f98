"""Objective of the sync expert."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed

from lipsync.data.sync_pairs import SyncBatch
from lipsync.losses.sync import contrastive_loss, cosine_bce
from lipsync.models.flops import forward_flops
from lipsync.models.syncnet import SyncNet
from lipsync.training.optimization import (
    LearningRateScaling,
    OptimizerFactory,
    SchedulerFactory,
    configure,
    global_batch,
    planned_steps,
)

MAX_OFFSET = 7
"""Validation looks for the audio offset within this many frames."""
FAR = 5
"""Validation compares with speech at least this many frames away."""
SCORES = ("sync", "pair_accuracy", "offset_accuracy")
"""What validation logs of each list."""


class SyncNetModule(pl.LightningModule):
    """Trains a SyncNet to tell speech that fits the lips from speech that does not.

    Several processes train as one on their joined batch: the contrastive objective compares every window
    with those of all processes (batch statistics stay each process's own; ``trainer.sync_batchnorm=true``
    joins them too, on GPUs).

    Args:
        optimizer: Partial of a torch optimizer.
        objective: ``contrastive`` (signed embeddings, learned temperature, negatives from the batch and
            from the same clip) or ``bce`` (the reference: non-negative embeddings, BCE of the cosine).
        width: Channel multiplier of the network.
        image_size: Side of the face crops.
        min_gap: Contrastive: windows of one clip nearer than this many frames are no negatives.
        scheduler: Partial of a schedule.
        lr_scaling: How the learning rate follows the global batch, see :class:`LearningRateScaling`.
        base_batch: The global batch that the learning rate was found with.

    Raises:
        ConfigError: ``lr_scaling`` or ``base_batch`` is unknown.
        ValueError: ``objective`` or ``image_size`` is unknown.
    """

    def __init__(
        self,
        optimizer: OptimizerFactory,
        objective: Literal["contrastive", "bce"] = "contrastive",
        width: float = 1.0,
        min_gap: int = 3,
        scheduler: SchedulerFactory | None = None,
        *,
        image_size: int = 96,
        lr_scaling: Literal["none", "sqrt", "linear"] = "none",
        base_batch: int = 256,
    ) -> None:
        super().__init__()
        if objective not in ("contrastive", "bce"):
            raise ValueError(f"model.objective={objective}: choose contrastive or bce")
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.optimizer, self.scheduler = optimizer, scheduler
        self.objective, self.min_gap = objective, min_gap
        self.lr_scaling = LearningRateScaling(lr_scaling, base_batch)
        head: Literal["cosine", "contrastive"] = "cosine" if objective == "bce" else "contrastive"
        self.expert = SyncNet(width=width, head=head, image_size=image_size)
        self._sums: dict[str, Tensor] = {}

    def lr_note(self, batch: int | None = None) -> str:
        """One line about the learning rate for a global batch (None: the trainer's, where there is one)."""
        if batch is None and self._trainer is not None:
            batch = global_batch(self.trainer)
        return self.lr_scaling.note(self.optimizer, batch)

    def training_step(self, batch: SyncBatch, batch_idx: int) -> Tensor:
        """Loss of one batch of windows."""
        audio, face = self.expert(batch.mel, batch.face)
        if self.objective == "contrastive":
            audio, face, batch = gather_windows(audio, face, batch)
        loss = self.objective_loss(audio, face, batch)
        self.log("train/sync", loss, prog_bar=True, batch_size=len(audio))
        return loss

    def training_flops(self, batch: SyncBatch) -> float:
        """Operations of one training window: a forward pass and twice that backward."""
        return 3.0 * forward_flops(self.expert, (1, *batch.mel.shape[1:]), (1, *batch.face.shape[1:]))

    def objective_loss(self, audio: Tensor, face: Tensor, batch: SyncBatch) -> Tensor:
        """The training objective for embeddings ``(N, D)``; scalar."""
        if self.objective == "bce":
            return cosine_bce(audio, face, batch.match)
        return contrastive_loss(audio, face, self.expert.scale, batch.clip, batch.frame, min_gap=self.min_gap)

    def on_validation_epoch_start(self) -> None:
        """Nothing seen yet."""
        self._sums = {}

    def validation_step(self, batch: SyncBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores runs of consecutive windows, one run a clip."""
        audio, face = self.expert(batch.mel, batch.face)
        audio, face = audio.float(), face.float()
        clips, sizes = torch.unique_consecutive(batch.clip, return_counts=True)
        runs = zip(audio.split(sizes.tolist()), face.split(sizes.tolist()), strict=True)
        scores = [clip_scores(a, f) for a, f in runs]
        counted = self._own(clips)
        rows = [counted * self.validation_loss(audio, face, batch)]
        rows += [counted * torch.stack([score[name] for score in scores]) for name in SCORES[1:]]
        sums = torch.stack([*(row.sum() for row in rows), counted.sum()])
        split = self.trainer.datamodule.val_splits[dataloader_idx]  # type: ignore[attr-defined]
        self._sums[split] = self._sums.get(split, 0) + sums

    def _own(self, clips: Tensor) -> Tensor:
        """1 for clips dealt to this process, 0 for those that repeat another's to fill its last batch."""
        return (clips % self.trainer.world_size == self.trainer.global_rank).float()

    def on_validation_epoch_end(self) -> None:
        """Log means over the clips of all processes, however these fell into batches."""
        for number, (split, sums) in enumerate(self._sums.items()):
            *totals, clips = self.trainer.strategy.reduce(sums, reduce_op="sum")
            means = {f"{split}/{name}": total / clips for name, total in zip(SCORES, totals, strict=True)}
            self.log_dict(means, batch_size=1, sync_dist=True, prog_bar=number == 0)

    def validation_loss(self, audio: Tensor, face: Tensor, batch: SyncBatch) -> Tensor:
        """The objective; for ``bce`` over each window once with its own speech, once with far speech."""
        if self.objective == "contrastive":
            return self.objective_loss(audio, face, batch)
        far = audio.roll(len(audio) // 2, dims=0)
        ones = torch.ones(len(audio), device=audio.device)
        return (cosine_bce(audio, face, ones) + cosine_bce(far, face, 0 * ones)) / 2

    def configure_optimizers(self) -> Any:
        """Optimizer over the expert; weight decay spares nothing, as in the measured recipe."""
        steps = planned_steps(self.trainer.estimated_stepping_batches, self.trainer.max_steps)
        factor = 1.0
        if self.lr_scaling.rule != "none":
            factor = self.lr_scaling.factor(global_batch(self.trainer))
        return configure(self.expert.parameters(), self.optimizer, self.scheduler, steps, lr_factor=factor)


def gather_windows(audio: Tensor, face: Tensor, batch: SyncBatch) -> tuple[Tensor, Tensor, SyncBatch]:
    """Joins the embeddings ``(N, D)`` of ``W`` processes: ``(W * N, D)``, and whose they are.

    Every process then computes the same loss. The backward pass adds up what all of them send to a row, ``W``
    times its gradient, and DDP's mean over processes divides by ``W``: parameters get the gradient of one
    process on the joined batch. Clips need numbers that all processes share; every process must bring the
    same number of windows. Of the batch only clips, frames and matches are joined.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return audio, face, batch
    joined: Tensor = _JoinedRows.apply(torch.cat([audio, face], dim=1))
    clip, frame, match = _joined(torch.stack([batch.clip, batch.frame, batch.match.long()], dim=1)).unbind(1)
    audio, face = joined.split([audio.shape[1], face.shape[1]], dim=1)
    return audio, face, batch._replace(clip=clip, frame=frame, match=match.float())


class _JoinedRows(torch.autograd.Function):
    """Rows of all processes; a row's gradient is the sum of what all processes send to it.

    What the deprecated ``torch.distributed.nn.functional.all_gather`` does.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        return _joined(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[distributed.get_rank() * ctx.rows :][: ctx.rows]


def _joined(rows: Tensor) -> Tensor:
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows)
    return torch.cat(parts)


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
