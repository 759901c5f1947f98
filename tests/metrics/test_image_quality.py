from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from lipsync.metrics.image import psnr


@pytest.mark.parametrize("spread", [1, 20, 200])
def test_psnr_equals_torchmetrics(spread):
    rng = np.random.default_rng(spread)
    frame = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    other = np.clip(frame + rng.integers(-spread, spread + 1, frame.shape), 0, 255).astype(np.uint8)
    tensors = [torch.from_numpy(x.astype(np.float64)) for x in (frame, other)]
    expected = float(peak_signal_noise_ratio(*tensors, data_range=255.0))
    assert psnr(frame, other) == pytest.approx(expected, abs=1e-5)


def test_psnr_of_a_region_that_is_no_contiguous_array():
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    other = frame.copy()
    other[10, 20] ^= 255
    assert math.isinf(psnr(frame[:10, 5:30], other[:10, 5:30]))
    assert psnr(frame[5:20, 5:30], other[5:20, 5:30]) == psnr(
        frame[5:20, 5:30].copy(), other[5:20, 5:30].copy()
    )
