"""The generator folded for inference: the same picture, whole or its lower rows only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lipsync.models.layers import IMAGE_SIZES
from lipsync.models.wav2lip import Wav2Lip
from lipsync.models.wav2lip_folded import FoldedWav2Lip

Fill = Callable[..., Any]


def inputs(count: int, side: int = 96) -> tuple[Tensor, Tensor]:
    """Mel windows and crops."""
    rng = np.random.default_rng(5)
    mels = rng.uniform(-4, 4, (count, 1, 80, 16)).astype(np.float32)
    return torch.from_numpy(mels), torch.from_numpy(rng.integers(0, 256, (count, side, side, 3), np.uint8))


def plain(network: nn.Module, mels: Tensor, crops: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the network itself answers, its sigmoid in float32."""
    faces = crops.permute(0, 3, 1, 2).to(dtype) / 255
    masked = faces.clone()
    masked[:, :, faces.shape[2] // 2 :] = 0
    with torch.inference_mode():
        return network(mels.to(dtype), torch.cat((masked, faces), 1))


@pytest.fixture(scope="module")
def narrow(fill: Fill) -> Wav2Lip:
    return fill(Wav2Lip(0.25))


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize("width", [0.05, 0.125])
def test_every_row_equals_the_networks_from_wherever_it_begins(
    fill: Fill, image_size: int, width: float
) -> None:
    network = fill(Wav2Lip(width, image_size=image_size))
    mels, crops = inputs(2, image_size)
    whole = FoldedWav2Lip(network).fractions(mels, crops)
    expected = plain(network, mels, crops)
    assert expected.std() > 0.1
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-3)
    folded, half = FoldedWav2Lip(network), image_size // 2
    for first in (0, 1, image_size // 5, half - 1, half, half + 1, image_size * 3 // 4, image_size - 1):
        rows = folded.fractions(mels, crops, first)
        torch.testing.assert_close(rows, whole[:, :, first:], rtol=1e-4, atol=1e-4)


def test_rounding_is_not_larger_than_the_plain_networks(fill: Fill, narrow: Wav2Lip) -> None:
    mels, crops = inputs(2)
    exact = plain(fill(Wav2Lip(0.25)).double(), mels, crops, torch.float64)
    error = (plain(narrow, mels, crops) - exact).abs().max()
    assert (FoldedWav2Lip(narrow).fractions(mels, crops) - exact).abs().max() < 3 * error


@pytest.mark.slow  # the network at full width
def test_the_network_at_full_width(fill: Fill) -> None:
    network = fill(Wav2Lip())
    mels, crops = inputs(2)
    expected = plain(network, mels, crops)
    torch.testing.assert_close(FoldedWav2Lip(network).fractions(mels, crops), expected, rtol=1e-3, atol=1e-3)


def test_the_lower_half_takes_far_fewer_multiplications() -> None:
    folded = FoldedWav2Lip(Wav2Lip(0.25))
    mels, crops = inputs(1)

    def flops(first: int) -> int:
        with FlopCounterMode(display=False) as counter:
            folded(mels, crops, first)
        return counter.get_total_flops()

    assert 1.4 < flops(0) / flops(47) < 1.5


def test_pixels_are_the_fractions_rounded(narrow: Wav2Lip) -> None:
    folded = FoldedWav2Lip(narrow)
    mels, crops = inputs(3)
    pixels = folded(mels, crops, 40)
    assert pixels.shape == (3, 56, 96, 3)
    assert pixels.dtype == torch.uint8
    expected = (folded.fractions(mels, crops, 40) * 255).round().permute(0, 2, 3, 1)
    assert expected.unique().numel() > 100
    torch.testing.assert_close(pixels.float(), expected, rtol=0, atol=0)


def test_the_lower_half_of_the_target_is_hidden_and_the_reference_is_not(narrow: Wav2Lip) -> None:
    crops = inputs(1)[1]
    seen = FoldedWav2Lip(narrow)._masked_and_whole(crops)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    pixels = crops.permute(0, 3, 1, 2).float()
    torch.testing.assert_close(seen[:, 3:], pixels, rtol=0, atol=0)
    torch.testing.assert_close(seen[:, :3, :48], pixels[:, :, :48], rtol=0, atol=0)
    assert seen[:, :3, 48:].abs().max() == 0


def test_batches_of_other_sizes_and_a_second_time(narrow: Wav2Lip) -> None:
    mels, crops = inputs(6)
    for dtype in (torch.float32, torch.bfloat16):
        folded = FoldedWav2Lip(narrow, dtype)
        together = folded(mels, crops, 47)
        assert torch.equal(together, folded(mels, crops, 47)), "not deterministic"
        for size in (1, 4):
            parts = [folded(m, c, 47) for m, c in zip(mels.split(size), crops.split(size), strict=True)]
            difference = (torch.cat(parts).int() - together.int()).abs()
            assert (difference > 0).float().mean() < 1e-3
            assert difference.float().mean() < 1e-2


def test_bfloat16_is_close_and_not_equal(narrow: Wav2Lip) -> None:
    """Random weights amplify rounding; with trained ones it is below a grey level."""
    mels, crops = inputs(4)
    full = FoldedWav2Lip(narrow).fractions(mels, crops)
    half = FoldedWav2Lip(narrow, torch.bfloat16).fractions(mels, crops)
    assert half.dtype == torch.float32
    error = (half - full).abs().mean() / full.std()
    assert 1e-4 < error < 0.1
    values = (half * 256).unique()  # not rounded to the 8 significant bits of bfloat16
    assert values.numel() > 10_000


def test_the_network_itself_is_left_as_it_was(fill: Fill) -> None:
    network = fill(Wav2Lip(0.05)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = FoldedWav2Lip(network, torch.bfloat16)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_crops_of_another_size_and_rows_that_are_not_there_are_refused(narrow: Wav2Lip) -> None:
    folded = FoldedWav2Lip(narrow)
    mels, crops = inputs(1, 128)
    with pytest.raises(ValueError, match="built for 96x96 pixels"):
        folded(mels, crops)
    with pytest.raises(ValueError, match="rows from 96 on"):
        folded(mels, crops[:, :96, :96], 96)
