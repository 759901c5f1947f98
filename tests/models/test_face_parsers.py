"""ParseNet and BiSeNet: parity, keys and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifest_weights import listed_weights, named_weights, uniform, waves
from torch import Tensor

from lipsync.checkpoints.kinds import Kind, kind_of
from lipsync.checkpoints.loading import load_state, load_weights
from lipsync.checkpoints.networks import load_face_parser
from lipsync.errors import CheckpointError
from lipsync.models.face_parser import BiSeNet, ParseNet

Parity = Callable[..., tuple[dict[str, Any], Any]]
BISENET_FILE = "bisenet_face_parsing_19.pth"


def assert_agrees(ours: Tensor, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() < 1e-5 * np.abs(theirs).max()


def parse_net(state: dict[str, Tensor]) -> ParseNet:
    network = ParseNet().eval()
    assert list(network.state_dict()) == list(state)
    network.load_state_dict(state, strict=True)
    return network


@torch.inference_mode()
def test_parse_net_equals_that_of_facexlib(parity: Parity) -> None:
    manifest, arrays = parity("facexlib_parsenet", "dain")
    network = parse_net(listed_weights(manifest))
    assert sum(weight.numel() for weight in network.parameters()) == manifest["n_params"]
    scores, image = network(waves(64, 96))
    assert_agrees(scores, arrays["mask_logits"])
    assert_agrees(image, arrays["image"])
    assert torch.equal(network.scores(waves(64, 96), (64, 96)), scores)
    assert network.scores(waves(64, 96), (32, 48)).shape == (1, 19, 32, 48)


@torch.inference_mode()
@pytest.mark.parametrize("size", [64, pytest.param(512, marks=pytest.mark.slow)])
def test_parse_net_equals_that_of_video_retalking(parity: Parity, size: int) -> None:
    manifest, arrays = parity("parsenet", "retalking")
    network = parse_net(named_weights(manifest))
    if size == 64:
        scores, image = network(uniform("parsenet.image", 1, 3, 64, 64))
        assert_agrees(scores, arrays["mask_logits"])
        assert_agrees(image, arrays["image_out"])
    else:
        scores, image = network(uniform("parsenet.image512", 1, 3, 512, 512))
        assert_agrees(scores[..., ::16, ::16], arrays["mask_logits_512in_stride16"])
        assert_agrees(image[..., ::16, ::16], arrays["image_out_512in_stride16"])


def test_bisenet_has_the_keys_of_the_released_file(shared: Path) -> None:
    state = load_state(shared / "weights" / BISENET_FILE)
    network = BiSeNet()
    ours = network.state_dict()
    assert list(ours) == list(state)
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in state.items()}
    loaded = load_weights(network, state)
    assert loaded.kind is Kind.BISENET
    assert torch.equal(network.conv_out.conv_out.weight, state["conv_out.conv_out.weight"])


@torch.inference_mode()
def test_bisenet_scores_are_known_at_stride_8() -> None:
    network, x = BiSeNet(classes=5).eval(), torch.randn(2, 3, 64, 96)
    coarse = network.scores(x, (8, 12))
    whole = network(x)
    assert whole.shape == (2, 5, 64, 96)
    # With corners in place, the corners are the coarse scores themselves.
    corners = (0, 0), (0, -1), (-1, 0), (-1, -1)
    for y, column in corners:
        torch.testing.assert_close(whole[..., y, column], coarse[..., y, column], rtol=1e-5, atol=1e-5)
    alone = network(x[1:])
    torch.testing.assert_close(whole[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("network", "kind"), [(BiSeNet, Kind.BISENET), (ParseNet, Kind.PARSENET)])
def test_the_network_is_told_by_the_file(tmp_path: Path, network: type[Any], kind: Kind) -> None:
    source = network()
    assert kind_of(source.state_dict()) is kind
    path = tmp_path / "parser.pth"
    torch.save(source.state_dict(), path)
    parser, loaded = load_face_parser(path)
    assert type(parser) is network
    assert (loaded.kind, loaded.path, parser.training) == (kind, path, False)
    ours, theirs = parser.state_dict(), source.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"face_decoder_blocks.0.bias": torch.ones(1), "output_block.0.bias": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"x\.pth: this is a Wav2Lip generator.*BiSeNet face parser"):
        load_face_parser(path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_face_parser({"epoch": 1})
    with pytest.raises(CheckpointError, match="no such file"):
        load_face_parser(tmp_path / "missing.pth")
    state = dict(ParseNet().state_dict())
    del state["out_mask_conv.conv2d.bias"]
    with pytest.raises(CheckpointError, match=r"1 entry missing \(out_mask_conv"):
        load_face_parser(state)
