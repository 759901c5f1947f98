"""Convolution blocks of the Wav2Lip family (Prajwal et al., ACM Multimedia 2020).

Every block keeps its layers in ``conv_block`` so that state-dict keys equal those of released checkpoints.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional

Size: TypeAlias = int | tuple[int, int]


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


class ConvBlock(nn.Module):
    """Convolution -> batch norm -> [+ input] -> ReLU.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output; equal to ``inputs`` for a residual block.
        kernel: Kernel size.
        stride: Stride; 1 for a residual block.
        padding: Zero padding on each side.
        residual: Add the input after the normalisation, before the ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Size = 3,
        stride: Size = 1,
        padding: Size = 1,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs)
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
        stride: 1 grows a 1x1 map to 3x3 (no padding); 2 doubles the size.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 2) -> None:
        super().__init__()
        padding = stride - 1
        self.conv_block = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 3, stride, padding, output_padding=padding),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``."""
        return functional.relu(self.conv_block(x), inplace=True)


class LeakyConvBlock(nn.Module):
    """Convolution -> leaky ReLU (slope 0.01), without normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: Size = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``."""
        return functional.leaky_relu(self.conv_block(x), 0.01, inplace=True)


def residual_blocks(channels: int, count: int) -> list[nn.Module]:
    """``count`` residual 3x3 blocks of constant width."""
    return [ConvBlock(channels, channels, residual=True) for _ in range(count)]


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
        ConvBlock(c256, c512, padding=0),
        ConvBlock(c512, c512, kernel=1, padding=0),
    )
