"""Exponential moving average (EMA) of a network's weights and batch-norm statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lipsync.errors import ConfigError


class MovingAverage(AveragedModel):
    """Keeps ``module``, an average of the model it was made from; never trained, always in eval mode.

    Update ``n + 1`` has the decay ``min(decay, (1 + n) / (10 + n))``, so that short runs are not weighed down
    by their initial weights; the first copies. Batch-norm statistics are averaged too, counters are copied.
    The state dict has the keys of ``AveragedModel``: ``module.*`` and ``n_averaged``.

    Args:
        model: The network to average; starts as its copy.
        decay: Of the long run, in (0, 1).

    Raises:
        ConfigError: ``decay`` is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"model.ema_decay={decay}: give null, or a number below 1 such as 0.999")
        super().__init__(model, use_buffers=True)
        self.decay = decay
        # Known on the host, so that an update does not wait for the device to answer `n_averaged`.
        self._count: int | None = None
        self.register_load_state_dict_post_hook(_forget_count)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> MovingAverage:
        """Stay in eval mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards ``model``, whose parameters and buffers must correspond."""
        if self._count is None:
            self._count = int(self.n_averaged)
        decay = min(self.decay, (1 + self._count) / (10 + self._count)) if self._count else 0.0
        averages, values = _state(self.module), _state(model)
        continuous = [k for k, value in enumerate(averages) if value.is_floating_point()]
        get_ema_multi_avg_fn(decay)(
            [averages[k] for k in continuous], [values[k] for k in continuous], self._count
        )
        for average, value in zip(averages, values, strict=True):
            if not average.is_floating_point():
                average.copy_(value)
        self.n_averaged += 1
        self._count += 1


def _state(module: nn.Module) -> list[Tensor]:
    return [*(p.detach() for p in module.parameters()), *module.buffers()]


def _forget_count(average: Any, _incompatible_keys: Any) -> None:
    """After loading a state dict, `n_averaged` is to be read again."""
    average._count = None
