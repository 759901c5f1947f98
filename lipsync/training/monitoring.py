"""Callbacks that watch numbers: the best checkpoint, early stopping, the learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities import rank_zero_info
from typing_extensions import override

from lipsync.errors import ConfigError
from lipsync.training.sample_video import generator_of

Mode = Literal["min", "max"]


class MetricWatch(Callback):
    """Base of callbacks that compare one metric of every validation with the best so far.

    Args:
        monitor: Logged name, ``<validation list>/<metric>``. By default, on the first list: ``l1_lower`` of
            generators, ``pair_accuracy`` of experts.
        mode: Whether smaller (``min``) or larger (``max``) is better; goes with ``monitor``.

    Raises:
        ConfigError: ``mode`` is unknown; when training starts, there is no such list; after the first
            validation, no such metric.
    """

    entry: ClassVar[str]
    """Name in the configuration, for messages."""

    def __init__(self, monitor: str | None = None, mode: Mode | None = None) -> None:
        if mode not in ("min", "max", None) or (mode is None) != (monitor is None):
            raise ConfigError(
                f"callbacks.{self.entry}: monitor={monitor}, mode={mode}; give a monitor with mode=min "
                "or mode=max, or neither"
            )
        self._given = (monitor, mode)
        self.monitor, self.mode = monitor or "", mode or "min"
        self.best: float | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the metric, or check the list of the one given before anything is trained."""
        splits = trainer.datamodule.val_splits  # type: ignore[attr-defined]
        if self._given == (None, None):
            expert = generator_of(pl_module) is None
            self.monitor, self.mode = (
                (f"{splits[0]}/pair_accuracy", "max") if expert else (f"{splits[0]}/l1_lower", "min")
            )
        split, _, name = self.monitor.partition("/")
        if split not in splits or not name:
            raise ConfigError(
                f"callbacks.{self.entry}.monitor={self.monitor}: give LIST/METRIC, LIST one of "
                f"data.val_splits ({', '.join(splits)})"
            )

    def score(self, trainer: pl.Trainer) -> float:
        """The metric of the validation that has just ended, the same on all ranks.

        Raises:
            ConfigError: It was not logged; the message names those that were.
        """
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            split = self.monitor.partition("/")[0]
            logged = ", ".join(sorted(name for name in metrics if name.startswith(f"{split}/")))
            raise ConfigError(
                f"callbacks.{self.entry}.monitor={self.monitor}: validation logs no such metric; "
                f"it logs {logged}"
            )
        return float(metrics[self.monitor])

    def improved(self, score: float, by: float = 0.0) -> bool:
        """Whether ``score`` is better than the best so far by more than ``by``; never where it is nan."""
        if math.isnan(score) or self.best is None:
            return not math.isnan(score)
        return (self.best - score if self.mode == "min" else score - self.best) > by

    @override
    def state_dict(self) -> dict[str, Any]:
        """The best score and the metric's name, for resume."""
        return {"monitor": self.monitor, "mode": self.mode, "best": self.best}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` saved; a run resumed with another metric begins anew."""
        if self._continues(state_dict):
            self.best = state_dict["best"]

    def _continues(self, state_dict: dict[str, Any]) -> bool:
        return (state_dict["monitor"], state_dict["mode"]) == (self.monitor, self.mode)


class BestCheckpoint(MetricWatch, Checkpoint):
    """Keeps the checkpoint of the best validation so far as ``<dirpath>/best.ckpt``.

    Every checkpoint knows the best score, so that a resumed run compares with the best of the whole run.

    Args:
        dirpath: Folder of the checkpoints.
        monitor: As in :class:`MetricWatch`.
        mode: Likewise.
    """

    entry = "best"

    def __init__(self, dirpath: str, monitor: str | None = None, mode: Mode | None = None) -> None:
        super().__init__(monitor, mode)
        self.path = Path(dirpath) / "best.ckpt"

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where this validation is the best; all ranks save, so all must agree."""
        if trainer.sanity_checking:
            return
        score = self.score(trainer)
        if trainer.strategy.reduce_boolean_decision(self.improved(score)):
            self.best = score  # before saving, so that the file knows its own
            trainer.save_checkpoint(self.path)


class EarlyStop(MetricWatch):
    """Ends training when a metric has not improved in ``patience`` validations, or is no finite number.

    Unlike Lightning's EarlyStopping, a stopped run goes on when it is resumed with more patience.

    Args:
        monitor: As in :class:`MetricWatch`.
        mode: Likewise.
        patience: Validations in a row without an improvement that end training.
        min_delta: A change up to this much is no improvement.
    """

    entry = "early_stopping"

    def __init__(
        self,
        monitor: str | None = None,
        mode: Mode | None = None,
        patience: int = 10,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode)
        if patience < 1:
            raise ConfigError(f"callbacks.early_stopping.patience={patience}: give 1 or more validations")
        self.patience, self.min_delta = patience, min_delta
        self.waited = 0

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count, and stop all ranks where one says so."""
        if trainer.sanity_checking:
            return
        score = self.score(trainer)
        if self.improved(score, by=self.min_delta):
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        stop = self.waited >= self.patience or not math.isfinite(score)
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            trainer.should_stop = True
            rank_zero_info(
                f"early stopping at step {trainer.global_step}: {self.monitor} is {score:.4g}, "
                f"best {self.best}, {self.waited} validations without an improvement"
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        """Also how long it has waited."""
        return {**super().state_dict(), "waited": self.waited}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience of this run."""
        super().load_state_dict(state_dict)
        if self._continues(state_dict):
            self.waited = state_dict["waited"]


class LearningRate(Callback):
    """Logs ``train/lr`` beside the losses, with or without a schedule, to any logger or none.

    Lightning's LearningRateMonitor writes rows of its own, and fails without a logger. Further parameter
    groups are ``train/lr_1`` and so on.
    """

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The learning rate that this step uses."""
        rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        pl_module.log_dict({f"train/lr_{k}" if k else "train/lr": rate for k, rate in enumerate(rates)})
