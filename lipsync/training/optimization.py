"""Optimizer and learning-rate schedule from partials, so that hyper-parameters stay in the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]


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
        warm = min(1.0, (step + 1) / max(1, warmup_steps))
        if total_steps <= 0:
            return warm
        progress = min(1.0, step / total_steps)
        return warm * (final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, factor)


def configure(
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    total_steps: int,
) -> Any:
    """What ``LightningModule.configure_optimizers`` returns; the schedule advances every step."""
    built = optimizer(parameters)
    if scheduler is None:
        return built
    schedule = {"scheduler": scheduler(built, total_steps), "interval": "step"}
    return {"optimizer": built, "lr_scheduler": schedule}


def planned_steps(estimated: float, max_steps: int) -> int:
    """Optimizer steps of the run: ``max_steps`` where given, else the trainer's estimate, else -1."""
    if max_steps > 0:
        return max_steps
    return int(estimated) if math.isfinite(estimated) else -1
