"""The conversion script, run as a user runs it."""

from __future__ import annotations

import hashlib
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lipsync.checkpoints.loading import load_state, load_weights
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.wav2lip import Wav2Lip

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The script's ``main`` in this process, which spares an import of torch each time."""
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "cache"))
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(*arguments: str | Path) -> Done:
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def paddle_file(path: Path, network: Wav2Lip) -> Path:
    renamed = {"running_mean": "_mean", "running_var": "_variance"}
    arrays = {}
    for key, value in network.state_dict().items():
        prefix, _, name = key.rpartition(".")
        if name != "num_batches_tracked":
            arrays[f"{prefix}.{renamed.get(name, name)}"] = value.numpy()
    path.write_bytes(pickle.dumps({"netG": arrays}, protocol=4))
    return path


def test_paddle_to_safetensors_and_back_to_the_layout_of_wav2lip(
    tmp_path: Path, convert: Callable[..., Done]
) -> None:
    network = Wav2Lip(0.25)
    source = paddle_file(tmp_path / "wav2lip.pdparams", network)
    first, second = tmp_path / "out" / "wav2lip.safetensors", tmp_path / "again.pth"
    done = convert(source, first)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert done.stdout.splitlines() == [
        f"Wav2Lip generator (width=0.25, image_size=96): {len(network.state_dict())} tensors",
        f"{digest}  {first}",
    ]
    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in load_file(first).items())
    assert convert(first, second).returncode == 0
    assert set(load_state(second)) == {"state_dict"}
    load_weights(Wav2Lip(0.25), second)
    assert not list(tmp_path.rglob("*.part"))
    whole = second.read_bytes()
    assert convert(first, second).returncode == 0
    assert second.read_bytes() == whole


def test_one_network_of_several(tmp_path: Path, convert: Callable[..., Done]) -> None:
    critic = QualityDiscriminator(0.25)
    state = {f"critic.{key}": value for key, value in critic.state_dict().items()}
    state |= {f"generator.{key}": value for key, value in Wav2Lip(0.25).state_dict().items()}
    source = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.6"}, source)
    done = convert(source, tmp_path / "critic.pth", "--part", "critic")
    assert done.stdout.startswith("visual quality discriminator: ")
    load_weights(critic, tmp_path / "critic.pth")
    wrong = convert(source, tmp_path / "x.pth", "--part", "expert")
    assert wrong.returncode == 2
    assert "holds no expert; it holds state_dict.generator, state_dict.critic" in wrong.stderr


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_settings_of_a_training_checkpoint_are_kept(
    suffix: str, tmp_path: Path, convert: Callable[..., Done]
) -> None:
    network, hparams = Wav2Lip(0.125), {"mel_shift": -1, "expert_checkpoint": None}
    state = {f"generator.{key}": value for key, value in network.state_dict().items()}
    source, target, again = tmp_path / "last.ckpt", tmp_path / f"g{suffix}", tmp_path / "again.safetensors"
    torch.save(
        {"state_dict": state, "pytorch-lightning_version": "2.6.6", "hyper_parameters": hparams}, source
    )
    assert convert(source, target).returncode == 0
    assert convert(target, again).returncode == 0
    for path in (target, again):
        assert load_weights(Wav2Lip(0.125), path).hparams == hparams


def test_errors_are_one_line_and_leave_nothing(tmp_path: Path, convert: Callable[..., Done]) -> None:
    page = tmp_path / "wav2lip.pth"
    page.write_text("<!DOCTYPE html><html>sign in</html>")
    (tmp_path / "folder.pth").mkdir()
    good = paddle_file(tmp_path / "g.pdparams", Wav2Lip(0.125))
    for arguments in (
        (page, tmp_path / "out.safetensors"),
        (tmp_path / "absent.pth", tmp_path / "out.safetensors"),
        ("no_such_name", tmp_path / "out.safetensors"),
        (good, tmp_path / "out.onnx"),
        (good, tmp_path / "folder.pth"),
        (page, page),
    ):
        done = convert(*arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    assert not (tmp_path / "out.safetensors").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_the_script_runs_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "absent.pth"), str(tmp_path / "out.pth")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path / 'absent.pth'}: no such file\n"
