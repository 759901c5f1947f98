"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

SHARED = Path(os.environ.get("LIPSYNC_SHARED", "../shared")).resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of real clips, weights and parity fixtures; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no directory of real clips and parity fixtures at {SHARED} (set LIPSYNC_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def parity(shared: Path) -> Callable[[str], tuple[dict[str, Any], Any]]:
    """``parity(name)`` -> manifest and arrays (None where the fixture has no npz)."""

    def load(name: str, family: str = "wav2lip") -> tuple[dict[str, Any], Any]:
        manifest = json.loads((shared / "parity" / family / f"{name}.json").read_text())
        arrays = shared / "parity" / family / f"{name}.npz"
        return manifest, np.load(arrays) if arrays.exists() else None

    return load


def _filled(key: str, shape: tuple[int, ...], keys: set[str], gain: float, key_gain: dict[str, float]) -> Any:
    """The value of one state-dict entry by the fixtures' fill rule, in float32 arithmetic."""
    if key.endswith(".num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    x = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    f32 = np.float32
    if key.endswith(".running_mean"):
        return f32(0.1) * x
    if key.endswith(".running_var"):
        return f32(1) + f32(0.1) * np.abs(x)
    if key.endswith(".bias"):
        batch_norm = key.removesuffix("bias") + "running_mean" in keys
        return (f32(0.1) if batch_norm else f32(0.05)) * x
    if x.ndim == 1:
        return f32(1) + f32(0.1) * x
    fan_in = int(np.prod(shape[1:]))
    return x * f32(gain * np.sqrt(2 / fan_in) * key_gain.get(key, 1))


@pytest.fixture(scope="session")
def fill() -> Callable[..., nn.Module]:
    """``fill(module, gain, key_gain)`` -> the module in eval mode with the fixtures' weights."""

    def apply(module: nn.Module, gain: float = 1.0, key_gain: dict[str, float] | None = None) -> nn.Module:
        state = module.state_dict()
        values = {
            key: torch.from_numpy(
                np.asarray(_filled(key, tuple(value.shape), set(state), gain, key_gain or {}))
            )
            for key, value in state.items()
        }
        module.load_state_dict(values, strict=True)
        return module.eval()

    return apply


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """Each test starts from the same seed and one torch thread."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
