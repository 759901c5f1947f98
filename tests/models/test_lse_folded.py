"""SyncNet v2 folded for inference: the same numbers, and the scheme that saves multiplications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lipsync.models.lse_folded import GROUP, POINTS, SPAN, FoldedLSESyncNet, toom_cook
from lipsync.models.lse_syncnet import WINDOW, LSESyncNet

GAIN = {"netcnnlip.0.weight": 0.0078125, "netcnnaud.0.weight": 0.125}


@pytest.fixture(scope="module")
def network(fill: Callable[..., Any]) -> LSESyncNet:
    return fill(LSESyncNet(), 1.0, GAIN)


@pytest.fixture(scope="module")
def folded(network: LSESyncNet) -> FoldedLSESyncNet:
    return FoldedLSESyncNet(network)


def pictures(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8))


def windows(frames: Tensor) -> Tensor:
    pixels = frames.permute(3, 0, 1, 2).float()
    return torch.stack([pixels[:, i : i + WINDOW] for i in range(len(frames) - WINDOW + 1)])


@torch.inference_mode()
@pytest.mark.parametrize("count", [WINDOW, SPAN, SPAN + 3])
def test_every_window_equals_the_networks(network: LSESyncNet, folded: FoldedLSESyncNet, count: int) -> None:
    frames = pictures(count)
    expected = network.forward_lip(windows(frames))
    assert expected.std() > 1
    torch.testing.assert_close(folded.look(frames), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_sound_equals_the_networks(network: LSESyncNet, folded: FoldedLSESyncNet) -> None:
    mfcc = torch.from_numpy((np.random.default_rng(4).standard_normal((5, 1, 13, 20)) * 8).astype("f"))
    expected = network.forward_aud(mfcc)
    assert expected.std() > 1
    torch.testing.assert_close(folded.hear(mfcc), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_outputs_of_the_reference(parity: Callable[..., Any], fill: Callable[..., Any]) -> None:
    manifest, expected = parity("SyncNet_v2_S")
    judge = FoldedLSESyncNet(fill(LSESyncNet(), key_gain=manifest["key_gain"]))
    lip = np.random.default_rng(141).integers(0, 256, (2, 3, 5, 224, 224)).astype(np.uint8)
    mfcc = torch.from_numpy((np.random.default_rng(142).standard_normal((2, 1, 13, 20)) * 8).astype("f"))
    video = torch.cat([judge.look(torch.from_numpy(window.transpose(1, 2, 3, 0))) for window in lip])
    np.testing.assert_allclose(video, expected["lip"], rtol=1e-4, atol=1e-4)
    audio = judge.hear(mfcc)
    np.testing.assert_allclose(audio, expected["aud"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((audio - video + 1e-6).norm(dim=1), expected["dist"], rtol=1e-4)


@torch.inference_mode()
def test_rounding_is_not_larger_than_the_plain_networks(
    network: LSESyncNet, folded: FoldedLSESyncNet, fill: Callable[..., Any]
) -> None:
    frames = pictures(SPAN)
    exact = fill(LSESyncNet(), 1.0, GAIN).double().forward_lip(windows(frames).double())
    plain = (network.forward_lip(windows(frames)) - exact).abs().max()
    assert (folded.look(frames) - exact).abs().max() < 10 * plain


@torch.inference_mode()
def test_the_first_layer_is_the_same_without_the_scheme(folded: FoldedLSESyncNet) -> None:
    frames, first = pictures(SPAN), folded.first
    plain = first._pooled(torch.nn.functional.conv2d(first._windows(frames), first.weight, stride=2))
    plain = (plain + first.bias[:, None, None]).relu()
    assert plain.shape == (GROUP, 96, 54, 54)
    torch.testing.assert_close(first(frames), plain, rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_half_precision_is_close_and_not_equal(network: LSESyncNet, folded: FoldedLSESyncNet) -> None:
    frames = pictures(WINDOW + 1)
    half, full = FoldedLSESyncNet(network, "bfloat16").look(frames), folded.look(frames)
    assert half.dtype == torch.float32
    error = float((half - full).abs().max() / full.std())
    assert 1e-4 < error < 0.1


def test_the_network_itself_is_left_as_it_was(fill: Callable[..., Any]) -> None:
    network = fill(LSESyncNet(), 1.0, GAIN).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made = FoldedLSESyncNet(network)
    assert network.training
    assert not made.training
    assert not any(p.requires_grad for p in made.parameters())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    ("points", "outputs", "taps"), [(POINTS, GROUP, WINDOW), ((0.0, 1.0, -1.0), 2, 3), ((0.0,), 1, 2)]
)
def test_toom_cook_is_a_correlation(points: tuple[float, ...], outputs: int, taps: int) -> None:
    rng = np.random.default_rng(0)
    signal, kernel = rng.standard_normal(outputs + taps - 1), rng.standard_normal(taps)
    a, g, b = toom_cook(points, outputs, taps)
    assert g.shape == (len(points) + 1, taps)
    np.testing.assert_allclose(a @ ((g @ kernel) * (b @ signal)), np.correlate(signal, kernel), atol=1e-12)
