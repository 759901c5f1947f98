"""How many floating-point operations a network needs, counted without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Shapes = tuple[tuple[int, ...], ...]

_counted: WeakKeyDictionary[nn.Module, dict[Shapes, int]] = WeakKeyDictionary()


def forward_flops(module: nn.Module, *shapes: Sequence[int]) -> int:
    """Operations of ``module(*inputs)``: two for each multiply-accumulate of convolutions and products.

    Normalisation and activations are not counted, as is usual. The forward pass runs in eval mode on a copy
    without storage (``meta`` device), so weights, statistics and random numbers stay as they are. Counts are
    remembered as long as the module lives.

    Args:
        module: Any network whose inputs are float32 tensors.
        shapes: The shape of each input.
    """
    key = tuple(tuple(shape) for shape in shapes)
    known = _counted.setdefault(module, {})
    if key not in known:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            _without_storage(module)(*(torch.empty(shape, device="meta") for shape in key))
        known[key] = int(counter.get_total_flops())
    return known[key]


def _without_storage(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters and buffers have shapes only."""
    memo: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        memo[id(tensor)] = _empty(tensor)
    return copy.deepcopy(module, memo).eval()


def _empty(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
