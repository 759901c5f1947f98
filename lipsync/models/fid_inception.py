"""The Inception-v3 whose features FID is defined on.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, in the version of
2015-12-05 that the FID authors used (Heusel et al., NeurIPS 2017). It differs from today's Inception-v3:
average pools leave the padding out of the mean, and the last block pools by the maximum. Key names are those
of the original graph: ``layers.mixed_4.tower_1.conv_2.{weight,beta,mean,var}``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Kernel = tuple[int, int]
Conv = tuple[int, Kernel]
"""Output channels and kernel of one convolution."""

ONE, THREE, FIVE = (1, 1), (3, 3), (5, 5)
WIDE, TALL = (1, 7), (7, 1)


class _ConvNorm(nn.Module):
    """Convolution without bias, batch norm with running statistics and without scale, ReLU."""

    beta: Tensor
    mean: Tensor
    var: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, *, pad: bool = True
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *kernel))
        for name, value in (("beta", 0.0), ("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full((outputs,), value))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.weight, None, self.stride, self.padding)
        return functional.relu(functional.batch_norm(x, self.mean, self.var, None, self.beta, eps=1e-3))


def _tower(
    inputs: int, convs: Sequence[Conv], *, pool: nn.Module | None = None, last: int = 1
) -> nn.Sequential:
    """A chain of convolutions ``conv, conv_1, ...``, the last one without padding if its stride exceeds 1."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if pool is not None:
        layers["pool"] = pool
    for i, (outputs, kernel) in enumerate(convs):
        stride = last if i == len(convs) - 1 else 1
        layers[f"conv_{i}" if i else "conv"] = _ConvNorm(inputs, outputs, kernel, stride, pad=stride == 1)
        inputs = outputs
    return nn.Sequential(layers)


def _mean_pool() -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


class _Parallel(nn.Module):
    """Branches side by side, their maps stacked in the order given."""

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class _Wide(nn.Module):
    """The last kind of block: two of its branches end in a pair of convolutions over the same map."""

    def __init__(self, inputs: int, pool: nn.Module) -> None:
        super().__init__()
        self.conv = _ConvNorm(inputs, 320, ONE)
        self.tower_conv = _ConvNorm(inputs, 384, ONE)
        self.tower_mixed_conv = _ConvNorm(384, 384, (1, 3))
        self.tower_mixed_conv_1 = _ConvNorm(384, 384, (3, 1))
        self.tower_1_conv = _ConvNorm(inputs, 448, ONE)
        self.tower_1_conv_1 = _ConvNorm(448, 384, THREE)
        self.tower_1_mixed_conv = _ConvNorm(384, 384, (1, 3))
        self.tower_1_mixed_conv_1 = _ConvNorm(384, 384, (3, 1))
        self.tower_2_pool = pool
        self.tower_2_conv = _ConvNorm(inputs, 192, ONE)

    def forward(self, x: Tensor) -> Tensor:
        short = self.tower_conv(x)
        long = self.tower_1_conv_1(self.tower_1_conv(x))
        maps = [
            self.conv(x),
            self.tower_mixed_conv(short),
            self.tower_mixed_conv_1(short),
            self.tower_1_mixed_conv(long),
            self.tower_1_mixed_conv_1(long),
            self.tower_2_conv(self.tower_2_pool(x)),
        ]
        return torch.cat(maps, dim=1)


def _block_35(inputs: int, pooled: int) -> _Parallel:
    return _Parallel(
        {
            "conv": _ConvNorm(inputs, 64, ONE),
            "tower": _tower(inputs, [(48, ONE), (64, FIVE)]),
            "tower_1": _tower(inputs, [(64, ONE), (96, THREE), (96, THREE)]),
            "tower_2": _tower(inputs, [(pooled, ONE)], pool=_mean_pool()),
        }
    )


def _block_17(c: int) -> _Parallel:
    return _Parallel(
        {
            "conv": _ConvNorm(768, 192, ONE),
            "tower": _tower(768, [(c, ONE), (c, WIDE), (192, TALL)]),
            "tower_1": _tower(768, [(c, ONE), (c, TALL), (c, WIDE), (c, TALL), (192, WIDE)]),
            "tower_2": _tower(768, [(192, ONE)], pool=_mean_pool()),
        }
    )


def _halving_35() -> _Parallel:
    return _Parallel(
        {
            "conv": _ConvNorm(288, 384, THREE, 2, pad=False),
            "tower": _tower(288, [(64, ONE), (96, THREE), (96, THREE)], last=2),
            "pool": nn.MaxPool2d(3, stride=2),
        }
    )


def _halving_17() -> _Parallel:
    return _Parallel(
        {
            "tower": _tower(768, [(192, ONE), (320, THREE)], last=2),
            "tower_1": _tower(768, [(192, ONE), (192, WIDE), (192, TALL), (192, THREE)], last=2),
            "pool": nn.MaxPool2d(3, stride=2),
        }
    )


class FIDInception(nn.Module):
    """2048 features of a picture."""

    size: ClassVar[int] = 299
    """Side of the pictures, pixels."""
    features: ClassVar[int] = 2048

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                conv=_ConvNorm(3, 32, THREE, 2, pad=False),
                conv_1=_ConvNorm(32, 32, THREE, pad=False),
                conv_2=_ConvNorm(32, 64, THREE),
                pool0=nn.MaxPool2d(3, stride=2),
                conv_3=_ConvNorm(64, 80, ONE),
                conv_4=_ConvNorm(80, 192, THREE, pad=False),
                pool1=nn.MaxPool2d(3, stride=2),
                mixed=_block_35(192, 32),
                mixed_1=_block_35(256, 64),
                mixed_2=_block_35(288, 64),
                mixed_3=_halving_35(),
                mixed_4=_block_17(128),
                mixed_5=_block_17(160),
                mixed_6=_block_17(160),
                mixed_7=_block_17(192),
                mixed_8=_halving_17(),
                mixed_9=_Wide(1280, _mean_pool()),
                mixed_10=_Wide(2048, nn.MaxPool2d(3, stride=1, padding=1)),
                pool2=nn.AvgPool2d(8),
            )
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Features ``(B, 2048)`` of RGB ``(B, 3, 299, 299)``, grey level g as ``(g - 128) / 128``."""
        return self.layers(pictures).flatten(1)
