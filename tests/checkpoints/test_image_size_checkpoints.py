"""What a checkpoint tells of its pictures' size, and which of a generator's weights are taken."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lipsync.checkpoints import adapters
from lipsync.checkpoints.kinds import Kind, describe, expert_kwargs, generator_kwargs
from lipsync.checkpoints.loading import load_state, load_weights, read_network
from lipsync.checkpoints.networks import load_expert, load_generator
from lipsync.errors import CheckpointError
from lipsync.models.layers import IMAGE_SIZES
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip

WIDTH = 0.05
SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def assert_same(network: nn.Module, expected: nn.Module) -> None:
    ours, theirs = network.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def training_checkpoint(path: Path, **modules: nn.Module) -> Path:
    """What Lightning writes for a training module with the given submodules."""
    state = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    state["sync_weight"] = torch.tensor(0.03)
    content = {
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "hyper_parameters": {"mel_shift": -1},
    }
    torch.save({**content, "callbacks": {"x": {"best": torch.ones(1)}}, "optimizer_states": [{}]}, path)
    return path


def averaged(network: Wav2Lip, updates: int) -> AveragedModel:
    """An average of ``network``, which goes elsewhere with each update."""
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(updates):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
        average.update_parameters(network)
    return average


# --- The size of the pictures ---


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize("width", [0.05, 0.25, 0.3, 2 / 3, 1.0, 1.5])
def test_width_and_size_are_told_by_the_weights(width: float, image_size: int) -> None:
    with torch.device("meta"):
        generator = Wav2Lip(width, image_size=image_size).state_dict()
        expert = SyncNet(width, "contrastive", 32, image_size=image_size).state_dict()
        settings, expert_settings = generator_kwargs(generator), expert_kwargs(expert)
        assert settings["image_size"] == expert_settings["image_size"] == image_size
        assert shapes(Wav2Lip(**settings).state_dict()) == shapes(generator)
        assert shapes(SyncNet(**expert_settings).state_dict()) == shapes(expert)
    if width in (0.25, 1.0, 1.5):
        assert settings["width"] == expert_settings["width"] == width


@pytest.mark.parametrize("image_size", [96, 128, 192, 256])
def test_networks_of_any_size_come_back_from_their_files(image_size: int, tmp_path: Path) -> None:
    generator = Wav2Lip(WIDTH, image_size=image_size)
    expert = SyncNet(WIDTH, head="contrastive", embedding=16, image_size=image_size)
    critic = QualityDiscriminator(WIDTH, image_size=image_size)
    path = training_checkpoint(tmp_path / "last.ckpt", generator=generator, critic=critic, expert=expert)
    loaded, provenance = load_generator(path)
    assert loaded.image_size == image_size
    assert not loaded.training
    assert provenance.hparams == {"mel_shift": -1}
    assert_same(loaded, generator)
    judge, _ = load_expert(path)
    assert judge.image_size == image_size
    assert_same(judge, expert)
    again = QualityDiscriminator(WIDTH, image_size=image_size)
    load_weights(again, path)
    assert_same(again, critic)


def test_another_size_is_named() -> None:
    with pytest.raises(CheckpointError) as error:
        load_weights(Wav2Lip(0.25), Wav2Lip(0.25, image_size=192).state_dict())
    message = str(error.value)
    assert "the file holds a Wav2Lip generator (width=0.25, image_size=192)" in message
    assert "\n" not in message
    with pytest.raises(CheckpointError, match=r"4x4 instead of .*image_size=128, head=cosine\)"):
        load_weights(SyncNet(0.25), SyncNet(0.25, image_size=128).state_dict())


def test_layers_of_no_known_size_are_refused() -> None:
    with torch.device("meta"):
        state = Wav2Lip().state_dict()
        state["face_encoder_blocks.6.0.conv_block.0.weight"] = torch.empty(512, 512, 5, 5)
        with pytest.raises(CheckpointError, match="no size of the pictures gives their layers"):
            generator_kwargs(state)
        assert describe(state) == "Wav2Lip generator of another architecture"
        del state["face_encoder_blocks.6.0.conv_block.0.weight"]
        with pytest.raises(
            CheckpointError, match=r"face_encoder_blocks\.6\.0\.conv_block\.0\.weight is missing"
        ):
            generator_kwargs(state)


# --- Averaged weights ---


@pytest.mark.parametrize("image_size", [96, 192])
def test_the_average_of_a_training_run_is_taken(image_size: int, tmp_path: Path) -> None:
    raw = Wav2Lip(WIDTH, image_size=image_size)
    average = averaged(raw, updates=2)
    path = training_checkpoint(
        tmp_path / "last.ckpt",
        generator=raw,
        generator_ema=average,
        judge=SyncNet(WIDTH, image_size=image_size),
    )
    assert "generator_ema.n_averaged" in load_state(path)["state_dict"]
    generator, provenance = load_generator(path)
    assert provenance.kind is Kind.GENERATOR
    assert_same(generator, average.module)
    assert not torch.equal(generator.output_block[1].weight, raw.output_block[1].weight)
    for part, expected in {"generator": raw, "generator_ema": average.module}.items():
        target = Wav2Lip(WIDTH, image_size=image_size)
        load_weights(target, path, adapters.lightning(part))
        assert_same(target, expected)


def test_an_average_that_was_never_updated_is_not_one(tmp_path: Path) -> None:
    raw = Wav2Lip(WIDTH)
    average = averaged(raw, updates=0)
    with torch.no_grad():
        raw.output_block[1].bias.add_(1)  # trained since
    path = training_checkpoint(tmp_path / "last.ckpt", generator=raw, generator_ema=average)
    assert_same(load_generator(path)[0], raw)
    with pytest.raises(CheckpointError, match="holds no generator_ema"):
        load_weights(Wav2Lip(WIDTH), path, adapters.lightning("generator_ema"))


def test_averages_of_a_compiled_network_are_read(tmp_path: Path) -> None:
    raw = Wav2Lip(WIDTH)
    state = {f"generator_ema.module._orig_mod.{key}": value for key, value in raw.state_dict().items()}
    state["generator_ema.n_averaged"] = torch.tensor(3)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state}, path)
    assert_same(load_generator(path)[0], raw)


def test_a_damaged_average_is_refused_and_not_replaced_by_the_raw_weights(tmp_path: Path) -> None:
    raw = Wav2Lip(WIDTH)
    path = training_checkpoint(tmp_path / "last.ckpt", generator=raw, generator_ema=averaged(raw, 1))
    content = torch.load(path, weights_only=True)
    content["state_dict"]["generator_ema.module.strange"] = torch.ones(1)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"1 entry unexpected \(strange\)"):
        load_generator(path)


def test_the_judge_of_a_training_run_is_nobodys_expert(tmp_path: Path) -> None:
    path = training_checkpoint(tmp_path / "last.ckpt", generator=Wav2Lip(WIDTH), judge=SyncNet(WIDTH))
    with pytest.raises(CheckpointError, match=r"this is a Wav2Lip generator .* a SyncNet expert is needed"):
        load_expert(path)
    with pytest.raises(CheckpointError, match="a SyncNet expert is needed"):
        read_network(path, Kind.EXPERT)
    assert list(adapters.networks(load_state(path))) == ["state_dict.generator"]


def test_conversion_takes_the_average_and_keeps_the_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "cache"))
    convert: Callable[[list[str]], int] = runpy.run_path(str(SCRIPT))["main"]
    raw = Wav2Lip(0.25, image_size=256)
    average = averaged(raw, updates=2)
    source = training_checkpoint(tmp_path / "last.ckpt", generator=raw, generator_ema=average)
    wanted: dict[str, tuple[list[str], nn.Module]] = {
        "main.safetensors": ([], average.module),
        "main.pth": ([], average.module),
        "raw.safetensors": (["--part", "generator"], raw),
        "average.pth": (["--part", "generator_ema"], average.module),
    }
    for name, (options, expected) in wanted.items():
        target = tmp_path / name
        assert convert([str(source), str(target), *options]) == 0
        assert "Wav2Lip generator (width=0.25, image_size=256): " in capfd.readouterr().out
        network, provenance = load_generator(target)
        assert network.image_size == 256
        assert_same(network, expected)
        assert provenance.hparams == {"mel_shift": -1}
