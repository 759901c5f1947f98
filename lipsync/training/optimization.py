"""Optimizer and learning-rate schedule from partials, so that hyper-parameters stay in the configuration."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from lipsync.errors import ConfigError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]
"""Called with the optimizer and, where it takes an argument ``total_steps``, the steps of the run."""

LR_RULES = ("none", "sqrt", "linear")


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 100, final_fraction: float = 0.02
) -> LambdaLR:
    """Linear warm-up over ``warmup_steps``, then half a cosine down to ``final_fraction`` at ``total_steps``.

    Args:
        optimizer: Its learning rates are the peak.
        total_steps: Optimizer steps of the whole run; where unknown (<= 0), the rate stays at its peak.
        warmup_steps: Steps from 0 to the peak.
        final_fraction: Share of the peak that is left at the end.
    """

    def factor(step: int) -> float:
        if total_steps <= 0:
            return _warm(step, warmup_steps)
        progress = min(1.0, step / total_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return _warm(step, warmup_steps) * (final_fraction + (1 - final_fraction) * cosine)

    return LambdaLR(optimizer, factor)


def warmup_constant(optimizer: Optimizer, warmup_steps: int = 100) -> LambdaLR:
    """Linear warm-up over ``warmup_steps``, then the optimizer's own rate."""
    return LambdaLR(optimizer, lambda step: _warm(step, warmup_steps))


def warmup_linear(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 100, final_fraction: float = 0.0
) -> LambdaLR:
    """As :func:`warmup_cosine`, but down a straight line."""

    def factor(step: int) -> float:
        left = max(0.0, 1 - step / total_steps) if total_steps > 0 else 1.0
        return _warm(step, warmup_steps) * (final_fraction + (1 - final_fraction) * left)

    return LambdaLR(optimizer, factor)


def warmup_steps_down(
    optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, warmup_steps: int = 100
) -> LambdaLR:
    """Linear warm-up over ``warmup_steps``, then times ``gamma`` at every step in ``milestones``."""

    def factor(step: int) -> float:
        return _warm(step, warmup_steps) * gamma ** sum(step >= milestone for milestone in milestones)

    return LambdaLR(optimizer, factor)


def _warm(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / max(1, warmup_steps))


@dataclass(frozen=True)
class LearningRateScaling:
    """How the learning rate follows the global batch (windows of all processes and accumulated batches).

    Args:
        rule: ``none``; ``sqrt``, which keeps the noise of Adam's steps (Malladi et al., NeurIPS 2022); or
            ``linear``, the rule for SGD (Goyal et al. 2017, arXiv 1706.02677).
        base_batch: The batch that the configured rate was found with.

    Raises:
        ConfigError: An unknown rule, or no batch.
    """

    rule: Literal["none", "sqrt", "linear"] = "none"
    base_batch: int = 256

    def __post_init__(self) -> None:
        if self.rule not in LR_RULES:
            raise ConfigError(f"model.lr_scaling={self.rule}: choose {', '.join(LR_RULES)}")
        if self.base_batch < 1:
            raise ConfigError(f"model.base_batch={self.base_batch}: give a number of windows")

    def factor(self, batch: int) -> float:
        """What the configured rate is multiplied by for a global batch."""
        ratio = batch / self.base_batch
        return {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[self.rule]

    def note(self, optimizer: OptimizerFactory, batch: int | None) -> str:
        """One line: the peak rate and where it comes from; ``batch`` None: not known yet."""
        rate = float(optimizer([nn.Parameter()]).defaults["lr"])
        if self.rule == "none":
            return f"lr {rate:.3g}, whatever the batch (model.lr_scaling=none, found with {self.base_batch})"
        of = "global batch" if batch is None else str(batch)
        scale = f"sqrt({of}/{self.base_batch})" if self.rule == "sqrt" else f"{of}/{self.base_batch}"
        result = "" if batch is None else f" = {rate * self.factor(batch):.3g}"
        return f"lr {rate:.3g} x {scale}{result}"


def global_batch(trainer: pl.Trainer) -> int:
    """Windows that one optimizer step learns from: of all processes and accumulated batches."""
    batch: int = trainer.datamodule.batch_size  # type: ignore[attr-defined]
    return batch * trainer.world_size * trainer.accumulate_grad_batches


def configure(
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    total_steps: int,
    *,
    lr_factor: float = 1.0,
) -> Any:
    """What ``LightningModule.configure_optimizers`` returns; the schedule advances every step.

    Args:
        parameters: To train. On CUDA the optimizer is the fused one where there is one (one kernel instead
            of several for each tensor), unless its settings say otherwise.
        optimizer: Partial of a torch optimizer.
        scheduler: Partial of a schedule, one of this module or of ``torch.optim.lr_scheduler``.
        total_steps: Optimizer steps of the run, <= 0 where unknown.
        lr_factor: Of the optimizer's learning rate, see :class:`LearningRateScaling`.

    Raises:
        ConfigError: The schedule refuses its settings, or follows a metric.
    """
    trained = list(parameters)
    fused = {"fused": True} if takes_fused(optimizer, trained) else {}
    built = optimizer(trained, **fused)
    # Lightning will not clip the gradients of an optimizer that could unscale them itself; let it not.
    built._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    for group in built.param_groups:
        group["lr"] *= lr_factor
    if scheduler is None:
        return built
    schedule = {"scheduler": _schedule(scheduler, built, total_steps), "interval": "step"}
    return {"optimizer": built, "lr_scheduler": schedule}


def takes_fused(optimizer: OptimizerFactory, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether ``fused=True`` suits: all parameters on CUDA, and the settings leave the choice open."""
    if not all(parameter.device.type == "cuda" for parameter in parameters):
        return False
    settings = {**inspect.signature(optimizer).parameters}
    choices = ("fused", "foreach", "differentiable")
    return (
        "fused" in settings
        and not any(settings[c].default for c in choices if c in settings)
        and (settings["fused"].default is None)
    )


def _schedule(scheduler: SchedulerFactory, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    arguments = inspect.signature(scheduler).parameters
    steps = {"total_steps": total_steps} if "total_steps" in arguments else {}
    try:
        built = scheduler(optimizer, **steps)
    except (TypeError, ValueError) as error:
        hint = "; give trainer.max_steps" if steps and total_steps <= 0 else ""
        raise ConfigError(f"model.scheduler: {error}{hint}") from error
    if isinstance(built, ReduceLROnPlateau):
        raise ConfigError("model.scheduler: ReduceLROnPlateau follows a metric; choose a schedule of steps")
    return built


def planned_steps(estimated: float, max_steps: int) -> int:
    """Optimizer steps of the run: ``max_steps`` where given, else the trainer's estimate, else -1."""
    if max_steps > 0:
        return max_steps
    return int(estimated) if math.isfinite(estimated) else -1
