"""Paddle weights into this project's networks: same outputs as Paddle computes."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync.checkpoints import adapters
from lipsync.checkpoints.kinds import Kind, kind_of
from lipsync.checkpoints.loading import load_state, load_weights
from lipsync.errors import CheckpointError
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip


def input_of(name: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    """The fixtures' input rule: uniform numbers seeded by a name."""
    values = np.random.default_rng(zlib.crc32(name.encode())).uniform(low, high, shape)
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="module")
def paddle(shared: Path) -> Path:
    return shared / "parity" / "dain" / "paddle"


def paddle_file(manifest: Path, path: Path, network: nn.Module, fill: Callable[..., nn.Module]) -> Path:
    """The manifest's network as ``paddle.save`` writes it, with the fixtures' deterministic weights."""
    described = json.loads(manifest.read_text())
    weights = fill(network).state_dict()
    for prefix, gain in described["gains"]:
        for key in adapters.with_prefix(weights, prefix):
            weights[f"{prefix}.{key}"] *= gain
    arrays: dict[str, Any] = {}
    for entry in described["state_dict"]:
        array = weights[entry["torch_key"]].numpy().astype(entry["dtype"])
        assert list(array.shape) == entry["shape"]
        arrays[entry["paddle_key"]] = array
    assert len(arrays) == described["n_keys"]
    arrays["StructuredToParameterName@@"] = {
        e["paddle_key"]: e["param_name"] for e in described["state_dict"]
    }
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    return path


def test_paddle_generator_gives_paddles_outputs(
    paddle: Path, tmp_path: Path, fill: Callable[..., nn.Module]
) -> None:
    path = paddle_file(paddle / "wav2lip_manifest.json", tmp_path / "g.pdparams", Wav2Lip(), fill)
    generator = Wav2Lip().eval()
    loaded = load_weights(generator, path)
    assert loaded.kind is Kind.GENERATOR
    expected = np.load(paddle / "wav2lip_paddle_out.npz")
    with torch.no_grad():
        image = generator(
            input_of("wav2lip.mel", (2, 1, 80, 16), -4, 4), input_of("wav2lip.face", (2, 6, 96, 96))
        )
        clip = generator(
            input_of("wav2lip.mel5", (1, 5, 1, 80, 16), -4, 4), input_of("wav2lip.face5", (1, 6, 5, 96, 96))
        )
    np.testing.assert_allclose(image.numpy(), expected["y"], atol=2e-5)
    np.testing.assert_allclose(clip.numpy(), expected["y5"], atol=2e-5)


def test_paddle_expert_gives_paddles_embeddings(
    paddle: Path, tmp_path: Path, fill: Callable[..., nn.Module]
) -> None:
    path = paddle_file(paddle / "syncnet_color_manifest.json", tmp_path / "e.pdparams", SyncNet(), fill)
    expert = SyncNet().eval()
    load_weights(expert, path)
    expected = np.load(paddle / "syncnet_color_paddle_out.npz")
    with torch.no_grad():
        audio, face = expert(
            input_of("sync.mel", (2, 1, 80, 16), -4, 4), input_of("sync.face", (2, 15, 48, 96))
        )
    np.testing.assert_allclose(audio.numpy(), expected["a"], atol=5e-6)
    np.testing.assert_allclose(face.numpy(), expected["v"], atol=5e-6)


def test_paddle_critic_gives_paddles_probabilities(
    paddle: Path, tmp_path: Path, fill: Callable[..., nn.Module]
) -> None:
    network = QualityDiscriminator()
    path = paddle_file(paddle / "wav2lip_disc_qual_manifest.json", tmp_path / "d.pdparams", network, fill)
    critic = QualityDiscriminator().eval()
    assert load_weights(critic, path).kind is Kind.CRITIC
    with torch.no_grad():
        probability = critic(input_of("disc.face", (1, 3, 5, 96, 96))).sigmoid()
    expected = np.load(paddle / "wav2lip_disc_qual_paddle_out.npz")
    np.testing.assert_allclose(probability.numpy(), expected["p"], atol=5e-6)


