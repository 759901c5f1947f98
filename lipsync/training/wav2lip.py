"""Objective of the generator: Wav2Lip, and Wav2Lip-HQ when a quality critic is given."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lipsync.checkpoints.networks import load_expert
from lipsync.data.generation import GenerationBatch
from lipsync.losses.adversarial import critic_loss, frozen, generator_loss
from lipsync.losses.sync import expert_sync_loss
from lipsync.models.syncnet import SyncNet, lower_half_windows
from lipsync.models.wav2lip import Wav2Lip
from lipsync.training.jitter import jitter_windows
from lipsync.training.optimization import OptimizerFactory, SchedulerFactory, configure, planned_steps


class Wav2LipModule(pl.LightningModule):
    """Trains a generator with L1, a frozen sync expert and, for HQ, a quality critic.

    One forward, one backward, one optimizer for generator and critic: the critic judges the generator
    through detached parameters and learns from detached pictures, so the simultaneous step equals the
    reference's two alternating ones, and plain DDP works.

    The total is ``s * sync + a * adversarial + (1 - s - a) * l1 + critic`` (Wav2Lip, equation 6).

    Args:
        generator: The network to train.
        optimizer: Partial of a torch optimizer, over generator and critic.
        expert_checkpoint: Path or catalogue name of a sync expert; without it there is no sync loss.
        expert_mode: ``eval``, or ``train`` as in the reference (batch statistics in the frozen expert).
        expert_jitter: Show the expert randomly moved views of the generated mouths while training, so that
            pixel patterns do not satisfy it.
        critic: The quality critic of HQ.
        adversarial_weight: ``a``; 0.07 in the reference.
        mel_shift: The training data's speech shift in frames; kept for inference.
        scheduler: Partial of a schedule, called with the optimizer and the number of steps.
    """

    sync_weight: Tensor

    def __init__(
        self,
        generator: Wav2Lip,
        optimizer: OptimizerFactory,
        *,
        expert_checkpoint: str | None = None,
        expert_mode: Literal["train", "eval"] = "eval",
        expert_jitter: bool = False,
        critic: nn.Module | None = None,
        adversarial_weight: float = 0.07,
        mel_shift: int = -1,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        if expert_mode not in ("train", "eval"):
            raise ValueError(f"model.expert_mode={expert_mode}: choose train or eval")
        self.save_hyperparameters(ignore=["generator", "critic", "optimizer", "scheduler"])
        self.optimizer, self.scheduler = optimizer, scheduler
        self.generator, self.critic = generator, critic
        self.expert: SyncNet | None = None
        self.expert_mode, self.expert_jitter = expert_mode, expert_jitter
        if expert_checkpoint is not None:
            self.expert, provenance = load_expert(expert_checkpoint)
            # Lightning keeps the modes it finds, so the expert's is set here and not only by `train`.
            self.expert.requires_grad_(False).train(expert_mode == "train")
            self.hparams["expert_sha256"] = provenance.sha256
        self.adversarial_weight = adversarial_weight if critic is not None else 0.0
        # A buffer, so that a resumed run goes on with the weight it had.
        self.register_buffer("sync_weight", torch.zeros(()))

    def train(self, mode: bool = True) -> Wav2LipModule:
        """As usual, but the expert keeps the mode it was given."""
        super().train(mode)
        if self.expert is not None:
            self.expert.train(self.expert_mode == "train")
        return self

    def weights(self) -> dict[str, Tensor | float]:
        """The factor of every loss term."""
        l1 = 1.0 - self.sync_weight - self.adversarial_weight
        return {"l1": l1, "sync": self.sync_weight, "adversarial": self.adversarial_weight, "critic": 1.0}

    def losses(self, batch: GenerationBatch, fake: Tensor) -> dict[str, Tensor]:
        """Every term for generated frames ``fake`` ``(B, 3, T, H, W)``; scalars."""
        terms = {"l1": nn.functional.l1_loss(fake, batch.target)}
        if self.expert is not None and float(self.sync_weight) > 0:
            window = lower_half_windows(fake)
            if self.expert_jitter:
                seed = self.global_step * self.trainer.world_size + self.global_rank
                window = jitter_windows(window, seed)
            terms["sync"] = sync_loss(self.expert, batch, window)
        if self.critic is not None:
            terms["adversarial"] = generator_loss(frozen(self.critic, fake))
            terms["critic"] = critic_loss(self.critic(batch.target), self.critic(fake.detach()))
        return terms

    def training_step(self, batch: GenerationBatch, batch_idx: int) -> Tensor:
        """Weighted sum of all terms for one batch."""
        fake = self.generator(batch.mels, batch.faces).float()
        terms = self.losses(batch, fake)
        self.log_dict(
            {f"train/{name}": value for name, value in terms.items()}, prog_bar=True, batch_size=len(fake)
        )
        weights = self.weights()
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()

    def validation_step(self, batch: GenerationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """L1 against copying the reference, and what the expert says."""
        fake = self.generator(batch.mels, batch.faces).float()
        half = fake.shape[-2] // 2
        reference = batch.faces[:, 3:]
        scores = {
            "l1": nn.functional.l1_loss(fake, batch.target),
            "l1_lower": nn.functional.l1_loss(fake[..., half:, :], batch.target[..., half:, :]),
            "l1_copy": nn.functional.l1_loss(reference[..., half:, :], batch.target[..., half:, :]),
        }
        if self.expert is not None:
            scores |= expert_scores(self.expert, batch, fake)
        prefix = self.trainer.datamodule.val_splits[dataloader_idx]  # type: ignore[attr-defined]
        self.log_dict(
            {f"{prefix}/{key}": value for key, value in scores.items()},
            batch_size=len(fake),
            sync_dist=True,
            add_dataloader_idx=False,
            prog_bar=dataloader_idx == 0,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen expert out: ``expert_checkpoint`` brings it back."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("expert.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the expert of this run back, so that loading stays strict."""
        if self.expert is not None:
            expert = {f"expert.{key}": value for key, value in self.expert.state_dict().items()}
            checkpoint["state_dict"] |= expert

    def configure_optimizers(self) -> Any:
        """One optimizer over generator and critic."""
        parts = [self.generator] if self.critic is None else [self.generator, self.critic]
        parameters = [p for part in parts for p in part.parameters()]
        steps = planned_steps(self.trainer.estimated_stepping_batches, self.trainer.max_steps)
        return configure(parameters, self.optimizer, self.scheduler, steps)


def sync_loss(expert: SyncNet, batch: GenerationBatch, window: Tensor) -> Tensor:
    """The expert's verdict on generated lower halves ``(B, 15, 48, 96)``; scalar."""
    return expert_sync_loss(expert, batch.mel, window, other_mel=batch.reference_mel)


def expert_scores(expert: SyncNet, batch: GenerationBatch, fake: Tensor) -> dict[str, Tensor]:
    """What an expert says of generated frames ``(B, 3, T, H, W)``.

    Returns:
        ``sync``, the loss, and ``own``, the share of windows that fit their own speech better than the
        speech of the reference window: a copied mouth scores far below 1/2.
    """
    window = lower_half_windows(fake)
    face = expert.encode_face(window)
    own = (face * expert.encode_audio(batch.mel)).sum(1)
    other = (face * expert.encode_audio(batch.reference_mel)).sum(1)
    return {"sync": sync_loss(expert, batch, window), "own": (own > other).float().mean()}
