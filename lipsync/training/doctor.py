"""The plateau doctor: when an expert sits at chance, it names the likely cause and what to change."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lipsync.data.inspection.findings import Finding, histogram
from lipsync.data.inspection.negatives import near_negatives
from lipsync.data.inspection.report import DataMeasurements, inspect_clips
from lipsync.data.sync_pairs import SyncBatch, SyncPairDataset
from lipsync.files import write_text
from lipsync.losses.sync import contrastive_loss
from lipsync.training.diagnosis import TrainingMeasurements, diagnose
from lipsync.training.optimization import global_batch
from lipsync.training.syncnet import SyncNetModule

__all__ = ["Finding", "PlateauDoctor", "TrainingMeasurements", "diagnose"]

CHANCE = 0.5
"""Pair accuracy of an expert that guesses."""
_WATCHED_TENSORS = 8
_FIRST_STEPS = 10  # all of them are measured: short runs have no others
_REMEMBERED = 20
_PROBED_WINDOWS = 64


class TrainingWatch:
    """Loss, change of the weights and make-up of the batches, looked at every few steps.

    Args:
        every: Steps between two looks; each costs a copy of eight weight tensors and a synchronisation.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.looked_at = self.non_finite = self.windows = self.clips = 0
        self.weight_change = 0.0
        self.losses: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self.probe: SyncBatch | None = None
        self._before: list[Tensor] | None = None
        self._step = -1

    def before_step(self, step: int, expert: nn.Module) -> None:
        """Remember the weights ahead of a step that is to be looked at."""
        if step < _FIRST_STEPS or step % self.every == 0:
            if self._step != step:  # an accumulating step has several batches
                self._before, self._step = [weight.detach().clone() for weight in _weights(expert)], step
        else:
            self._before = None

    def waits_for(self, step: int) -> bool:
        """Whether the step that :meth:`before_step` chose has been taken by now."""
        return self._before is not None and step > self._step

    def after_step(self, module: SyncNetModule, batch: SyncBatch, loss: float, world: int) -> None:
        """Measure the step just taken, one that :meth:`waits_for` is true of.

        Args:
            module: With the new weights.
            batch: The (last) batch of the step.
            loss: Its loss.
            world: Number of processes.
        """
        before = self._before or []
        self.looked_at += 1
        self.non_finite += not math.isfinite(loss)
        self.windows, self.clips = len(batch.clip), len(torch.unique(batch.clip))
        changes = [
            (new.detach() - old).norm() / old.norm().clamp(min=1e-12)
            for new, old in zip(_weights(module.expert), before, strict=True)
        ]
        change = float(torch.stack(changes).median())
        # A change that is no number is as large as can be.
        self.weight_change = max(self.weight_change, change if math.isfinite(change) else math.inf)
        if math.isfinite(loss):
            self.losses.append((loss, chance_loss(module, batch, world)))
        self._before = None


