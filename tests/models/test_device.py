from __future__ import annotations

import pytest
import torch

from lipsync.errors import ConfigError
from lipsync.models.device import resolve_device


def test_a_named_device_is_taken_as_it_is() -> None:
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


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
