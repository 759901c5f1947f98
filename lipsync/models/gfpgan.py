"""GFP-GAN, restores blurred faces, in the "clean" version of the released weights 1.2, 1.3 and 1.4.

Wang et al., "Towards Real-World Blind Face Restoration with Generative Facial Prior", CVPR 2021. A U-Net
looks at the face; what it sees steers a StyleGAN2 generator, by latents and by feature maps.

    restorer = GFPGANv1Clean()
    load_weights(restorer, "gfpgan_v1.4")
    restored = restorer.eval()(faces).clamp(-1, 1)         # (B, 3, 512, 512) RGB in [-1, 1]
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync.models.stylegan_layers import BASE, SLOPE, StyleDecoder, activated, enlarged, widths


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a change of size between them, beside a 1x1 convolution.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        up: Double the size; else halve it.
    """

    def __init__(self, inputs: int, outputs: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``."""
        y = activated(self.conv1(x))
        if self.up:
            # A 1x1 convolution and an interpolation may change places: the convolution has a quarter to do.
            return activated(self.conv2(enlarged(y))) + enlarged(self.skip(x))
        # Half the size, bilinear, is the mean of 2x2 pixels.
        y = activated(self.conv2(functional.avg_pool2d(y, 2)))
        return y + self.skip(functional.avg_pool2d(x, 2))


class GFPGANv1Clean(nn.Module):
    """State-dict keys, their order and shapes equal those of the released weights (86,444,252 parameters).

    Args:
        out_size: Side of the pictures, a power of 2, at least 8.
        num_style_feat: Length of a latent.
        channel_multiplier: Factor on the channels from side 64 on.
        num_mlp: Layers of the mapping network. It takes no part when ``input_is_latent``, its weights are
            in the files all the same.
        input_is_latent: The U-Net tells latents; else what the mapping network makes latents of.
        different_w: Every layer of the generator has a latent of its own; else all share one.
        narrow: Factor on all channels.
        sft_half: The U-Net's maps change half of the generator's channels; else all.

    Raises:
        ValueError: ``out_size`` is not such a power of 2.
    """

    def __init__(
        self,
        out_size: int = 512,
        num_style_feat: int = 512,
        *,
        channel_multiplier: int = 2,
        num_mlp: int = 8,
        input_is_latent: bool = True,
        different_w: bool = True,
        narrow: float = 1,
        sft_half: bool = True,
    ) -> None:
        super().__init__()
        if out_size < 2 * BASE or out_size & (out_size - 1):
            raise ValueError(f"out_size={out_size}: choose a power of 2, at least {2 * BASE}")
        self.settings: dict[str, Any] = {
            "out_size": out_size,
            "num_style_feat": num_style_feat,
            "channel_multiplier": channel_multiplier,
            "num_mlp": num_mlp,
            "input_is_latent": input_is_latent,
            "different_w": different_w,
            "narrow": narrow,
            "sft_half": sft_half,
        }
        """The arguments, by their names."""
        self.out_size, self.num_style_feat, self.input_is_latent = out_size, num_style_feat, input_is_latent
        rising = widths(out_size, narrow * 0.5, channel_multiplier)
        falling = rising[::-1]
        self.conv_body_first = nn.Conv2d(3, falling[0], 1)
        self.conv_body_down = nn.ModuleList(
            ResBlock(inputs, outputs, up=False) for inputs, outputs in pairwise(falling)
        )
        self.final_conv = nn.Conv2d(falling[-1], falling[-1], 3, padding=1)
        self.conv_body_up = nn.ModuleList(
            ResBlock(inputs, outputs, up=True) for inputs, outputs in pairwise(rising)
        )
        self.toRGB = nn.ModuleList(nn.Conv2d(channels, 3, 1) for channels in rising[1:])
        self.latents = 2 * len(rising) if different_w else 1
        self.final_linear = nn.Linear(falling[-1] * BASE**2, self.latents * num_style_feat)
        self.stylegan_decoder = StyleDecoder(
            out_size, num_style_feat, channel_multiplier, num_mlp, narrow, sft_half=sft_half
        )
        maps = 1 if sft_half else 2
        self.condition_scale = nn.ModuleList(_condition(channels, maps) for channels in rising[1:])
        self.condition_shift = nn.ModuleList(_condition(channels, maps) for channels in rising[1:])
        for condition in self.condition_scale:
            nn.init.ones_(condition.get_parameter("2.bias"))  # at first no change of scale

    def forward(
        self, x: Tensor, return_rgb: bool = False, randomize_noise: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Restored faces.

        Args:
            x: ``(B, 3, out_size, out_size)`` RGB in [-1, 1], aligned as in FFHQ.
            return_rgb: Give the U-Net's own pictures too.
            randomize_noise: Draw the generator's noise anew. With the stored noise the same face is restored
                the same way each time, and neighbouring frames alike.

        Returns:
            ``(B, 3, out_size, out_size)`` RGB, about [-1, 1] but not clamped; with ``return_rgb`` also the
            U-Net's pictures at sides 8, 16, ..., ``out_size``.

        Raises:
            ValueError: For pictures of another size.
        """
        if x.shape[1:] != (3, self.out_size, self.out_size):
            side = self.out_size
            raise ValueError(f"need (B, 3, {side}, {side}), got {tuple(x.shape)}")
        code, levels = self._look(x)
        scales = [condition(level) for condition, level in zip(self.condition_scale, levels, strict=True)]
        shifts = [condition(level) for condition, level in zip(self.condition_shift, levels, strict=True)]
        image = self.stylegan_decoder(self._latents(code), scales, shifts, randomize_noise=randomize_noise)
        if not return_rgb:
            return image
        return image, [to_rgb(level) for to_rgb, level in zip(self.toRGB, levels, strict=True)]

    def _look(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features of the face as a vector and, from side 8 on, as maps."""
        y = activated(self.conv_body_first(x))
        skips: list[Tensor] = []
        for down in self.conv_body_down:
            y = down(y)
            skips.append(y)
        y = activated(self.final_conv(y))
        # All later maps depend on this vector: not rounded where the maps are.
        with torch.autocast(y.device.type, enabled=False):
            code = self.final_linear(y.to(self.final_linear.weight.dtype).flatten(1))
        levels: list[Tensor] = []
        for up in self.conv_body_up:
            y = up(y + skips.pop())
            levels.append(y)
        return code, levels

    def _latents(self, code: Tensor) -> Tensor:
        """``(B, latents of the decoder, num_style_feat)``."""
        latents = code.unflatten(1, (self.latents, self.num_style_feat))
        if not self.input_is_latent:
            latents = self.stylegan_decoder.style_mlp(latents.flatten(0, 1)).unflatten(0, (-1, self.latents))
        return latents.expand(-1, 2 * len(self.conv_body_up) + 2, -1)


def _condition(channels: int, maps: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Conv2d(channels, channels * maps, 3, padding=1),
    )