class PlateauDoctor(Callback):
    """Looks after an expert whose validation stays at chance; once a run, for a few seconds.

    It measures a sample of the training clips (audio offset of each, frame rate, sound, position of the
    faces) and the run (learning rate, batches, label noise), prints the causes found with their remedies,
    strongest first, and writes ``<dirpath>/doctor.json`` with all measurements. Training goes on
    unchanged. Of other modules than :class:`SyncNetModule` it takes no notice.

    Args:
        dirpath: Folder of ``doctor.json``.
        patience: Validations in a row at chance, on all lists, before it is called; at the end of training
            the last one is enough.
        min_steps: Not before this step.
        margin: Pair accuracy up to 0.5 + ``margin`` counts as chance.
        clips: Clips to look at.
        every_n_steps: Steps between two looks at loss and weights.
        seed: Chooses the clips.
    """

    def __init__(
        self,
        dirpath: str,
        *,
        patience: int = 3,
        min_steps: int = 2000,
        margin: float = 0.03,
        clips: int = 40,
        every_n_steps: int = 50,
        seed: int = 0,
    ) -> None:
        self.path = Path(dirpath) / "doctor.json"
        self.patience, self.min_steps, self.margin = patience, min_steps, margin
        self.clips, self.seed = clips, seed
        self.watch = TrainingWatch(every_n_steps)
        self.scores: list[float] = []
        """Best pair accuracy of each validation that counted."""
        self.reported = False

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Remember the weights, now and then."""
        if isinstance(pl_module, SyncNetModule) and not self.reported:
            self.watch.before_step(trainer.global_step, pl_module.expert)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare with the weights remembered."""
        if self.watch.waits_for(trainer.global_step):
            loss = float(trainer.callback_metrics.get("train/sync", math.nan))
            self.watch.after_step(pl_module, batch, loss, trainer.world_size)

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a few windows, on the CPU, to see whether the embeddings differ at all."""
        first = batch_idx == 0 and dataloader_idx == 0
        if first and isinstance(pl_module, SyncNetModule) and not self.reported:
            self.watch.probe = SyncBatch(*(field[:_PROBED_WINDOWS].cpu() for field in batch))

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count validations at chance, and call the doctor after enough of them."""
        if trainer.sanity_checking or self.reported or not isinstance(pl_module, SyncNetModule):
            return
        splits: Sequence[str] = trainer.datamodule.val_splits  # type: ignore[attr-defined]
        names = [f"{split}/pair_accuracy" for split in splits]
        found = [float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics]
        if not found:
            return
        self.scores.append(max(found, key=lambda score: -math.inf if math.isnan(score) else score))
        if all(map(self._at_chance, self.scores[-self.patience :])) and len(self.scores) >= self.patience:
            self._call(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A run that ends at chance is looked at whatever the patience."""
        if self.scores and not self.reported and self._at_chance(self.scores[-1]):
            self._call(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What has been seen, for resume."""
        return {
            "scores": list(self.scores),
            "reported": self.reported,
            "weight_change": self.watch.weight_change,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` saved."""
        self.scores, self.reported = list(state_dict["scores"]), state_dict["reported"]
        self.watch.weight_change = state_dict["weight_change"]

    def _at_chance(self, score: float) -> bool:
        return not score > CHANCE + self.margin  # nor is a score that is no number

    def _call(self, trainer: pl.Trainer, module: SyncNetModule) -> None:
        if trainer.global_step < self.min_steps:
            return
        self.reported = True
        self._report(trainer, module)

    @rank_zero_only
    def _report(self, trainer: pl.Trainer, module: SyncNetModule) -> None:
        windows = trainer.datamodule.train_set  # type: ignore[attr-defined]
        data = inspect_clips(
            windows.clips, count=self.clips, size=windows.image_size, offsets=windows.offsets, seed=self.seed
        )
        run = self._measurements(trainer, module, windows)
        findings = diagnose(data, run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "step": trainer.global_step,
            "pair_accuracy": self.scores,
            "findings": [asdict(finding) for finding in findings],
            "training": asdict(run),
            "data": data.as_dict(),
        }
        write_text(self.path, json.dumps(_json_numbers(content), indent=1, allow_nan=False) + "\n")
        text = report(trainer.global_step, self.scores[-self.patience :], findings, data)
        rank_zero_info(f"{text}\n  all measurements: {self.path}")
        if not findings:
            rank_zero_warn(
                f"the expert is at chance after {trainer.global_step} steps, and the plateau doctor finds "
                "neither data nor settings at fault; train longer, or on more clips and speakers"
            )

    def _measurements(
        self, trainer: pl.Trainer, module: SyncNetModule, windows: SyncPairDataset
    ) -> TrainingMeasurements:
        watch = self.watch
        losses, chances = zip(*watch.losses, strict=True) if watch.losses else ((math.nan,), (math.nan,))
        return TrainingMeasurements(
            objective=module.objective,
            step=trainer.global_step,
            looked_at=watch.looked_at,
            loss=sum(losses) / len(losses),
            chance_loss=sum(chances) / len(chances),
            non_finite=watch.non_finite,
            weight_change=watch.weight_change,
            learning_rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
            windows=watch.windows,
            clips=watch.clips,
            step_windows=global_batch(trainer),
            near_negatives=near_negatives(windows, module.min_gap),
            similarity=_similarity(module, watch.probe),
        )


def report(step: int, scores: Sequence[float], findings: Sequence[Finding], data: DataMeasurements) -> str:
    """What the doctor says, several lines."""
    seen = ", ".join(f"{score:.3f}" for score in scores)
    lines = [f"plateau doctor, step {step}: the expert is at chance (pair accuracy {seen}; chance {CHANCE})"]
    for number, finding in enumerate(findings, 1):
        lines.append(f"  {number}. {finding.cause} ({finding.strength:.2f}): {finding.evidence}")
        lines.append(f"     {finding.advice}")
    if not findings:
        lines.append(
            f"  nothing wrong found in {data.sampled} of {data.clips} training clips, nor in the run"
        )
    if data.speech is not None:
        offsets = histogram(data.speech.offsets) or "none is certain"
        lines.append(f"  clips by frames the sound is late: {offsets}")
    return "\n".join(lines)


def chance_loss(module: SyncNetModule, batch: SyncBatch, world: int = 1) -> float:
    """The objective's value where the expert tells nothing apart: equal scores, or a cosine of 1/2."""
    if module.objective == "bce":
        return math.log(2)
    nothing = torch.zeros(len(batch.clip), 1, device=batch.clip.device)
    alone = contrastive_loss(nothing, nothing, 0.0, batch.clip, batch.frame, min_gap=module.min_gap)
    return float(alone) + math.log(world) / 2  # two of the four terms choose among all processes' windows


def _weights(expert: nn.Module) -> list[nn.Parameter]:
    """A few weight tensors, evenly spread over the depth of both trunks."""
    matrices = [parameter for parameter in expert.parameters() if parameter.ndim > 1]
    return matrices[:: max(1, len(matrices) // _WATCHED_TENSORS)]


@torch.inference_mode()
def _similarity(module: SyncNetModule, probe: SyncBatch | None) -> tuple[float, float] | None:
    """Mean cosine of the embeddings of different windows."""
    if probe is None or len(probe.mel) < 2:
        return None
    expert, training = module.expert, module.expert.training
    expert.eval()
    audio, face = expert(probe.mel.to(module.device), probe.face.to(module.device))
    expert.train(training)
    return _mean_cosine(audio.float()), _mean_cosine(face.float())


def _mean_cosine(embeddings: Tensor) -> float:
    n = len(embeddings)
    return float((embeddings.sum(dim=0).square().sum() - embeddings.square().sum()) / (n * (n - 1)))


def _json_numbers(value: Any) -> Any:
    """Numbers that JSON does not know become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json_numbers(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_numbers(part) for part in value]
    return value
