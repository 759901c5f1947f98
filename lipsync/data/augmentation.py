"""Random views of face windows and speech: drawn beside the sample, applied on the device.

A draw's numbers travel with its sample, so what a window looks like depends on the draw number alone,
whichever worker, rank or device computes it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from lipsync.audio.windows import SILENCE

MAX_ROTATION, MAX_SCALE, MAX_SHIFT = 0.1, 0.12, 0.08
"""Geometry: radians, relative change of size, share of the face's width."""
MAX_CONTRAST, MAX_BRIGHTNESS = 0.3, 0.1
"""Relative change of contrast; share of the range."""
MAX_MEL_GAIN, MEL_BAND = 0.6, 8
"""Gain in mel units of [-4, 4]; mel bands in the silenced stripe."""

GEOMETRY = ("flip", "angle", "scale", "dx", "dy")
"""Columns of a geometry tensor: 1 or -1, radians, factor, and shares of the width."""
Numbers = npt.NDArray[np.float32]


def draw_geometry(
    rng: np.random.Generator,
    count: int,
    *,
    flip: bool = True,
    rotation: float = MAX_ROTATION,
    scale: float = MAX_SCALE,
    shift: float = MAX_SHIFT,
) -> Numbers:
    """``(count, 5)`` similarity transforms, uniform in their ranges; see :data:`GEOMETRY`."""
    spread = rng.uniform(-1, 1, (count, 4)) * [rotation, scale, shift, shift]
    flips = np.where(rng.random(count) < 0.5, -1.0, 1.0) if flip else np.ones(count)
    return np.column_stack([flips, spread[:, 0], 1 + spread[:, 1], spread[:, 2:]]).astype(np.float32)


def draw_levels(rng: np.random.Generator, count: int) -> Numbers:
    """``(count, 2)``: contrast factor and brightness to add, for pictures in [0, 1]."""
    spread = rng.uniform(-1, 1, (count, 2)) * [MAX_CONTRAST, MAX_BRIGHTNESS]
    return (spread + np.array([1, 0])).astype(np.float32)


def draw_mel_change(rng: np.random.Generator, count: int, bands: int = 80) -> Numbers:
    """``(count, 2)``: gain to add and first band of a silent stripe."""
    gain = rng.uniform(-MAX_MEL_GAIN, MAX_MEL_GAIN, count)
    return np.column_stack([gain, rng.integers(0, bands - MEL_BAND + 1, count)]).astype(np.float32)


def warp(images: Tensor, geometry: Tensor, *, lower_half: bool = False) -> Tensor:
    """Flip, rotate, scale and shift pictures about their centre; differentiable.

    Args:
        images: ``(N, C, H, W)`` float; all channels of a row share one transform.
        geometry: ``(N, 5)`` as :data:`GEOMETRY` names them.
        lower_half: Compute the lower half of the result only.

    Returns:
        ``(N, C, H, W)``, or ``(N, C, H / 2, W)``; what lies outside repeats the border.
    """
    count, channels, height, width = images.shape
    flip, angle, scale, dx, dy = geometry.unbind(1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    aspect = height / width  # affine_grid works in [-1, 1] on both sides
    across = torch.stack([cos * flip, -sin * aspect, 2 * dx], dim=1)
    down = torch.stack([sin * flip / aspect, cos, 2 * dy / aspect], dim=1)
    theta = torch.stack([across, down], dim=1)  # (N, 2, 3)
    if lower_half:  # rows 0..1 of [-1, 1]: y -> (y + 1) / 2
        theta = torch.stack([theta[..., 0], theta[..., 1] / 2, theta[..., 2] + theta[..., 1] / 2], dim=2)
        height //= 2
    grid = functional.affine_grid(theta, [count, channels, height, width], align_corners=False)
    return functional.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)


def change_levels(images: Tensor, levels: Tensor) -> Tensor:
    """Contrast about mid-grey and brightness, clipped; ``(N, ...)`` in [0, 1], ``levels`` ``(N, 2)``."""
    gain, bias = (levels[:, i].view(-1, *[1] * (images.dim() - 1)) for i in range(2))
    return torch.addcmul(0.5 + bias - 0.5 * gain, images, gain).clamp_(0, 1)


def change_mel(mel: Tensor, change: Tensor) -> Tensor:
    """Gain and one silent stripe; ``mel`` ``(N, 80, T)`` in [-4, 4], ``change`` ``(N, 2)``."""
    band = torch.arange(mel.shape[1], device=mel.device)[None, :, None]
    first = change[:, 1, None, None]
    louder = (mel + change[:, 0, None, None]).clamp(-4, 4)
    return louder.masked_fill((band >= first) & (band < first + MEL_BAND), SILENCE)
