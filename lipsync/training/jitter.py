"""Random views of generated mouths, so that a generator cannot satisfy its expert with pixel patterns."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lipsync.data.sync_pairs import MAX_ROTATION, MAX_SCALE, MAX_SHIFT


def jitter_windows(windows: Tensor, seed: int) -> Tensor:
    """Flip, rotate, scale and shift each window as the expert's own training data is augmented.

    A pattern that fools a network at one alignment rarely survives another ("expectation over
    transformation", Athalye et al., ICML 2018). Differentiable.

    Args:
        windows: ``(B, C, H, W)`` in [0, 1]; all channels of a window share one transform.
        seed: The draw depends on it alone; training passes its step, so a resumed run repeats it.

    Returns:
        The same shape, float32; borders are repeated.
    """
    batch, _, height, width = windows.shape
    rng = torch.Generator().manual_seed(seed)
    angle, scale, dx, dy = (torch.rand(4, batch, generator=rng) * 2 - 1).unbind()
    flip = torch.where(torch.rand(batch, generator=rng) < 0.5, -1.0, 1.0)
    angle, scale = angle * MAX_ROTATION, 1 + scale * MAX_SCALE
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # affine_grid works in coordinates of [-1, 1] on both sides: a pixel is 2 / width by 2 / height.
    rows = (
        torch.stack([cos * flip, -sin * height / width, dx * 2 * MAX_SHIFT], dim=1),
        torch.stack([sin * flip * width / height, cos, dy * 2 * MAX_SHIFT * width / height], dim=1),
    )
    theta = torch.stack(rows, dim=1).to(windows.device)  # (B, 2, 3)
    grid = functional.affine_grid(theta, list(windows.shape), align_corners=False)
    return functional.grid_sample(windows.float(), grid, padding_mode="border", align_corners=False)
