"""Random views of generated mouths, so that a generator cannot satisfy its expert with pixel patterns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lipsync.data.augmentation import draw_geometry, warp


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
    geometry = draw_geometry(np.random.default_rng(seed), len(windows))
    return warp(windows.float(), torch.from_numpy(geometry).to(windows.device))
