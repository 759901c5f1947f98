"""An expert for larger pictures as judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lipsync.audio.mel import log_mel
from lipsync.metrics.judge_loading import load_judge
from lipsync.metrics.judges import ExpertJudge
from lipsync.metrics.stretches import features
from lipsync.models.syncnet import SyncNet, lower_half_windows


@pytest.mark.parametrize("image_size", [96, 128, 192])
def test_an_expert_judges_pictures_of_its_own_size(
    image_size: int, fill: Callable[..., nn.Module], tmp_path: Path
) -> None:
    expert = fill(SyncNet(0.05, head="contrastive", embedding=16, image_size=image_size), 0.7)
    path = tmp_path / "expert.pth"
    torch.save({"state_dict": expert.state_dict()}, path)
    judge = load_judge(path)
    assert isinstance(judge, ExpertJudge)
    assert judge.size == image_size
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (30, image_size, image_size, 3), dtype=np.uint8)
    sound = (rng.standard_normal(30 * 640) * 0.1).astype(np.float32)
    video, audio = features(judge, iter(frames), sound)
    assert video.shape == audio.shape == (26, 16)
    window = torch.from_numpy(frames[3:8]).permute(3, 0, 1, 2)[None].float() / 255
    with torch.inference_mode():
        face = expert.encode_face(lower_half_windows(window))
        speech = expert.encode_audio(torch.from_numpy(log_mel(sound)[None, None, :, 9:25].copy()))
    torch.testing.assert_close(video[3:4], face, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(audio[3:4], speech, rtol=1e-4, atol=1e-5)
