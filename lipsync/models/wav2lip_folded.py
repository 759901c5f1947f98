"""The Wav2Lip generator in the form that is quickest to run: the same function with fewer operations.

Batch norms are folded into the convolutions, maps are channels-last, what maps from and to 1x1 is a matrix
product, and where only the lower rows of the picture are wanted, the decoder computes no other rows than
those depend on.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lipsync.models.layers import ConvBlock, UpConvBlock, WholeConv2d, WholeConvTranspose2d
from lipsync.models.wav2lip import Wav2Lip


class FoldedWav2Lip(nn.Module):
    """The generator for inference, from pixels to pixels. Its weights are fixed copies of the network's.

    In float32 the output differs from that of :class:`Wav2Lip` by rounding only.

    Args:
        network: Its running statistics are used, whatever mode it is in.
        dtype: Of weights and maps; sums, the last layer and the sigmoid are float32 in any case, because the
            eight significant bits of bfloat16 would show as banding in the picture.
    """

    def __init__(self, network: Wav2Lip, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        exact = copy.deepcopy(network).cpu().double().eval()
        self.image_size = network.image_size
        self.dtype = dtype
        self.face_encoder = nn.ModuleList(map(_folded, exact.face_encoder_blocks))
        self.audio_encoder = _folded(exact.audio_encoder)
        decoder = [_folded(blocks) for blocks in exact.face_decoder_blocks]
        self.decoder = nn.ModuleList(decoder)
        self._reaches = [(isinstance(stage[0], _Doubling), _reach(stage)) for stage in decoder]
        *finish, colors = exact.output_block.children()
        self.finish = _folded(nn.Sequential(*finish))
        # The encoder takes pixel values, which are exact in every type, instead of fractions of 255.
        next(self.face_encoder.parameters()).div_(255)
        self.to(dtype)
        self.colors = colors.float()
        self.eval().requires_grad_(False)

    def forward(self, mels: Tensor, crops: Tensor, first: int = 0) -> Tensor:
        """Repaint faces.

        Args:
            mels: ``(B, 1, 80, 16)`` float log-mel windows in [-4, 4].
            crops: ``(B, S, S, 3)`` uint8 BGR, S = ``image_size``: the face, which is also the reference.
            first: Row at which the wanted part of the picture begins, below S.

        Returns:
            Rows ``first`` to S of the picture, ``(B, S - first, S, 3)`` uint8 BGR, rounded.

        Raises:
            ValueError: The crops have another size, or no such row.
        """
        pixels = self.fractions(mels, crops, first).mul_(255).round_().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous()

    def fractions(self, mels: Tensor, crops: Tensor, first: int = 0) -> Tensor:
        """As :meth:`forward`, but ``(B, 3, S - first, S)`` float32 in [0, 1]."""
        side = self.image_size
        if crops.shape[1:] != (side, side, 3) or not 0 <= first < side:
            raise ValueError(f"rows from {first} on of {tuple(crops.shape)}: built for {side}x{side} pixels")
        x = self._masked_and_whole(crops)
        skips = []
        for encode in self.face_encoder:
            x = encode(x)
            skips.append(x)
        x = self.audio_encoder(_channels_last(mels.to(self.dtype)))
        top = 0  # which row of the whole map is the first of x
        for decode, begin in zip(self.decoder, self._begins(first), strict=True):
            x = decode(x)  # from row 2 * top on
            x = torch.cat((x[:, :, begin - 2 * top :], skips.pop()[:, :, begin:]), dim=1)
            top = begin
        return torch.sigmoid(self.colors(self.finish(x).float())[:, :, first - top :])

    def _begins(self, first: int) -> list[int]:
        """For each stage of the decoder, the first row of its map that is needed for rows ``first`` to S."""
        begins = []
        row = first - _reach(self.finish)
        for doubles, reach in reversed(self._reaches):
            row = max(row, 0) if doubles else 0
            begins.append(row)
            row = (row - reach) // 2  # row r of a doubled map is made of row r // 2 and the one below
        return begins[::-1]

    def _masked_and_whole(self, crops: Tensor) -> Tensor:
        """What the encoder sees, ``(B, 6, S, S)`` in pixel values: with the lower half 0, then as it is."""
        half = self.image_size // 2
        faces = crops.new_empty((*crops.shape[:3], 6), dtype=self.dtype)
        faces[:, :half, :, :3] = crops[:, :half]
        faces[:, half:, :, :3] = 0
        faces[..., 3:] = crops
        return faces.permute(0, 3, 1, 2)  # channels-last


class _Layer(nn.Module):
    """A convolution with its batch norm folded in, and the ReLU behind.

    Args:
        layer: The convolution.
        weight: Of the same, in the layout that the forward pass takes.
    """

    reach = 0
    """Rows above an output row that it depends on."""

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor) -> None:
        super().__init__()
        if layer.bias is None:
            raise ValueError("a convolution with its batch norm has a bias")
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)


class _Convolution(_Layer):
    """``[input +] convolution`` with zero padding."""

    def __init__(self, layer: nn.Conv2d, residual: bool) -> None:
        super().__init__(layer, _channels_last(layer.weight))
        self.stride, self.padding, self.residual = layer.stride, layer.padding, residual
        self.reach = layer.kernel_size[0] // 2

    def forward(self, x: Tensor) -> Tensor:
        out = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return (out.add_(x) if self.residual else out).relu_()


class _Doubling(_Layer):
    """Transposed convolution 3x3 to twice the size."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__(layer, _channels_last(layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(
            x, self.weight, self.bias, stride=2, padding=1, output_padding=1
        ).relu_()


class _ToPoint(_Layer):
    """Convolution whose kernel covers the map, as a matrix product."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer, layer.weight.permute(0, 2, 3, 1).flatten(1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(pixels, self.weight, self.bias).relu_()[..., None, None]


class _FromPoint(_Layer):
    """Transposed convolution of a 1x1 map, as a matrix product."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__(layer, layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous())
        self.side = layer.kernel_size[0]
        self.bias = nn.Parameter(self.bias.repeat(self.side**2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        grown = functional.linear(x.flatten(1), self.weight, self.bias).relu_()
        return grown.unflatten(1, (self.side, self.side, -1)).permute(0, 3, 1, 2)


def _folded(blocks: nn.Module) -> nn.Sequential:
    return nn.Sequential(*map(_layer, blocks.children()))


def _layer(block: nn.Module) -> _Layer:
    """The block with its batch norm, by the running statistics, made part of the convolution."""
    if not isinstance(block, ConvBlock | UpConvBlock):
        raise TypeError(f"not a block of the generator: {block}")
    plain, norm = block.conv_block
    if not isinstance(plain, nn.Conv2d | nn.ConvTranspose2d) or not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"expected a convolution and its batch norm, not {plain} and {norm}")
    layer = fuse_conv_bn_eval(plain, norm, transpose=isinstance(plain, nn.ConvTranspose2d))
    if isinstance(layer, nn.ConvTranspose2d):
        return _FromPoint(layer) if isinstance(layer, WholeConvTranspose2d) else _Doubling(layer)
    if isinstance(layer, WholeConv2d):
        return _ToPoint(layer)
    return _Convolution(layer, isinstance(block, ConvBlock) and block.residual)


def _channels_last(x: Tensor) -> Tensor:
    """A copy whose strides say so even where sizes of 1 leave them open: kernels are chosen by them."""
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def _reach(stage: nn.Sequential) -> int:
    """How many rows above an output row it depends on, its doubling left out."""
    return sum(layer.reach for layer in stage if isinstance(layer, _Layer))
