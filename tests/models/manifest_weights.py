"""Weights and inputs of the fixtures of other families than Wav2Lip, by the rules in their manifests."""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _normal(key: str, shape: list[int]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape))


def listed_weights(manifest: dict[str, Any]) -> dict[str, Tensor]:
    """State dict of a manifest that states offset and scale of each entry (family ``dain``)."""
    state = {}
    for row in manifest["state_dict"]:
        value = np.zeros(row["shape"])
        if row["rule"] != "zero":
            normal = _normal(row["key"], row["shape"])
            value = row["offset"] + row["scale"] * (np.abs(normal) if row["rule"] == "affine_abs" else normal)
        state[row["key"]] = torch.from_numpy(np.asarray(value, dtype=row["dtype"]))
    return state


def named_weights(manifest: dict[str, Any]) -> dict[str, Tensor]:
    """State dict of a manifest that names a fill for each entry (family ``retalking``)."""
    rules = {
        "weight": lambda x, shape: x * np.sqrt(2 / np.prod(shape[1:])),
        "mod_weight": lambda x, shape: x * np.sqrt(2 / np.prod(shape[2:])),
        "bias": lambda x, _: x * 0.05,
        "mod_bias": lambda x, _: 1 + 0.1 * x,
        "norm_weight": lambda x, _: 1 + 0.1 * x,
        "norm_bias": lambda x, _: 0.1 * x,
        "running_mean": lambda x, _: 0.1 * x,
        "running_var": lambda x, _: 1 + 0.1 * np.abs(x),
        "const": lambda x, _: x,
        "zero": lambda x, _: x * 0,
        "zero_int": lambda x, _: x * 0,
    }
    factors = manifest.get("extra_scale", {}).get("regex_factor", [])
    state = {}
    for key, shape, dtype, kind in manifest["manifest"]:
        value = rules[kind](_normal(key, shape), shape)
        for pattern, factor in factors:
            if re.search(pattern, key):
                value = value * factor
        state[key] = torch.from_numpy(np.asarray(value, dtype=dtype))
    return state


def waves(height: int, width: int) -> Tensor:
    """``(1, 3, height, width)`` in [-1, 1]: the input of the family ``dain``."""
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    picture = [
        0.5
        + 0.2 * np.sin(2 * np.pi * (x / (19 + 3 * c) + 0.1 * c))
        + 0.15 * np.cos(2 * np.pi * (y / (13 + 2 * c) - 0.2 * c))
        + 0.1 * np.sin(2 * np.pi * (x + y) / (37 - 4 * c))
        for c in range(3)
    ]
    return torch.from_numpy((2 * np.stack(picture)[None] - 1).astype(np.float32))


def uniform(name: str, *shape: int) -> Tensor:
    """In [-1, 1]: an input of the family ``retalking``."""
    values = np.random.default_rng(zlib.crc32(f"input:{name}".encode())).random(shape)
    return torch.from_numpy(values.astype(np.float32) * 2 - 1)
