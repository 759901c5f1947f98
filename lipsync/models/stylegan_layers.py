"""Generator of StyleGAN2 (Karras et al., CVPR 2020) in plain convolutions, as in GFP-GAN's "clean" version.

It differs from the original in that features are enlarged bilinearly instead of by a FIR filter, that
activations have no gain, and that learning rates are not equalised. State-dict keys are those of the
``stylegan_decoder`` in the released GFP-GAN weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2
"""Of the leaky ReLU, here and in GFP-GAN's U-Net."""
BASE = 4
"""Side of the constant that the generator starts from."""
_EPSILON = 1e-8


def enlarged(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` -> ``(B, C, 2H, 2W)``, bilinear, pixels as areas."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def activated(x: Tensor) -> Tensor:
    """Leaky ReLU, in place."""
    return functional.leaky_relu(x, SLOPE, inplace=True)


def widths(out_size: int, narrow: float, channel_multiplier: int) -> list[int]:
    """Channels at sides 4, 8, ..., ``out_size``.

    Args:
        out_size: Side of the picture, a power of 2.
        narrow: Factor on all.
        channel_multiplier: Further factor from side 64 on.
    """
    sides = [1 << level for level in range(2, int(math.log2(out_size)) + 1)]
    return [int(narrow * (512 if side < 64 else 256 * 64 // side * channel_multiplier)) for side in sides]


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by a style (Karras et al., 2020, section 2.2).

    The paper scales the weights, which makes each picture of a batch a convolution of its own. Here the maps
    are scaled before and, for the demodulation, after one convolution that all share: the same function, as
    both factors are constant over the map.

    In state dicts the weight is ``(1, outputs, inputs, kernel, kernel)``, as in the released files; here
    without the first dimension, so that ``to(memory_format=torch.channels_last)`` takes it for what it is.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Side of the kernel, odd.
        styles: Length of a latent.
        demodulate: Bring each output channel back to unit variance.
        enlarge: Double the size of the map first.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, styles: int, *, demodulate: bool, enlarge: bool = False
    ) -> None:
        super().__init__()
        self.demodulate, self.enlarge = demodulate, enlarge
        self.weight = nn.Parameter(
            torch.randn(outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2)
        )
        self.modulation = nn.Linear(styles, inputs)
        nn.init.ones_(self.modulation.bias)
        self.register_state_dict_post_hook(_saved)
        self.register_load_state_dict_pre_hook(_loaded)

    def forward(self, x: Tensor, latent: Tensor, bias: Tensor | None = None, gain: float = 1.0) -> Tensor:
        """``gain`` times the convolution, plus ``bias``.

        Args:
            x: ``(B, inputs, H, W)``.
            latent: ``(B, styles)``.
            bias: ``(1, outputs, 1, 1)``; None for none.
            gain: Factor on the convolution, free of cost.

        Returns:
            ``(B, outputs, H, W)``, or twice as high and wide.
        """
        before, after = self._scales(latent, gain)
        x = x * before.to(x.dtype)[..., None, None]
        if self.enlarge:
            x = enlarged(x)
        y = functional.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
        after = after.to(y.dtype)[..., None, None]
        return y * after if bias is None else torch.addcmul(bias.to(y.dtype), y, after)

    def _scales(self, latent: Tensor, gain: float) -> tuple[Tensor, Tensor]:
        """Factors on the map before, ``(B, inputs)``, and after, ``(B, outputs)`` or ``(B, 1)``."""
        weight = self.weight
        # Few numbers that touch every pixel: not rounded where the maps are.
        with torch.autocast(latent.device.type, enabled=False):
            style = self.modulation(latent.to(weight.dtype))
            # At most 1, so that the scaled map stays in the range of half precision where the map does.
            largest = style.abs().amax(1, keepdim=True).clamp_min(torch.finfo(style.dtype).tiny)
            if not self.demodulate:
                return style / largest, largest * gain
            power = functional.linear(style.square(), weight.square().sum((2, 3)))
            return style / largest, largest * gain * torch.rsqrt(power + _EPSILON)


def _saved(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    state[f"{prefix}weight"] = state[f"{prefix}weight"][None]


def _loaded(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    weight = state.get(f"{prefix}weight")
    if weight is not None and weight.ndim == 5 and len(weight) == 1:
        state[f"{prefix}weight"] = weight[0]


class StyleConv(nn.Module):
    """Modulated 3x3 convolution, bias, noise, leaky ReLU.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        styles: Length of a latent.
        enlarge: Double the size of the map first.
    """

    def __init__(self, inputs: int, outputs: int, styles: int, *, enlarge: bool = False) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConv2d(inputs, outputs, 3, styles, demodulate=True, enlarge=enlarge)
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))

    def forward(self, x: Tensor, latent: Tensor, noise: Tensor | None) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``.

        Args:
            x: The map.
            latent: ``(B, styles)``.
            noise: ``(1 or B, 1, H', W')``; None draws it anew.
        """
        y = self.modulated_conv(x, latent, self.bias, math.sqrt(2))
        if noise is None:
            noise = torch.randn_like(y[:, :1])
        return activated(y.add_((self.weight * noise).to(y.dtype)))


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, added to the enlarged picture of the coarser level.

    Args:
        inputs: Channels of the input.
        styles: Length of a latent.
    """

    def __init__(self, inputs: int, styles: int) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConv2d(inputs, 3, 1, styles, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, latent: Tensor, coarser: Tensor | None = None) -> Tensor:
        """``(B, inputs, H, W)`` and ``(B, 3, H / 2, W / 2)`` -> ``(B, 3, H, W)``."""
        # Under autocast the sum over all levels is float32, as the bias is: no steps in smooth skin.
        y: Tensor = self.modulated_conv(x, latent) + self.bias
        return y if coarser is None else y + enlarged(coarser)


class Constant(nn.Module):
    """The learned map that the generator starts from.

    Args:
        channels: Of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, BASE, BASE))


class Noises(nn.Module):
    """Stored noise ``noise0, noise1, ...``: one at side 4, two at each finer side.

    Args:
        out_size: Finest side.
    """

    def __init__(self, out_size: int) -> None:
        super().__init__()
        self.count = 2 * int(math.log2(out_size)) - 3
        for index in range(self.count):
            side = 2 ** ((index + 5) // 2)
            self.register_buffer(f"noise{index}", torch.randn(1, 1, side, side))

    def stored(self) -> list[Tensor]:
        """All of them, coarsest first."""
        return [self.get_buffer(f"noise{index}") for index in range(self.count)]


class NormalizedLatent(nn.Module):
    """Divides a latent by its root mean square."""

    def forward(self, latent: Tensor) -> Tensor:
        """``(B, styles)`` -> the same shape."""
        return latent * torch.rsqrt(latent.square().mean(1, keepdim=True) + _EPSILON)


class StyleDecoder(nn.Module):
    """The generator, with maps from outside that scale and shift its features.

    Args:
        out_size: Side of the picture, a power of 2, at least 8.
        styles: Length of a latent.
        channel_multiplier: As in :func:`widths`.
        mapping_layers: Layers of the mapping network, which turns a random vector into a latent.
        narrow: As in :func:`widths`.
        sft_half: Scale and shift the second half of the channels only.
    """

    def __init__(
        self,
        out_size: int,
        styles: int,
        channel_multiplier: int,
        mapping_layers: int,
        narrow: float,
        *,
        sft_half: bool,
    ) -> None:
        super().__init__()
        self.sft_half = sft_half
        first, *rest = channels = widths(out_size, narrow, channel_multiplier)
        layers: list[nn.Module] = [NormalizedLatent()]
        for _ in range(mapping_layers):
            layers += [nn.Linear(styles, styles), nn.LeakyReLU(SLOPE)]
        self.style_mlp = nn.Sequential(*layers)
        self.constant_input = Constant(first)
        self.style_conv1 = StyleConv(first, first, styles)
        self.to_rgb1 = ToRGB(first, styles)
        pairs = [
            (StyleConv(inputs, outputs, styles, enlarge=True), StyleConv(outputs, outputs, styles))
            for inputs, outputs in zip(channels, rest, strict=False)
        ]
        self.style_convs = nn.ModuleList(conv for pair in pairs for conv in pair)
        self.to_rgbs = nn.ModuleList(ToRGB(outputs, styles) for outputs in rest)
        self.noises = Noises(out_size)

    def forward(
        self, latents: Tensor, scales: list[Tensor], shifts: list[Tensor], *, randomize_noise: bool = False
    ) -> Tensor:
        """The picture of a row of latents.

        Args:
            latents: ``(B, 2 * levels + 2, styles)``: two for side 4, two more for each finer one.
            scales: For each side from 8 on ``(B, C, side, side)``, C the channels there or half of them.
            shifts: Of the same shapes.
            randomize_noise: Draw noise anew instead of taking the stored one.

        Returns:
            ``(B, 3, out_size, out_size)``.
        """
        noises: list[Tensor | None] = list(self.noises.stored())
        if randomize_noise:
            noises = [None] * len(noises)
        constant = self.constant_input.weight.to(scales[0].dtype)
        x = self.style_conv1(constant.expand(len(latents), -1, -1, -1), latents[:, 0], noises[0])
        picture: Tensor = self.to_rgb1(x, latents[:, 1])
        for level, to_rgb in enumerate(self.to_rgbs):
            first = 2 * level + 1
            x = self.style_convs[first - 1](x, latents[:, first], noises[first])
            x = self._transformed(x, scales[level], shifts[level])
            x = self.style_convs[first](x, latents[:, first + 1], noises[first + 1])
            picture = to_rgb(x, latents[:, first + 2], picture)
        return picture

    def _transformed(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Spatial feature transform (Wang et al., CVPR 2018)."""
        if not self.sft_half:
            return torch.addcmul(shift, x, scale)
        kept, changed = x.chunk(2, dim=1)
        return torch.cat((kept, torch.addcmul(shift, changed, scale)), dim=1)
