from __future__ import annotations

import pytest
import torch

from lipsync.errors import ConfigError
from lipsync.models.device import (
    autocast,
    has_bfloat16,
    repeatable,
    resolve_device,
    resolve_precision,
)


def test_a_named_device_is_taken_as_it_is() -> None:
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


def test_autocast_changes_nothing_for_float32() -> None:
    values = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(torch.device("cpu"), dtype):
            assert (values @ values).dtype == dtype


def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"


def test_unusable_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="device=tpu9 is unknown"):
        resolve_device("tpu9")
    with pytest.raises(ConfigError, match="device=meta is not supported"):
        resolve_device("meta")


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cuda:0").index == 0
    with pytest.raises(ConfigError, match="device=cuda:1 is not available"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device=mps is not available"):
        resolve_device("mps")


CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def test_a_named_precision_is_taken_as_it_is() -> None:
    assert resolve_precision("float32", CUDA) == torch.float32
    assert resolve_precision("bfloat16", CPU) == torch.bfloat16
    assert resolve_precision("float16", MPS) == resolve_precision("float16", CUDA) == torch.float16


def test_precisions_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="precision=int8 is unknown"):
        resolve_precision("int8", CUDA)
    with pytest.raises(ConfigError, match="precision=float16 needs a GPU"):
        resolve_precision("float16", CPU)


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bfloat16_on_gpus_that_have_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
    )
    assert resolve_precision("auto", CUDA) == (torch.bfloat16 if native else torch.float32)
    assert resolve_precision("auto", MPS) == torch.float32


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"avx512_f": True, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"bf16": True, "architecture": "arm64"}, False),
    ],
)
def test_auto_takes_bfloat16_on_cpus_that_have_it(
    capabilities: dict[str, object], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert has_bfloat16(CPU) == native
    assert resolve_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_bfloat16(CPU)


@pytest.mark.parametrize("native", [True, False])
def test_versions_of_torch_that_cannot_list_a_cpus_instructions(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    assert has_bfloat16(CPU) == native
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not has_bfloat16(CPU)


def test_repeatable_changes_nothing_but_on_cuda() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.allow_tf32, cudnn.benchmark)
    with repeatable(torch.device("cpu")):
        assert (cudnn.deterministic, cudnn.allow_tf32, cudnn.benchmark) == before
    with repeatable(torch.device("cuda")):  # flags only: no device is touched
        assert (cudnn.deterministic, cudnn.allow_tf32, cudnn.benchmark) == (True, False, False)
    assert (cudnn.deterministic, cudnn.allow_tf32, cudnn.benchmark) == before