@pytest.mark.parametrize("name", ["wav2lip_subset_flat", "wav2lip_subset_flat_protocol2"])
def test_files_written_by_paddle_compute_what_paddle_computes(paddle: Path, name: str) -> None:
    state = adapters.paddle()(load_state(paddle / f"{name}.pdparams"))
    assert kind_of(state) is Kind.GENERATOR
    data = {key: torch.from_numpy(value) for key, value in np.load(paddle / "wav2lip_subset_io.npz").items()}

    def block(prefix: str, x: Tensor, convolve: Callable[..., Tensor], **settings: Any) -> Tensor:
        part = adapters.with_prefix(state, prefix)
        x = convolve(x, part["0.weight"], part["0.bias"], **settings)
        return functional.relu(
            functional.batch_norm(
                x, part["1.running_mean"], part["1.running_var"], part["1.weight"], part["1.bias"]
            )
        )

    up = {"stride": 2, "padding": 1, "output_padding": 1}
    encoded = block("face_encoder_blocks.0.0.conv_block", data["enc0_in"], functional.conv2d, padding=3)
    decoded = block(
        "face_decoder_blocks.6.0.conv_block", data["dec6_0_in"], functional.conv_transpose2d, **up
    )
    output = block("output_block.0.conv_block", data["output_in"], functional.conv2d, padding=1)
    output = functional.conv2d(output, state["output_block.1.weight"], state["output_block.1.bias"]).sigmoid()
    assert torch.allclose(encoded, data["enc0_out"], atol=1e-5)
    assert torch.allclose(decoded, data["dec6_0_out"], atol=1e-5)
    assert torch.allclose(output, data["output_out"], atol=1e-5)
    assert state["output_block.0.conv_block.1.num_batches_tracked"].dtype == torch.int64


def test_paddle_trainer_files_hold_their_networks(paddle: Path) -> None:
    weight = load_state(paddle / "wav2lip_trainer_weight.pdparams")
    assert {"netG"} <= set(weight)
    assert adapters.identify(weight) is Kind.GENERATOR
    checkpoint = adapters.networks(load_state(paddle / "wav2lip_trainer_checkpoint.pdparams"))
    assert set(checkpoint) == {"netG", "netDS", "netDH"}
    assert "face_encoder.0.conv_block.1.running_var" in checkpoint["netDS"]
    flat = adapters.paddle()(load_state(paddle / "wav2lip_subset_flat.pdparams"))
    nested = adapters.paddle("netG")(weight)
    assert all(torch.equal(nested[key], flat[key]) for key in nested)


def test_tensors_that_paddle_saved_with_their_names(paddle: Path) -> None:
    nested = adapters.paddle("netG")(load_state(paddle / "nested_of_tensors.pdparams"))
    flat = adapters.paddle()(load_state(paddle / "wav2lip_subset_flat.pdparams"))
    assert nested.keys() == flat.keys()
    assert all(torch.equal(nested[key], flat[key]) for key in flat)


def test_paddle_linear_layers_are_transposed_on_request(paddle: Path) -> None:
    renamed = {f"fc.{key}": value for key, value in load_state(paddle / "linear_sample.pdparams").items()}
    layer = nn.Sequential()
    layer.add_module("fc", nn.Linear(3, 5))
    load_weights(layer, renamed, adapters.paddle(linear=("fc",)))
    data = np.load(paddle / "linear_sample_io.npz")
    np.testing.assert_allclose(layer(torch.from_numpy(data["x"])).detach().numpy(), data["y"], atol=1e-6)


def test_an_absent_paddle_network_is_named(paddle: Path) -> None:
    path = paddle / "wav2lip_trainer_checkpoint.pdparams"
    with pytest.raises(CheckpointError, match="no network netX; it has netG, netDS"):
        load_weights(Wav2Lip(width=0.25), path, adapters.paddle("netX"))
