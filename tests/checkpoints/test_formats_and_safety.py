"""What files are accepted, and that none of them can run code or end in a traceback."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lipsync.checkpoints.formats import sha256_of
from lipsync.checkpoints.loading import load_state
from lipsync.errors import CheckpointError

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3), "n": torch.tensor(7)}


class Payload:
    """Runs a command when a careless loader unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def one_line(error: pytest.ExceptionInfo[CheckpointError], path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 1, bias=False)))


def assert_weights(state: dict[str, Any]) -> None:
    assert set(state) == set(WEIGHTS)
    assert all(torch.equal(state[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".model", ".pkl", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_both_ages_are_read_whatever_their_suffix(
    tmp_path: Path, suffix: str, zipped: bool
) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    assert_weights(load_state(path))


def test_safetensors_is_read_under_a_wrong_suffix_too(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_file(WEIGHTS, path)
    assert_weights(load_state(path))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_numpy_arrays_is_read(tmp_path: Path, protocol: int) -> None:
    arrays = {key: value.numpy() for key, value in WEIGHTS.items()}
    arrays["a.weight"] = np.asfortranarray(arrays["a.weight"])
    path = tmp_path / "weights.pdparams"
    path.write_bytes(pickle.dumps(OrderedDict(arrays), protocol=protocol))
    state = load_state(path)
    assert_weights(state)
    assert state["a.weight"].is_contiguous()


def test_big_endian_arrays_keep_their_values(tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(pickle.dumps({"w": np.array([1.5, -2.0], dtype=">f4")}))
    assert torch.equal(load_state(path)["w"], torch.tensor([1.5, -2.0]))


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_archives_give_their_state_dict(tmp_path: Path, how: str) -> None:
    network = small_network().eval()
    path = tmp_path / "Wav2Lip-SD-GAN.pt"
    program = (
        torch.jit.script(network) if how == "script" else torch.jit.trace(network, torch.zeros(1, 1, 8, 8))
    )
    program.save(path)
    state, expected = load_state(path), network.state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    small_network().load_state_dict(state, strict=True)


def test_torchscript_with_shared_storage_and_half_precision(tmp_path: Path) -> None:
    network = nn.Linear(4, 4).half()
    network.bias = nn.Parameter(network.weight.detach()[1])
    path = tmp_path / "half.pt"
    torch.jit.script(network).save(path)
    state = load_state(path)
    assert torch.equal(state["weight"], network.weight)
    assert torch.equal(state["bias"], network.weight[1])


def payload_files(folder: Path, payload: Payload) -> list[Path]:
    """The same payload in every container."""
    paths = [folder / name for name in ("zip.pth", "legacy.pth", "p2.pdparams", "p4.pdparams", "script.pt")]
    torch.save({"w": payload}, paths[0])
    torch.save({"w": payload}, paths[1], _use_new_zipfile_serialization=False)
    paths[2].write_bytes(pickle.dumps({"w": payload}, protocol=2))
    paths[3].write_bytes(pickle.dumps({"w": payload}, protocol=4))
    with zipfile.ZipFile(paths[4], "w") as archive:
        archive.writestr("script/data.pkl", pickle.dumps(payload, protocol=2))
        archive.writestr("script/constants.pkl", pickle.dumps((), protocol=2))
    return paths


@pytest.mark.parametrize("index", range(5))
def test_a_file_that_asks_to_run_code_is_refused_and_runs_nothing(tmp_path: Path, index: int) -> None:
    marker = tmp_path / "ran"
    path = payload_files(tmp_path, Payload(marker))[index]
    with pytest.raises(CheckpointError, match="refused") as error:
        load_state(path)
    assert f"{os.system.__module__}.system" in one_line(error, path)
    assert not marker.exists()


def test_a_numpy_function_outside_the_list_is_refused(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return np.fromfile, (str(tmp_path / "x"),)

    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": Call()}))
    with pytest.raises(CheckpointError, match="refused"):
        load_state(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"w": np.array([{"a": 1}, None], dtype=object)},
        {"w": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")])},
        {"w": np.array(["text"])},
    ],
    ids=["objects", "structured", "text"],
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps(arrays))
    with pytest.raises(CheckpointError) as error:
        load_state(path)
    one_line(error, path)


def test_a_pickle_cannot_change_the_reader(tmp_path: Path) -> None:
    # c _codecs.encode, then a state for it (opcode b): would set attributes of our function.
    program = b"\x80\x02c_codecs\nencode\n}(X\x05\x00\x00\x00owned\x88ub."
    path = tmp_path / "w.pdparams"
    path.write_bytes(program)
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(path)
    reader = sys.modules["lipsync.checkpoints.pdparams"]
    assert not hasattr(reader._encode, "owned")


def test_a_refused_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "w.pdparams"
    path.write_bytes(b"\x80\x04\x8c\x09o\ns\x1b[31mx\x8c\x06system\x93.")
    with pytest.raises(CheckpointError, match=r"`o\?s\?\[31mx\.system`") as error:
        load_state(path)
    one_line(error, path)


def test_a_cyclic_pickle_ends(tmp_path: Path) -> None:
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps(cycle))
    with pytest.raises(CheckpointError, match="nested too deeply"):
        load_state(path)


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save(small_network(), path)
    with pytest.raises(CheckpointError, match=r"state_dict\(\)") as error:
        load_state(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"\xef\xbb\xbf\r\n<HTML><head>Sign in to your account", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"not a checkpoint at all", "not a weight file"),
        (b"PK\x03\x04 truncated", "damaged"),
        (b"\x80", "not a weight file"),
        (b"\x80\x04", "damaged"),
    ],
)
def test_files_that_are_no_weights_say_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "wav2lip.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as error:
        load_state(path)
    one_line(error, path)


def test_missing_files_folders_and_other_archives(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_state(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_state(tmp_path)
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="unpack it"):
        load_state(path)
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_state(tmp_path / "list.pth")


NAMES = ["zip.pth", "legacy.pth", "p2.pdparams", "p4.pdparams", "s.safetensors", "script.pt"]


def containers(folder: Path) -> dict[str, Path]:
    """One good file of each container."""
    paths = {name: folder / name for name in NAMES}
    torch.save(WEIGHTS, paths["zip.pth"])
    torch.save(WEIGHTS, paths["legacy.pth"], _use_new_zipfile_serialization=False)
    arrays = {key: value.numpy() for key, value in WEIGHTS.items()}
    paths["p2.pdparams"].write_bytes(pickle.dumps(arrays, protocol=2))
    paths["p4.pdparams"].write_bytes(pickle.dumps(arrays, protocol=4))
    save_file(WEIGHTS, paths["s.safetensors"])
    torch.jit.script(small_network()).save(paths["script.pt"])
    return paths


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file_is_reported_at_any_length(tmp_path: Path, name: str) -> None:
    path = containers(tmp_path)[name]
    whole = path.read_bytes()
    for keep in [1, 9, len(whole) // 4, len(whole) // 2, len(whole) - 20, len(whole) - 1]:
        path.write_bytes(whole[:keep])
        with pytest.raises(CheckpointError) as error:
            load_state(path)
        one_line(error, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_byte_gives_weights_or_a_clear_error_but_no_traceback(tmp_path: Path, name: str) -> None:
    path = containers(tmp_path)[name]
    whole = path.read_bytes()
    dice = np.random.default_rng(len(name))
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.integers(1, 4)):
            damaged[dice.integers(min(len(whole), 1200))] = dice.integers(256)
        path.write_bytes(damaged)
        try:
            assert isinstance(load_state(path), dict)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017 (most of the damaged files load, by design)
            refused += 1
    assert refused > 0


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(CheckpointError, match="cannot be read"):
        sha256_of(tmp_path / "absent")
