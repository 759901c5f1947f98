"""Convolution blocks of the Wav2Lip family (Prajwal et al., ACM Multimedia 2020).

Every block keeps its layers in ``conv_block`` so that state-dict keys equal those of released checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Size: TypeAlias = int | tuple[int, int]
Stage = TypeVar("Stage")

HALVINGS = 5
"""How often the original networks halve 96 pixels."""
IMAGE_SIZES = tuple(sorted(bottom << halvings for bottom in (3, 4) for halvings in (HALVINGS, HALVINGS + 1)))
"""Sides of the pictures that the family is built for: 96, 128, 192, 256."""


@dataclass(frozen=True)
class Pyramid:
    """Sizes of the maps inside a network: ``bottom * 2**halvings`` pixels, halved down to ``bottom``, then 1.

    Attributes:
        bottom: Side of the smallest map before the 1x1 one; the kernel between the two has this size.
        halvings: Number of halvings.
    """

    bottom: int
    halvings: int

    @classmethod
    def of(cls, image_size: int) -> Pyramid:
        """The pyramid of square pictures of ``image_size`` pixels.

        Raises:
            ValueError: The size is not in :data:`IMAGE_SIZES`.
        """
        if image_size not in IMAGE_SIZES:
            sizes = ", ".join(map(str, IMAGE_SIZES[:-1]))
            raise ValueError(f"image_size={image_size}: choose {sizes} or {IMAGE_SIZES[-1]}")
        halvings = (image_size // 3).bit_length() - 1
        return cls(image_size >> halvings, halvings)

    def stages(self, original: tuple[Stage, ...]) -> tuple[Stage, ...]:
        """The stages of a network that halves the picture, finest first.

        Args:
            original: The stages for 96 pixels; larger pictures pass the first one more often.
        """
        return original[:1] * (self.halvings - HALVINGS) + original


def scaled(channels: int, width: float) -> int:
    """``channels * width`` rounded to a multiple of 8, at least 8.

    Every channel count of the family is a multiple of 8, so ``width=1`` changes none of them.
    """
    return max(8, int(channels * width / 8 + 0.5) * 8)


def fold_time(x: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` -> ``(T * B, C, H, W)``, time-major: row ``t * B + b``."""
    return x.permute(2, 0, 1, 3, 4).flatten(0, 1)


def unfold_time(x: Tensor, frames: int) -> Tensor:
    """Inverse of :func:`fold_time`: ``(T * B, C, H, W)`` -> ``(B, C, T, H, W)``."""
    return x.unflatten(0, (frames, -1)).permute(1, 2, 0, 3, 4)


class WholeConv2d(nn.Conv2d):
    """Convolution whose kernel covers its whole input.

    ``torch.compile`` sees the matrix product that it is: in channels-last the strides of 1x1 maps are
    ambiguous, and the compiled backward pass of the convolution can fail over them at large batches.
    Parameters are those of ``nn.Conv2d(inputs, outputs, kernel)``.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Size of the kernel and of the input.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Size) -> None:
        super().__init__(inputs, outputs, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, kernel, kernel)`` -> ``(B, outputs, 1, 1)``.

        Raises:
            ValueError: The map has another size, because the network's input has.
        """
        if x.shape[2:] != self.kernel_size:
            found, wanted = ("x".join(map(str, size)) for size in (x.shape[2:], self.kernel_size))
            raise ValueError(f"built for inputs of another size: the last map is {found}, not {wanted}")
        if not torch.compiler.is_compiling():
            return super().forward(x)
        weight = self.weight
        if weight.stride(-1) != 1:  # channels-last: flattened in the order of memory, without a copy
            x, weight = x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
        return functional.linear(x.flatten(1), weight.flatten(1), self.bias)[..., None, None]


class WholeConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution of 1x1 maps; a matrix product where compiled, as :class:`WholeConv2d`.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Side of the kernel and of the output.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(B, inputs, 1, 1)`` -> ``(B, outputs, kernel, kernel)``; ``output_size`` is not used."""
        if not torch.compiler.is_compiling():
            return super().forward(x)
        last = self.weight.stride(-1) != 1  # channels-last
        weight = self.weight.permute(0, 2, 3, 1) if last else self.weight
        grown = (x.flatten(1) @ weight.flatten(1)).unflatten(1, weight.shape[1:])
        grown = grown.permute(0, 3, 1, 2) if last else grown
        return grown if self.bias is None else grown + self.bias.to(grown.dtype)[:, None, None]


def _convolution(inputs: int, outputs: int, kernel: Size, stride: Size, padding: Size | None) -> nn.Conv2d:
    if padding is not None:
        return nn.Conv2d(inputs, outputs, kernel, stride, padding)
    return WholeConv2d(inputs, outputs, kernel)


class ConvBlock(nn.Module):
    """Convolution -> batch norm -> [+ input] -> ReLU.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output; equal to ``inputs`` for a residual block.
        kernel: Kernel size.
        stride: Stride; 1 for a residual block.
        padding: Zero padding on each side; None where the kernel covers the whole map, which becomes 1x1.
        residual: Add the input after the normalisation, before the ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Size = 3,
        stride: Size = 1,
        padding: Size | None = 1,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            _convolution(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs)
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``."""
        out = self.conv_block(x)
        # In place: the backward pass of batch norm reads its input, not its output.
        return functional.relu(out.add_(x) if self.residual else out, inplace=True)


class UpConvBlock(nn.Module):
    """Transposed convolution -> batch norm -> ReLU.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        grown: Side that a 1x1 map grows to; None doubles the size of a map.
    """

    def __init__(self, inputs: int, outputs: int, grown: int | None = None) -> None:
        super().__init__()
        if grown is None:
            up: nn.Module = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        else:
            up = WholeConvTranspose2d(inputs, outputs, grown)
        self.conv_block = nn.Sequential(up, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``."""
        return functional.relu(self.conv_block(x), inplace=True)


class LeakyConvBlock(nn.Module):
    """Convolution -> leaky ReLU (slope 0.01), without normalisation; arguments as :class:`ConvBlock`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Size, stride: Size = 1, padding: Size | None = None
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(_convolution(inputs, outputs, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``."""
        return functional.leaky_relu(self.conv_block(x), 0.01, inplace=True)


def residual_blocks(channels: int, count: int) -> list[nn.Module]:
    """``count`` residual 3x3 blocks of constant width."""
    return [ConvBlock(channels, channels, residual=True) for _ in range(count)]


def whole_blocks(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """A map of side ``kernel`` to 1x1, and one more layer there."""
    return [
        ConvBlock(inputs, outputs, kernel, padding=None),
        ConvBlock(outputs, outputs, kernel=1, padding=None),
    ]


def audio_encoder(width: float, residual_256: int) -> nn.Sequential:
    """Mel window ``(B, 1, 80, 16)`` -> ``(B, scaled(512), 1, 1)``, non-negative.

    Args:
        width: Channel multiplier.
        residual_256: Residual blocks at 256 channels: 2 in SyncNet, 1 in the generator.
    """
    c32, c64, c128, c256, c512 = (scaled(channels, width) for channels in (32, 64, 128, 256, 512))
    return nn.Sequential(
        ConvBlock(1, c32),
        *residual_blocks(c32, 2),
        ConvBlock(c32, c64, stride=(3, 1)),
        *residual_blocks(c64, 2),
        ConvBlock(c64, c128, stride=3),
        *residual_blocks(c128, 2),
        ConvBlock(c128, c256, stride=(3, 2)),
        *residual_blocks(c256, residual_256),
        *whole_blocks(c256, c512, 3),
    )
