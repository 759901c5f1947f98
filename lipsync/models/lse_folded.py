"""SyncNet v2 in the form that is quickest to ask: the same function with fewer operations.

Batch norms are folded into the convolutions, and the convolutions of single time steps are two-dimensional,
channels last. The first layer, more than half of all multiplications, extends over five frames: its windows
are computed four at a time by Toom-Cook's scheme along time (Lavin and Gray, "Fast algorithms for
convolutional neural networks", 2016, in one dimension), with 8 products of a frame and weights instead of 20.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lipsync.models.lse_syncnet import WINDOW, LSESyncNet

Precision: TypeAlias = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
FloatArray: TypeAlias = npt.NDArray[np.float64]

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where the polynomials are evaluated, besides infinity. More points: fewer products, but larger rounding."""
SPAN = len(POINTS) + 1
"""Frames under one set of products."""
GROUP = SPAN - WINDOW + 1
"""Windows among them."""
ROWS = 4
"""Rows of the first layer computed at once, so that all they need stays in the cache."""


class FoldedLSESyncNet(nn.Module):
    """SyncNet v2 for inference. Its weights are fixed copies: build it after loading them.

    Rows differ from those of :class:`LSESyncNet` by rounding only, in float32.

    Args:
        network: Its running statistics are used, whatever mode it is in.
        precision: ``bfloat16`` rounds weights and maps to 8 significant bits, for processors that are faster
            with them; the embeddings are then no longer those the published numbers were made with.
    """

    def __init__(self, network: LSESyncNet, precision: Precision = "float32") -> None:
        super().__init__()
        exact = copy.deepcopy(network).cpu().double().eval()
        lip = list(exact.netcnnlip)
        self.first = FirstLayer(_fused(lip[0], lip[1]))
        self.lip, self.aud = _folded(lip[4:]), _folded(exact.netcnnaud)
        self.project_lip, self.project_aud = _projection(exact.netfclip), _projection(exact.netfcaud)
        self.eval().requires_grad_(False)
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        for part in (self.first, self.lip, self.aud):
            part.to(self.dtype)
            for weight in part.parameters():
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def look(self, frames: Tensor) -> Tensor:
        """Every window of consecutive frames.

        Args:
            frames: ``(N, 224, 224, 3)`` uint8 BGR, N of at least 5.

        Returns:
            ``(N - 4, 1024)`` float32, not normalised.
        """
        return self.project_lip(self.lip(self.first(frames)).flatten(1).float())

    def hear(self, mfcc: Tensor) -> Tensor:
        """MFCC windows of 0.2 s, ``(B, 1, 13, 20)`` -> ``(B, 1024)`` float32, not normalised."""
        return self.project_aud(self.aud(mfcc.to(self.dtype)).flatten(1).float())


class FirstLayer(nn.Module):
    """Convolution over five frames, 7 x 7, stride 2, with the pooling and ReLU behind it.

    Args:
        layer: The convolution, batch norm folded in, in float64.
    """

    products: Tensor
    to_windows: Tensor
    from_frames: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        weight = layer.weight.detach()  # (96, 3, 5, 7, 7)
        self.side = weight.shape[-1]
        # Windows of frames-first pictures are views: channel 3 * t + c.
        self.weight = nn.Parameter(weight.transpose(1, 2).flatten(1, 2).float())
        self.bias = nn.Parameter(_bias(layer).float())
        outputs, weights, inputs = (torch.from_numpy(matrix) for matrix in toom_cook(POINTS, GROUP, WINDOW))
        # (products, kernel in the order its pixels lie in a frame, outputs)
        products = torch.einsum("kt,octyx->kyxco", weights, weight).flatten(1, 3)
        self.register_buffer("products", products.float().contiguous())
        self.register_buffer("to_windows", outputs.float())
        self.register_buffer("from_frames", inputs.float())

    def forward(self, frames: Tensor) -> Tensor:
        """``(N, H, W, 3)`` uint8 -> ``(N - 4, 96, H', W')``, channels last."""
        if frames.device.type == "cpu" and self.weight.dtype == torch.float32:
            maps = self._by_products(frames)
        else:  # the scheme needs float32 and pays where multiplications are what takes the time
            maps = self._pooled(functional.conv2d(self._windows(frames), self.weight, stride=2))
        return (maps + self.bias[:, None, None]).relu_()

    def _windows(self, frames: Tensor) -> Tensor:
        """``(N - 4, 15, H, W)``, a view of one copy of the frames."""
        pixels = frames.permute(0, 3, 1, 2).to(self.weight.dtype, memory_format=torch.contiguous_format)
        count, channels, height, width = pixels.shape
        return pixels.as_strided((count - WINDOW + 1, WINDOW * channels, height, width), pixels.stride())

    def _by_products(self, frames: Tensor) -> Tensor:
        """Pooled maps by Toom-Cook's scheme, :data:`GROUP` windows at a time."""
        windows = len(frames) - WINDOW + 1
        maps = []
        for start in range(0, windows, GROUP):
            span = frames[start : start + SPAN]
            if len(span) < SPAN:
                span = torch.cat([span, span.new_zeros(SPAN - len(span), *span.shape[1:])])
            maps.append(self._pooled(self._group(span)))
        return torch.cat(maps)[:windows]

    def _group(self, frames: Tensor) -> Tensor:
        """``(SPAN, H, W, 3)`` -> ``(GROUP, 96, H', W')``, channels last."""
        mixed = torch.mm(self.from_frames, frames.flatten(1).float()).view(frames.shape)
        _, height, width, channels = mixed.shape
        down, across = (height - self.side) // 2 + 1, (width - self.side) // 2 + 1
        run, line = self.side * channels, width * channels
        # Under each position of the kernel: side rows of side * 3 numbers that lie together.
        under = mixed.as_strided(
            (SPAN, down, across, self.side, run), (height * line, 2 * line, 2 * channels, line, 1)
        )
        outputs = self.products.shape[2]
        result = mixed.new_empty(GROUP, down, across, outputs)
        for top in range(0, down, ROWS):
            columns = under[:, top : top + ROWS].reshape(SPAN, -1, self.side * run)
            products = torch.bmm(columns, self.products)
            result[:, top : top + ROWS] = torch.mm(self.to_windows, products.flatten(1)).view(
                GROUP, -1, across, outputs
            )
        return result.permute(0, 3, 1, 2)

    @staticmethod
    def _pooled(maps: Tensor) -> Tensor:
        # Before bias and ReLU, which are monotonic: they then have a quarter of the work.
        return functional.max_pool2d(maps.contiguous(memory_format=torch.channels_last), 3, 2)


