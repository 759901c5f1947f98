"""GFPGANv1Clean against outputs of the original network, and what its form here must not change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifest_weights import listed_weights, named_weights, uniform, waves
from torch import Tensor, nn
from torch.nn import functional

from lipsync.checkpoints.adapters import identify
from lipsync.checkpoints.kinds import Kind, describe, gfpgan_kwargs
from lipsync.checkpoints.loading import load_weights
from lipsync.checkpoints.networks import load_gfpgan
from lipsync.errors import CheckpointError
from lipsync.models.gfpgan import GFPGANv1Clean
from lipsync.models.stylegan_layers import ModulatedConv2d

Parity = Callable[..., tuple[dict[str, Any], Any]]


def agrees(ours: Tensor, theirs: np.ndarray, tolerance: float = 1e-5) -> None:
    """Within ``tolerance`` of the largest value."""
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() < tolerance * np.abs(theirs).max()


def built(settings: dict[str, Any], state: dict[str, Tensor]) -> GFPGANv1Clean:
    settings = {name: value for name, value in settings.items() if name != "fix_decoder"}
    network = GFPGANv1Clean(**settings).eval()
    ours = network.state_dict()
    assert list(ours) == list(state)  # in the order of the released files
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in state.items()}
    network.load_state_dict(state, strict=True)
    return network


def tiny(**settings: Any) -> GFPGANv1Clean:
    """A network of another size; its noise counts, unlike in a fresh one."""
    network = GFPGANv1Clean(**{"out_size": 16, "num_style_feat": 32, "narrow": 0.0625, **settings}).eval()
    for name, parameter in network.named_parameters():
        if "style_conv" in name and parameter.shape == (1,):
            nn.init.constant_(parameter, 0.3)
    return network


@torch.inference_mode()
@pytest.mark.parametrize("size", [64, pytest.param(512, marks=pytest.mark.slow)])
def test_outputs_equal_those_of_the_released_code(parity: Parity, size: int) -> None:
    manifest, arrays = parity(f"gfpgan_clean_{size}", "retalking")
    network = built(manifest["constructor"], named_weights(manifest))
    assert sum(weight.numel() for weight in network.parameters()) == manifest["parameters"]
    image, sides = network(uniform(f"gfpgan_clean_{size}.image", 1, 3, size, size), return_rgb=True)
    if size == 64:
        agrees(image, arrays["image"])
        for level, side in enumerate(sides):
            agrees(side, arrays[f"rgb{level}"])
    else:
        agrees(image[..., 192:320, 192:320], arrays["image_c128"])
        agrees(image[..., ::8, ::8], arrays["image_stride8"])
        agrees(sides[-1][..., ::16, ::16], arrays["rgb_last_stride16"])


@torch.inference_mode()
@pytest.mark.parametrize("size", [64, pytest.param(512, marks=pytest.mark.slow)])
def test_outputs_with_stored_noise_equal_those_of_the_released_code(parity: Parity, size: int) -> None:
    manifest, arrays = parity(f"gfpganv1clean_{size}", "dain")
    network = built(manifest["args"], listed_weights(manifest))
    assert len(network.state_dict()) == manifest["n_keys"]
    image, sides = network(waves(size, size), return_rgb=True)
    if size == 64:
        agrees(image, arrays["image"])
    else:
        agrees(image[..., ::4, ::4], arrays["image_sub4"])
        agrees(image[..., 224:288, 224:288], arrays["image_crop"])
    for level, side in enumerate(sides):
        expected = arrays[f"rgb{level}" if size == 64 else f"rgb{level}_sub"]
        step = side.shape[-1] // expected.shape[-1]
        agrees(side[..., ::step, ::step], expected)


def reference_modulated(conv: ModulatedConv2d, x: Tensor, latent: Tensor) -> Tensor:
    """As the paper states it: a weight for each picture of the batch."""
    weight = conv.weight[None] * conv.modulation(latent)[:, None, :, None, None]
    if conv.demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    if conv.enlarge:
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    maps, padding = x.reshape(1, -1, *x.shape[2:]), conv.weight.shape[-1] // 2
    grouped = functional.conv2d(maps, weight.flatten(0, 1), padding=padding, groups=len(x))
    return grouped.reshape(len(x), -1, *grouped.shape[2:])


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("enlarge", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_scaling_maps_is_scaling_weights(demodulate: bool, enlarge: bool, kernel: int) -> None:
    conv = ModulatedConv2d(6, 10, kernel, 16, demodulate=demodulate, enlarge=enlarge)
    x, latent = torch.randn(3, 6, 5, 7, requires_grad=True), torch.randn(3, 16)
    bias = torch.randn(1, 10, 1, 1)
    ours, theirs = conv(x, latent, bias, 1.5), reference_modulated(conv, x, latent) * 1.5 + bias
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(ours)
    inputs = (x, conv.weight, conv.modulation.weight)
    slopes = (torch.autograd.grad(result, inputs, direction) for result in (ours, theirs))
    for own, other in zip(*slopes, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_a_scaled_map_stays_in_the_range_of_half_precision() -> None:
    conv = ModulatedConv2d(4, 4, 3, 8, demodulate=True)
    nn.init.constant_(conv.modulation.bias, 1e4)
    x, latent, bias = torch.full((1, 4, 4, 4), 100.0), torch.zeros(1, 8), torch.zeros(1, 4, 1, 1)
    exact = conv(x, latent, bias)
    assert exact.abs().max() > 1
    with torch.autocast("cpu", torch.float16):
        rough = conv(x.half(), latent, bias)  # 1e6 between, were the style taken as it is: infinite
    assert rough.dtype == torch.float16
    torch.testing.assert_close(rough.float(), exact, rtol=0.01, atol=0.1)


@torch.inference_mode()
def test_pictures_of_a_batch_do_not_touch_one_another() -> None:
    network, faces = tiny(), torch.rand(3, 3, 16, 16) * 2 - 1
    together = network(faces)
    alone = torch.cat([network(face[None]) for face in faces])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 0.01


@torch.inference_mode()
def test_noise_is_stored_unless_asked_for() -> None:
    network, face = tiny(), torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(network(face), network(face))
    torch.manual_seed(1)
    drawn = network(face, randomize_noise=True)
    assert (drawn - network(face)).abs().max() > 0.01
    assert not torch.equal(drawn, network(face, randomize_noise=True))


@torch.inference_mode()
def test_channels_last_and_bfloat16_give_the_same_picture() -> None:
    network, faces = tiny(narrow=0.125), torch.rand(2, 3, 16, 16) * 2 - 1
    exact = network(faces)
    turned = copy.deepcopy(network).to(memory_format=torch.channels_last)
    last = turned(faces.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, exact, rtol=1e-4, atol=1e-5)
    assert turned.stylegan_decoder.style_convs[0].modulated_conv.weight.is_contiguous(
        memory_format=torch.channels_last
    )
    with torch.autocast("cpu", torch.bfloat16):
        rough = turned(faces)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()
    cast = copy.deepcopy(network).bfloat16()(faces.bfloat16())
    assert cast.dtype == torch.bfloat16
    assert (cast.float() - exact).abs().max() < 0.05 * exact.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("name", ["sft_half", "different_w", "input_is_latent"])
def test_the_other_forms_of_the_network(name: str) -> None:
    network, face = tiny(**{name: False}), torch.rand(2, 3, 16, 16) * 2 - 1
    image, sides = network(face, return_rgb=True)
    assert image.shape == face.shape
    assert [side.shape[-1] for side in sides] == [8, 16]
    assert network.settings == {**tiny().settings, name: False}
    conditions, latents = network.condition_scale[0][-1].out_channels, network.final_linear.out_features
    assert conditions == (32 if name == "sft_half" else 16)
    assert latents == 32 * (1 if name == "different_w" else 6)


@pytest.mark.parametrize("size", [4, 48])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ValueError, match=f"out_size={size}"):
        GFPGANv1Clean(size)
    with pytest.raises(ValueError, match=r"need \(B, 3, 16, 16\)"):
        tiny()(torch.zeros(1, 3, size, size))


# --- files ---


@pytest.mark.parametrize(
    "settings",
    [
        {"out_size": 512},
        {"out_size": 256, "channel_multiplier": 1},
        {"out_size": 64, "narrow": 0.25},
        {"out_size": 32, "narrow": 0.5},
    ],
)
def test_the_settings_are_told_by_the_shapes(settings: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = GFPGANv1Clean(**settings)
        rebuilt = GFPGANv1Clean(**gfpgan_kwargs(network.state_dict()))
    assert rebuilt.settings == network.settings
    assert describe(network.state_dict()).startswith(
        f"GFPGAN face restorer (out_size={settings['out_size']}, "
    )


@pytest.mark.parametrize("wrapper", ["params_ema", "params", None])
def test_released_files_load_strictly(tmp_path: Path, wrapper: str | None) -> None:
    source = GFPGANv1Clean(32, narrow=0.0625)
    state: dict[str, Any] = dict(source.state_dict())
    if wrapper == "params_ema":
        state = {"params": {key: value + 1 for key, value in state.items()}, wrapper: state}
    elif wrapper is not None:
        state = {wrapper: state}
    path = tmp_path / "GFPGANv1.4.pth"
    torch.save(state, path)
    network, loaded = load_gfpgan(path)
    assert (loaded.kind, loaded.path, network.training) == (Kind.GFPGAN, path, False)
    assert identify(state) is Kind.GFPGAN
    ours, theirs = network.state_dict(), source.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"cp.resnet.conv1.weight": torch.ones(1), "ffm.conv1.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="a BiSeNet face parser, a GFPGAN face restorer is needed"):
        load_gfpgan(path)
    state = dict(GFPGANv1Clean(32, narrow=0.0625).state_dict())
    del state["stylegan_decoder.noises.noise0"]
    with pytest.raises(CheckpointError, match="a GFPGAN face restorer of this family: they hold 6 noises"):
        load_gfpgan(state)
    state = dict(GFPGANv1Clean(32, narrow=0.0625).state_dict())
    del state["conv_body_first.weight"]
    with pytest.raises(CheckpointError, match="is missing"):
        load_gfpgan(state)
    state = dict(GFPGANv1Clean(32, narrow=0.0625).state_dict())
    state["stylegan_decoder.to_rgb1.modulated_conv.weight"] = torch.ones(2, 3, 32, 1, 1)
    with pytest.raises(CheckpointError, match="1 entry of another shape"):
        load_weights(GFPGANv1Clean(32, narrow=0.0625), state)


def test_the_first_gfpgan_is_another_network() -> None:
    keys = ("stylegan_decoder.style_conv1.bias", "condition_scale.0.0.weight", "final_conv.0.weight")
    assert describe({key: torch.ones(1) for key in keys}) == Kind.UNKNOWN.value
