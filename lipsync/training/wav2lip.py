"""Objective of the generator: Wav2Lip, and Wav2Lip-HQ when a quality critic is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lipsync.checkpoints.kinds import Kind
from lipsync.checkpoints.loading import load_weights, read_network
from lipsync.data.generation import GenerationBatch
from lipsync.errors import CheckpointError, ConfigError
from lipsync.losses.adversarial import critic_loss, frozen, generator_loss
from lipsync.losses.sync import OBJECTIVES, MouthWindows, Objective, Speech, objective_loss
from lipsync.models.syncnet import SyncNet, lower_half_windows
from lipsync.models.wav2lip import Wav2Lip
from lipsync.training.averaging import MovingAverage
from lipsync.training.jitter import jitter_windows
from lipsync.training.judging import expert_scores, load_frozen, picture_scores
from lipsync.training.optimization import (
    LearningRateScaling,
    OptimizerFactory,
    SchedulerFactory,
    configure,
    global_batch,
    planned_steps,
)

FROZEN = ("expert.", "further_experts.", "judge.")
"""Networks that checkpoints leave out: their paths in the hyper-parameters bring them back."""


class Wav2LipModule(pl.LightningModule):
    """Trains a generator with L1, a frozen sync expert and, for HQ, a quality critic.

    One forward, one backward, one optimizer for generator and critic: the critic judges the generator
    through detached parameters and learns from detached pictures, so the simultaneous step equals the
    reference's two alternating ones, and plain DDP works.

    The total is ``s * sync + a * adversarial + (1 - s - a) * l1 + critic`` (Wav2Lip, equation 6).

    Args:
        generator: The network to train.
        optimizer: Partial of a torch optimizer, over generator and critic.
        image_size: Side of the pictures; generator, critic, experts and judge must be made for it.
        expert_checkpoint: Path or catalogue name of a sync expert; without it there is no sync loss. Several
            make an ensemble: the mean of their losses.
        expert_mode: ``eval``, or ``train`` as in the reference (batch statistics in the frozen expert).
        expert_jitter: Show the expert randomly moved views of the generated mouths while training, so that
            pixel patterns do not satisfy it.
        sync_objective: What is asked of the expert, see :func:`lipsync.losses.sync.objective_loss`.
        init_checkpoint: Start from the weights of this generator (of the same width and size): fine-tuning.
        judge_checkpoint: A second expert, which only looks on: validation logs what it says.
        ema_decay: Keep a moving average of the generator; validation and samples use it.
        critic: The quality critic of HQ.
        adversarial_weight: ``a``; 0.07 in the reference.
        mel_shift: The training data's speech shift in frames; kept for inference.
        scheduler: Partial of a schedule.
        lr_scaling: How the learning rate follows the global batch, see :class:`LearningRateScaling`.
        base_batch: The global batch that the learning rate was found with.

    Raises:
        ConfigError: Settings contradict one another.
        CheckpointError: Weights to start from do not fit; an expert cannot be had, is for another size, or is
            its own judge.
    """

    sync_weight: Tensor

    def __init__(
        self,
        generator: Wav2Lip,
        optimizer: OptimizerFactory,
        *,
        image_size: int = 96,
        expert_checkpoint: str | Sequence[str] | None = None,
        expert_mode: Literal["train", "eval"] = "eval",
        expert_jitter: bool = False,
        sync_objective: Objective = "default",
        init_checkpoint: str | None = None,
        judge_checkpoint: str | None = None,
        ema_decay: float | None = None,
        critic: nn.Module | None = None,
        adversarial_weight: float = 0.07,
        mel_shift: int = -1,
        scheduler: SchedulerFactory | None = None,
        lr_scaling: Literal["none", "sqrt", "linear"] = "none",
        base_batch: int = 16,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("expert_mode", expert_mode, ("train", "eval")),
            ("sync_objective", sync_objective, OBJECTIVES),
        ):
            if value not in choices:
                raise ConfigError(f"model.{name}={value}: choose from {', '.join(choices)}")
        for name, network in (("generator", generator), ("critic", critic)):
            if network is not None and network.image_size != image_size:
                raise ConfigError(
                    f"model.{name}.image_size={network.image_size} is not model.image_size={image_size}: "
                    "set model.image_size only"
                )
        self.save_hyperparameters(ignore=["generator", "critic", "optimizer", "scheduler"])
        self.optimizer, self.scheduler = optimizer, scheduler
        self.lr_scaling = LearningRateScaling(lr_scaling, base_batch)
        if init_checkpoint is not None:
            load_weights(generator, read_network(init_checkpoint, Kind.GENERATOR)[0])
        self.generator, self.critic = generator, critic
        self.generator_ema = None if ema_decay is None else MovingAverage(generator, ema_decay)
        self.expert_mode, self.expert_jitter = expert_mode, expert_jitter
        self.sync_objective = sync_objective
        self._load_judges(image_size)
        self.adversarial_weight = adversarial_weight if critic is not None else 0.0
        # A buffer, so that a resumed run goes on with the weight it had.
        self.register_buffer("sync_weight", torch.zeros(()))
        self._sync_state, self._sync_on = (0, 0), False
        self.sync_factor = 1.0
        """Of the sync weight; below 1 where `JudgeWatch` has lowered it."""

    def _load_judges(self, image_size: int) -> None:
        """The frozen networks that the hyper-parameters name, and their digests into these."""
        named = self.hparams["expert_checkpoint"]
        names = [] if named is None else [named] if isinstance(named, str) else list(named)
        loaded = [load_frozen(name, image_size) for name in names]
        digests = [digest for _, digest in loaded]
        self.expert: SyncNet | None = loaded[0][0] if loaded else None
        self.further_experts = nn.ModuleList(expert for expert, _ in loaded[1:])
        if loaded:
            self.hparams["expert_sha256"] = digests[0] if len(digests) == 1 else digests
        self.judge: SyncNet | None = None
        if (judge := self.hparams["judge_checkpoint"]) is not None:
            self.judge, digest = load_frozen(judge, image_size)
            if digest in digests:
                raise CheckpointError(
                    f"{judge}: is the expert itself; give model.judge_checkpoint an expert of another seed, "
                    "width or corpus"
                )
            self.hparams["judge_sha256"] = digest
        # Lightning keeps the modes it finds, so the experts' is set here and not only by `train`.
        self._set_modes()

    def lr_note(self, batch: int | None = None) -> str:
        """One line about the learning rate for a global batch (None: the trainer's, where there is one)."""
        if batch is None and self._trainer is not None:
            batch = global_batch(self.trainer)
        return self.lr_scaling.note(self.optimizer, batch)

    @property
    def experts(self) -> list[SyncNet]:
        """The experts of the sync loss, the first one first."""
        return [] if self.expert is None else [self.expert, *self.further_experts]

    @property
    def eval_generator(self) -> nn.Module:
        """The generator that validation and samples use: the moving average where there is one."""
        return self.generator if self.generator_ema is None else self.generator_ema.module

    def train(self, mode: bool = True) -> Wav2LipModule:
        """As usual, but experts and judge keep the mode they were given."""
        super().train(mode)
        self._set_modes()
        return self

    def _set_modes(self) -> None:
        for expert in self.experts:
            expert.train(self.expert_mode == "train")
        if self.judge is not None:
            self.judge.eval()

    def weights(self) -> dict[str, Tensor | float]:
        """The factor of every loss term."""
        sync = self.sync_weight * self.sync_factor
        l1 = 1.0 - sync - self.adversarial_weight
        return {"l1": l1, "sync": sync, "adversarial": self.adversarial_weight, "critic": 1.0}

    def losses(self, batch: GenerationBatch, fake: Tensor) -> dict[str, Tensor]:
        """Every term for generated frames ``fake`` ``(B, 3, T, H, W)``; scalars."""
        terms = {"l1": nn.functional.l1_loss(fake, batch.target)}
        if self.experts and self._sync_counts():
            terms["sync"] = self._sync_loss(batch, fake)
        if self.critic is not None:
            terms["adversarial"] = generator_loss(frozen(self.critic, fake))
            terms["critic"] = critic_loss(self.critic(batch.target), self.critic(fake.detach()))
        return terms

    def _sync_counts(self) -> bool:
        """Whether the sync weight is above 0; waits for the device only after the weight was written."""
        state = (id(self.sync_weight), self.sync_weight._version)
        if state != self._sync_state:
            self._sync_state, self._sync_on = state, float(self.sync_weight) > 0
        return self._sync_on

    def _sync_loss(self, batch: GenerationBatch, fake: Tensor) -> Tensor:
        """What the experts say, on average; all windows of a step are seen from the same places."""
        windows = [lower_half_windows(frames) for frames in (fake, batch.target, batch.faces[:, 3:])]
        if self.expert_jitter:
            seed = self.global_step * self.trainer.world_size + self.global_rank
            windows = [jitter_windows(window, seed) for window in windows]
        speech = Speech(batch.mel, batch.reference_mel, batch.other_mels)
        found = [
            objective_loss(expert, self.sync_objective, speech, MouthWindows(*windows))
            for expert in self.experts
        ]
        return torch.stack(found).mean()

    def training_step(self, batch: GenerationBatch, batch_idx: int) -> Tensor:
        """Weighted sum of all terms for one batch."""
        fake = self.generator(batch.mels, batch.faces).float()
        terms = self.losses(batch, fake)
        self.log_dict(
            {f"train/{name}": value for name, value in terms.items()}, prog_bar=True, batch_size=len(fake)
        )
        weights = self.weights()
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, and the average follows it; not called while gradients are accumulated."""
        super().optimizer_step(*args, **kwargs)
        if self.generator_ema is not None:
            self.generator_ema.update_parameters(self.generator)

    def validation_step(self, batch: GenerationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """L1 against copying the reference, how sharp it is, and what expert and judge say."""
        fake = self.eval_generator(batch.mels, batch.faces).float()
        scores = picture_scores(batch, fake)
        found = [expert_scores(expert, batch, fake) for expert in self.experts]
        for name in found[0] if found else ():
            scores[name] = torch.stack([each[name] for each in found]).mean()
        if self.judge is not None:
            scores |= {f"judge_{name}": v for name, v in expert_scores(self.judge, batch, fake).items()}
        prefix = self.trainer.datamodule.val_splits[dataloader_idx]  # type: ignore[attr-defined]
        self.log_dict(
            {f"{prefix}/{key}": value for key, value in scores.items()},
            batch_size=len(fake),
            sync_dist=True,
            add_dataloader_idx=False,
            prog_bar=dataloader_idx == 0,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen networks out: ``expert_checkpoint`` and ``judge_checkpoint`` bring them back."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(FROZEN)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the frozen networks of this run back, so that loading stays strict."""
        checkpoint["state_dict"] |= {k: v for k, v in self.state_dict().items() if k.startswith(FROZEN)}

    def configure_optimizers(self) -> Any:
        """One optimizer over generator and critic."""
        parts = [self.generator] if self.critic is None else [self.generator, self.critic]
        parameters = [p for part in parts for p in part.parameters()]
        steps = planned_steps(self.trainer.estimated_stepping_batches, self.trainer.max_steps)
        factor = 1.0 if self.lr_scaling.rule == "none" else self.lr_scaling.factor(global_batch(self.trainer))
        return configure(parameters, self.optimizer, self.scheduler, steps, lr_factor=factor)