def toom_cook(
    points: Iterable[float], outputs: int, weights: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Matrices ``A, G, B`` with ``correlation(x, w) = A @ ((G @ w) * (B @ x))``.

    A product of polynomials of ``weights`` and ``outputs`` coefficients is fixed by its values at all points
    and infinity; correlation is the transpose of that product in its second factor.

    Args:
        points: ``outputs + weights - 2`` different numbers.
        outputs: Values of the correlation.
        weights: Taps; ``x`` has ``outputs + weights - 1`` values.

    Returns:
        ``A (outputs, n)``, ``G (n, weights)`` with rows of absolute sum 1, ``B (n, n)``.
    """
    values = list(points)

    def powers(count: int) -> FloatArray:
        infinity = [0.0] * (count - 1) + [1.0]
        return np.array([[point**exponent for exponent in range(count)] for point in values] + [infinity])

    kernel = powers(weights)
    scale = np.abs(kernel).sum(axis=1, keepdims=True)
    return powers(outputs).T.copy(), kernel / scale, np.linalg.inv(powers(outputs + weights - 1)).T * scale


def _folded(layers: Iterable[nn.Module]) -> nn.Sequential:
    """The layers in two dimensions with each batch norm in the convolution before it, in float32."""
    found: list[nn.Module] = []
    layers = iter(layers)
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            found.append(_two_dimensional(_fused(layer, next(layers))))
        elif isinstance(layer, nn.MaxPool2d | nn.MaxPool3d):
            kernel, stride, padding = map(_last_two, (layer.kernel_size, layer.stride, layer.padding))
            if kernel != (1, 1):
                found.append(nn.MaxPool2d(kernel, stride, padding))
        else:
            found.append(nn.ReLU(inplace=True))
    return nn.Sequential(*found)


def _fused(layer: nn.Module, norm: nn.Module) -> nn.Conv2d | nn.Conv3d:
    if not isinstance(layer, nn.Conv2d | nn.Conv3d) or not isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
        raise TypeError(f"expected a convolution and its batch norm, not {layer} and {norm}")
    return fuse_conv_bn_eval(layer, norm)


def _two_dimensional(layer: nn.Conv2d | nn.Conv3d) -> nn.Conv2d:
    """A convolution of single time steps without the axis of time."""
    weight = layer.weight.detach()
    if weight.ndim == 5:
        weight = weight.squeeze(2)
    outputs, inputs, *kernel = weight.shape
    sizes = (_last_two(kernel), _last_two(layer.stride), _last_two(layer.padding))
    plain = nn.Conv2d(inputs, outputs, *sizes)
    plain.load_state_dict({"weight": weight, "bias": _bias(layer)})
    return plain


def _projection(layers: nn.Sequential) -> nn.Sequential:
    """The two linear layers, batch norm folded into the first, in float32."""
    linear, norm, _, last = layers
    if not isinstance(linear, nn.Linear) or not isinstance(norm, nn.BatchNorm1d):
        raise TypeError(f"expected a linear layer and its batch norm, not {linear} and {norm}")
    return nn.Sequential(fuse_linear_bn_eval(linear, norm), nn.ReLU(inplace=True), last).float()


def _bias(layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    if layer.bias is None:
        raise ValueError("the convolutions of SyncNet v2 have a bias")
    return layer.bias.detach()


def _last_two(size: int | str | Sequence[int]) -> tuple[int, int]:
    """Height and width of a setting given once, or for height and width, or with time before them."""
    if isinstance(size, str):
        raise ValueError(f"padding is {size!r}, not a number")
    return (size, size) if isinstance(size, int) else (size[-2], size[-1])
