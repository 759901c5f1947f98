"""Generators for larger pictures in the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_stubs import BOX, StubDetector, frames_of
from torch import nn

from lipsync.faces.crop import crop
from lipsync.inference.composite import FeatherCompositor
from lipsync.inference.pipeline import LipSyncPipeline
from lipsync.inference.synthesize import Wav2LipSynthesizer
from lipsync.media.reader import VideoReader
from lipsync.models.wav2lip import Wav2Lip

WIDTH = 0.05


@pytest.fixture(scope="module")
def checkpoint_192(fill: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow generator for 192 pixels, as this project's training writes it."""
    state = fill(Wav2Lip(WIDTH, image_size=192)).state_dict()
    path = tmp_path_factory.mktemp("weights") / "last.ckpt"
    torch.save({"state_dict": {f"generator.{key}": value for key, value in state.items()}}, path)
    return path


@pytest.mark.parametrize("image_size", [128, 192, 256])
def test_crops_have_the_size_of_the_network(image_size: int) -> None:
    synthesizer = Wav2LipSynthesizer(Wav2Lip(WIDTH, image_size=image_size))
    assert synthesizer.image_size == image_size
    image = frames_of(1)[0].image
    crops = crop(image, BOX, image_size)[None]
    patches = synthesizer.repaint(crops, np.zeros((1, 80, 16), np.float32))
    assert patches.shape == (1, image_size, image_size, 3)
    assert patches.dtype == np.uint8


def test_a_clip_through_a_generator_for_192_pixels(
    checkpoint_192: Path, make_video: Callable[..., Path], make_speech: Callable[..., Path], tmp_path: Path
) -> None:
    synthesizer = Wav2LipSynthesizer.from_checkpoint(checkpoint_192, batch_size=4)
    assert synthesizer.image_size == 192
    source, outfile = make_video(12), tmp_path / "out.mp4"
    pipeline = LipSyncPipeline(synthesizer, StubDetector(), FeatherCompositor())
    report = pipeline.run(source, make_speech(6400), outfile)  # 0.4 s
    assert report.frames == report.with_face == 10
    before = [frame.image.astype(int) for frame in VideoReader(source)]
    after = [frame.image.astype(int) for frame in VideoReader(outfile)]
    assert len(after) == 10
    rows, columns = slice(int(BOX.y1), int(BOX.y2)), slice(int(BOX.x1), int(BOX.x2))
    for old, new in zip(before, after, strict=False):
        change = np.abs(old - new).mean(2)
        mouth = change[rows, columns][40:72, 15:45].mean()
        assert mouth > 5
        assert change[:, :20].mean() < mouth / 3  # outside the box only the codec differs
