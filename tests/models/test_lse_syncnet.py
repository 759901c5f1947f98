"""The LSE judge against the reference's recorded outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lipsync.models.lse_syncnet import LSESyncNet

Load = Callable[[str], tuple[dict[str, Any], Any]]


@pytest.fixture(scope="module")
def judge(parity: Load, fill: Callable[..., Any]) -> LSESyncNet:
    return fill(LSESyncNet(), key_gain=parity("SyncNet_v2_S")[0]["key_gain"])


def pixels(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32))


def test_state_dict_equals_the_released_one(parity: Load) -> None:
    manifest, _ = parity("SyncNet_v2_S")
    net = LSESyncNet()
    state = [[key, list(v.shape), str(v.dtype).removeprefix("torch.")] for key, v in net.state_dict().items()]
    assert state == manifest["keys"]
    assert sum(p.numel() for p in net.parameters()) == manifest["parameters"]


@torch.no_grad()
def test_outputs(judge: LSESyncNet, parity: Load) -> None:
    manifest, expected = parity("SyncNet_v2_S")
    watched = {
        "netcnnaud_7": judge.netcnnaud[7],
        "netcnnaud": judge.netcnnaud,
        "netcnnlip_7": judge.netcnnlip[7],
        "netcnnlip": judge.netcnnlip,
    }
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name, module in watched.items()
    ]
    lip = pixels(141, 2, 3, 5, 224, 224)
    mfcc = torch.from_numpy((np.random.default_rng(142).standard_normal((2, 1, 13, 20)) * 8).astype("f"))
    audio, video = judge.forward_aud(mfcc), judge.forward_lip(lip)
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(audio, expected["aud"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(video, expected["lip"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(judge.forward_lipfeat(lip), expected["lipfeat"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((audio - video + 1e-6).norm(dim=1), expected["dist"], rtol=1e-4)
    for name, stats in manifest["intermediates"].items():
        assert list(seen[name].shape) == stats["shape"], name
        found = [seen[name].double().mean().item(), seen[name].double().std(correction=0).item()]
        assert found == pytest.approx([stats["mean"], stats["std"]], rel=1e-4), name
