"""Weights of the Wav2Lip family into this project's networks, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipsync.checkpoints import adapters
from lipsync.checkpoints.kinds import Kind, describe, expert_kwargs, generator_kwargs, kind_of
from lipsync.checkpoints.loading import load_state, load_weights, read_network
from lipsync.errors import CheckpointError
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip

WIDTH = 0.25


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def lightning_checkpoint(path: Path, **modules: nn.Module) -> Path:
    """What Lightning writes for a training module with the given submodules."""
    state = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    state["sync_weight"] = torch.tensor(0.03)
    torch.save(
        {
            "epoch": 1,
            "global_step": 7,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {
                "ModelCheckpoint{}": {"best_model_path": "x", "best_model_score": torch.tensor(1.0)}
            },
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {"learning_rate": 1e-4, "disc_weight": 0.07},
        },
        path,
    )
    return path


# --- Wav2Lip and Lightning files ---


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_wav2lip_trainer_files(tmp_path: Path, prefix: str, wrapped: bool) -> None:
    source, target = Wav2Lip(width=WIDTH), Wav2Lip(width=WIDTH)
    state: dict[str, Any] = {prefix + key: value for key, value in source.state_dict().items()}
    if wrapped:
        optimizer = {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": [{"lr": 1e-4}]}
        state = {"state_dict": state, "optimizer": optimizer, "global_step": 3, "global_epoch": 1}
    path = tmp_path / "checkpoint_step000000003.pth"
    torch.save(state, path)
    for adapter in (None, adapters.wav2lip):
        target = Wav2Lip(width=WIDTH)
        loaded = load_weights(target, path, adapter)
        assert same_weights(source, target)
        assert loaded.path == path
        assert loaded.kind is Kind.GENERATOR
        assert len(loaded.sha256 or "") == 64


def test_a_training_checkpoint_gives_each_of_its_networks(tmp_path: Path) -> None:
    parts = {"generator": Wav2Lip(WIDTH), "critic": QualityDiscriminator(WIDTH), "expert": SyncNet(WIDTH)}
    path = lightning_checkpoint(tmp_path / "last.ckpt", **parts)
    for name, fresh in {
        "generator": Wav2Lip(WIDTH),
        "critic": QualityDiscriminator(WIDTH),
        "expert": SyncNet(WIDTH),
    }.items():
        loaded = load_weights(fresh, path)
        assert same_weights(fresh, parts[name])
        assert loaded.hparams == {"learning_rate": 1e-4, "disc_weight": 0.07}
        other = type(fresh)(WIDTH)
        load_weights(other, path, adapters.lightning(name))
        assert same_weights(other, fresh)
    assert adapters.identify(load_state(path)) is Kind.GENERATOR
    with pytest.raises(CheckpointError, match="holds no generator_ema"):
        load_weights(Wav2Lip(WIDTH), path, adapters.lightning("generator_ema"))


def test_averaged_weights_come_first(tmp_path: Path) -> None:
    raw, averaged, target = Wav2Lip(WIDTH), Wav2Lip(WIDTH), Wav2Lip(WIDTH)
    load_weights(target, lightning_checkpoint(tmp_path / "last.ckpt", generator=raw, generator_ema=averaged))
    assert same_weights(target, averaged)
    state = {"params": raw.state_dict(), "params_ema": averaged.state_dict()}
    load_weights(target, state)
    assert same_weights(target, averaged)


@pytest.mark.parametrize("width", [0.05, 0.125, 0.25, 0.3, 0.5, 2 / 3, 0.75, 1.0, 1.5])
def test_the_width_of_a_generator_is_told_by_its_shapes(width: float) -> None:
    with torch.device("meta"):
        state = Wav2Lip(width).state_dict()
        rebuilt = Wav2Lip(**generator_kwargs(state)).state_dict()
    assert {key: value.shape for key, value in rebuilt.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize("width", [0.05, 0.125, 0.25, 0.3, 0.5, 2 / 3, 1.0, 1.5])
@pytest.mark.parametrize("head", [{}, {"head": "contrastive"}, {"head": "contrastive", "embedding": 64}])
def test_the_settings_of_an_expert_are_told_by_its_shapes(width: float, head: dict[str, Any]) -> None:
    with torch.device("meta"):
        state = SyncNet(width, **head).state_dict()
        rebuilt = SyncNet(**expert_kwargs(state)).state_dict()
    assert {key: value.shape for key, value in rebuilt.items()} == {k: v.shape for k, v in state.items()}


def test_round_widths_come_back_as_they_were_written() -> None:
    with torch.device("meta"):
        assert generator_kwargs(Wav2Lip().state_dict()) == {"width": 1.0, "image_size": 96}
        assert generator_kwargs(Wav2Lip(0.25).state_dict()) == {"width": 0.25, "image_size": 96}
        expert = {"width": 0.5, "image_size": 96, "head": "cosine"}
        assert expert_kwargs(SyncNet(0.5).state_dict()) == expert


def test_a_compact_checkpoint_is_read_without_being_told_its_width(tmp_path: Path) -> None:
    source = Wav2Lip(0.375)
    path = lightning_checkpoint(tmp_path / "last.ckpt", generator=source, expert=SyncNet(WIDTH))
    state, loaded = read_network(path, Kind.GENERATOR)
    target = Wav2Lip(**generator_kwargs(state))
    load_weights(target, state)
    assert same_weights(source, target)
    assert loaded.kind is Kind.GENERATOR
    assert loaded.path == path
    with pytest.raises(CheckpointError, match="a visual quality discriminator is needed"):
        read_network(path, Kind.CRITIC)


# --- Refusals ---


def test_another_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lipsync_expert.pth"
    torch.save({"state_dict": SyncNet(WIDTH).state_dict()}, path)
    generator = Wav2Lip(WIDTH)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(generator, path)
    message = str(error.value)
    held = "a SyncNet expert (width=0.25, image_size=96, head=cosine)"
    assert message == f"{path}: this is {held}, a Wav2Lip generator is needed"
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("conv3_3_norm.weight", "fc6.weight"), "an S3FD face detector"),
        (("L2Norm3_3.weight", "vgg.0.weight"), "an S3FD face detector (syncnet_python layout)"),
        (("netcnnaud.0.weight", "netcnnlip.0.weight"), "a SyncNet v2 (LSE judge)"),
        (("something.weight",), "a network of unknown kind"),
    ],
)
def test_files_of_other_origins_are_told_apart(keys: tuple[str, ...], name: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_weights(SyncNet(WIDTH), {key: torch.ones(2) for key in keys})
    assert f"this is {name}, a SyncNet expert is needed" in str(error.value)


@pytest.mark.parametrize(
    ("fixture", "kind"),
    [
        ("Wav2Lip", Kind.GENERATOR),
        ("SyncNet_color", Kind.EXPERT),
        ("Wav2Lip_disc_qual", Kind.CRITIC),
        ("s3fd", Kind.S3FD),
        ("s3fd_syncnet_python", Kind.S3FD_SYNCNET_PYTHON),
        ("SyncNet_v2_S", Kind.LSE_SYNCNET),
    ],
)
def test_released_networks_are_identified_by_their_keys(
    parity: Callable[[str], tuple[dict[str, Any], Any]], fixture: str, kind: Kind
) -> None:
    keys = [entry["key"] if isinstance(entry, dict) else entry[0] for entry in parity(fixture)[0]["keys"]]
    assert kind_of(keys) is kind
    assert kind_of([key for key in keys if not key.endswith("num_batches_tracked")]) is kind


def test_weights_of_no_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_weights(Wav2Lip(WIDTH), {"epoch": 3})
    path = tmp_path / "x.pth"
    torch.save({"unrelated": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="a network with other keys is needed"):
        load_weights(nn.Linear(2, 2), path)


def test_another_width_is_told_with_the_shapes() -> None:
    with pytest.raises(CheckpointError) as error:
        load_weights(Wav2Lip(0.5), Wav2Lip(WIDTH).state_dict())
    message = str(error.value)
    first = "face_encoder_blocks.1.0.conv_block.0.weight 8x8x3x3 instead of 16x8x3x3"
    assert f"of another shape ({first}" in message
    assert "the file holds a Wav2Lip generator (width=0.25, image_size=96)" in message


def test_missing_and_unexpected_keys_are_counted_and_named() -> None:
    state = SyncNet(WIDTH).state_dict()
    for index in range(5):
        state[f"extra.{index}"] = torch.zeros(1)
    del state["face_encoder.0.conv_block.0.bias"]
    with pytest.raises(CheckpointError) as error:
        load_weights(SyncNet(WIDTH), state)
    message = str(error.value)
    assert "1 entry missing (face_encoder.0.conv_block.0.bias)" in message
    assert "5 entries unexpected (extra.0, extra.1, extra.2, ...)" in message
    assert "\n" not in message


def test_the_two_heads_of_the_expert_do_not_mix() -> None:
    with pytest.raises(CheckpointError, match=r"head=contrastive, embedding=256"):
        load_weights(SyncNet(WIDTH), SyncNet(WIDTH, head="contrastive").state_dict())


def test_weights_of_a_diverged_run_are_refused() -> None:
    state = Wav2Lip(WIDTH).state_dict()
    state["output_block.1.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    with pytest.raises(CheckpointError, match=r"not finite \(output_block.1.bias\)"):
        load_weights(Wav2Lip(WIDTH), state)


def test_files_of_before_batch_counters_are_complete() -> None:
    source, target = SyncNet(WIDTH), SyncNet(WIDTH)
    old = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    load_weights(target, old)
    assert same_weights(source, target)


def test_shapes_of_another_family_give_no_settings() -> None:
    with torch.device("meta"):
        state = Wav2Lip().state_dict()
    state["face_encoder_blocks.3.0.conv_block.0.bias"] = torch.zeros(40)
    with pytest.raises(CheckpointError, match="no width gives"):
        generator_kwargs(state)
    assert describe(state) == "Wav2Lip generator of another architecture"
    with pytest.raises(CheckpointError, match="is missing"):
        expert_kwargs(state)


def test_real_weights_of_other_projects_are_read(shared: Path) -> None:
    flow = load_state(shared / "weights" / "rife_v4_flownet.pkl")
    assert all(not key.startswith("module.") for key in adapters.plain(flow))
    assert len(adapters.plain(flow)) == len(flow) > 100
    parser = adapters.networks(load_state(shared / "weights" / "bisenet_face_parsing_19.pth"))
    assert [len(state) > 100 for state in parser.values()] == [True]
    with pytest.raises(CheckpointError, match="not a weight file"):
        load_state(shared / "weights" / "face_detection_yunet_2023mar.onnx")
