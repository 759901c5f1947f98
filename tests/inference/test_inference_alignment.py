"""Training and inference must give the generator the same speech for the same frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_stubs import StubDetector
from torch import Tensor, nn

from lipsync.data.clip import AUDIO, Clip
from lipsync.data.clip_writer import ClipWriter
from lipsync.data.generation import GenerationDataset
from lipsync.inference.composite import BoxCompositor
from lipsync.inference.pipeline import LipSyncPipeline
from lipsync.inference.synthesize import Wav2LipSynthesizer

FRAMES = 40


class Listener(nn.Module):
    """A generator that remembers what it hears."""

    image_size = 96

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Tensor] = []

    def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
        self.heard.append(mels[:, 0].clone())
        return faces[:, 3:]


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """Noise under pictures whose grey level is six times their index."""
    folder = tmp_path / "speaker" / "clip"
    with ClipWriter(tmp_path / "new.part") as writer:
        for index in range(FRAMES):
            writer.write(index, np.full((96, 96, 3), 6 * index, np.uint8), (0, 0, 96, 96))
        sound = np.random.default_rng(0).uniform(-0.5, 0.5, FRAMES * 640).astype(np.float32)
        writer.commit(folder, sound, FRAMES, {})
    return Clip(folder)


@pytest.mark.parametrize("shift", [-1, 0, 2])
@pytest.mark.parametrize("given", [True, False], ids=["by the user", "by the checkpoint"])
def test_a_frame_hears_what_it_heard_in_training(
    shift: int, given: bool, clip: Clip, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    listener = Listener()
    synthesizer = Wav2LipSynthesizer(listener, mel_shift=9 if given else shift, batch_size=4)
    pipeline = LipSyncPipeline(
        synthesizer, StubDetector(), BoxCompositor(), audio_shift=shift if given else None
    )
    pipeline.run(make_video(FRAMES), clip.path / AUDIO, tmp_path / "out.mp4")
    heard = torch.cat(listener.heard)
    assert len(heard) == FRAMES

    dataset = GenerationDataset([clip], train=True, mel_shift=shift)
    compared = set()
    for draw in range(30):
        sample = dataset[draw]
        for picture, mel in zip(sample.target, sample.speech[:5], strict=True):
            frame = round(picture.float().mean().item() / 6)
            torch.testing.assert_close(heard[frame], mel, rtol=0, atol=0)
            compared.add(frame)
    assert len(compared) > FRAMES / 2
