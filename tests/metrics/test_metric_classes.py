from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from lipsync.metrics.functional import SyncScore, lse
from lipsync.metrics.image import VideoPSNR, VideoSSIM, psnr, ssim
from lipsync.metrics.lse import LSE


def _frame(seed, size=(48, 64)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _clip(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, 8, generator=generator), torch.randn(40, 8, generator=generator)


def test_lse_is_the_mean_over_clips():
    metric = LSE()
    scores = [lse(*_clip(seed)) for seed in range(3)]
    metric.update(*_clip(0))
    metric.update(*_clip(1))
    metric.update(scores[2])
    result = metric.compute()
    assert float(result["lse_d"]) == pytest.approx(np.mean([s.distance for s in scores]))
    assert float(result["lse_c"]) == pytest.approx(np.mean([s.confidence for s in scores]))
    assert float(result["offset"]) == pytest.approx(np.mean([s.offset for s in scores]))


def test_lse_counts_offsets_within_one():
    metric = LSE()
    for offset in (0, -1, 1, 5):
        metric.update(SyncScore(7.0, 5.0, offset))
    assert float(metric.compute()["offset_within_1"]) == 0.75
    metric.reset()
    metric.update(SyncScore(7.0, 5.0, 2))
    assert float(metric.compute()["offset_within_1"]) == 0.0


def test_lse_states_add_up_over_processes():
    whole, first, second = LSE(), LSE(), LSE()
    for index in range(5):
        score = lse(*_clip(index))
        whole.update(score)
        (first if index < 2 else second).update(score)
    merged = LSE()
    merged.total = first.total + second.total
    merged.clips = first.clips + second.clips
    merged._update_count = 1
    for key, value in whole.compute().items():
        assert float(merged.compute()[key]) == pytest.approx(float(value), rel=1e-12)


def test_lse_needs_both_kinds_of_features():
    with pytest.raises(ValueError, match="audio_features"):
        LSE().update(torch.zeros(4, 4))


def test_psnr_value():
    frame = np.full((16, 16, 3), 100, dtype=np.uint8)
    assert psnr(frame, frame + np.uint8(5)) == pytest.approx(10 * math.log10(255**2 / 25), abs=1e-4)


def test_psnr_does_not_wrap_around():
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0.0, abs=1e-5)


def test_identical_frames():
    frame = _frame(0)
    assert math.isinf(psnr(frame, frame))
    assert ssim(frame, frame) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("size", [(48, 64), (11, 200)])
def test_ssim_equals_torchmetrics(size):
    frame = cv2.GaussianBlur(_frame(1, size), (0, 0), 2)
    noise = np.random.default_rng(2).integers(-20, 20, frame.shape)
    other = np.clip(frame.astype(int) + noise, 0, 255).astype(np.uint8)
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in (frame, other)]
    expected = structural_similarity_index_measure(*tensors, data_range=255.0)
    assert 0.05 < float(expected) < 0.95
    assert ssim(frame, other) == pytest.approx(float(expected), abs=1e-5)


def test_video_psnr_leaves_identical_frames_out_and_counts_them():
    frame = np.full((16, 16, 3), 100, dtype=np.uint8)
    metric = VideoPSNR()
    metric.update(frame, frame)
    metric.update(frame, frame + np.uint8(5))
    assert float(metric.compute()) == pytest.approx(psnr(frame, frame + np.uint8(5)))
    assert int(metric.identical) == 1
    only = VideoPSNR()
    only.update(frame, frame)
    assert math.isinf(float(only.compute()))


def test_video_ssim_is_the_mean():
    metric = VideoSSIM()
    metric.update(_frame(0), _frame(0))
    metric.update(_frame(0), _frame(1))
    assert float(metric.compute()) == pytest.approx((1 + ssim(_frame(0), _frame(1))) / 2, abs=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_sizes_must_agree(metric):
    with pytest.raises(ValueError, match="cannot be compared"):
        metric(_frame(0), _frame(0, (48, 48)))


def test_ssim_needs_the_window():
    with pytest.raises(ValueError, match="smaller"):
        ssim(_frame(0, (8, 8)), _frame(1, (8, 8)))
