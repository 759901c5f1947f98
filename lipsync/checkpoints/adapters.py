"""From what a checkpoint file holds to plain state dicts: pure functions, no files and no networks.

An adapter takes the nested dict of :func:`lipsync.checkpoints.loading.load_state` and returns the state dict
of one network, with this project's key names (which are those of the released Wav2Lip checkpoints).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lipsync.checkpoints.kinds import Kind, State, kind_of
from lipsync.errors import CheckpointError

Adapter: TypeAlias = Callable[[Mapping[str, Any]], State]

WRAPPERS = ("module", "_orig_mod")
"""Key parts that DataParallel and ``torch.compile`` insert."""
AVERAGED = "generator_ema"
"""The generator's averaged weights in a training checkpoint, a ``torch.optim.swa_utils.AveragedModel``."""
PARTS = (AVERAGED, "generator", "critic", "expert")
"""Networks inside a training checkpoint of this project; averaged weights before the raw ones.

Others in it are for training alone, such as the judge (``judge``) that watches the generator.
"""
_AVERAGES = "n_averaged"
_CONTAINERS = ("params_ema", "g_ema", "state_dict", "params", "model", "model_state_dict")
_SKIPPED = ("optimizer", "optimizer_states", "lr_schedulers", "callbacks", "loops", "hyper_parameters")
_PADDLE_NAMES = {"_mean": "running_mean", "_variance": "running_var"}
MAX_DEPTH = 3


def tensors(state: Mapping[str, Any]) -> State:
    """The entries of ``state`` that are tensors under text keys, wrapper parts removed from the keys."""
    return {
        ".".join(part for part in key.split(".") if part not in WRAPPERS): value
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def plain(state: Mapping[str, Any]) -> State:
    """State dict saved as it is: ``s3fd.pth``, ``syncnet_v2.model``, safetensors."""
    return tensors(state)


def wav2lip(state: Mapping[str, Any]) -> State:
    """Trainer file of Wav2Lip: ``{"state_dict", "optimizer", "global_step", "global_epoch"}``.

    Also fits ``lipsync_expert.pth``, ``visual_quality_disc.pth`` and files that are a plain state dict.
    """
    inner = state.get("state_dict", state)
    return tensors(inner if isinstance(inner, Mapping) else state)


def paddle(network: str | None = None, linear: tuple[str, ...] = ()) -> Adapter:
    """Adapter for ``.pdparams``: names of batch-norm statistics, and the counter that Paddle does not keep.

    Args:
        network: ``"netG"``, ``"netD"``, ``"netDS"`` or ``"netDH"`` in a trainer's file; None for a flat one.
        linear: Key prefixes of fully connected layers, whose weights Paddle stores ``(in, out)``.
    """

    def adapt(state: Mapping[str, Any]) -> State:
        inner = state if network is None else state.get(network)
        if not isinstance(inner, Mapping):
            names = ", ".join(str(key) for key in state)
            raise CheckpointError(f"the file has no network {network}; it has {names}")
        return from_paddle(tensors(inner), linear)

    return adapt


def from_paddle(state: Mapping[str, Tensor], linear: tuple[str, ...] = ()) -> State:
    """Paddle's names and layouts as torch's; a state dict with torch's names comes back unchanged."""
    adapted: State = {}
    for key, value in state.items():
        prefix, _, name = key.rpartition(".")
        if name == "weight" and prefix in linear:
            adapted[key] = value.t().contiguous()
            continue
        adapted[f"{prefix}.{_PADDLE_NAMES[name]}" if name in _PADDLE_NAMES else key] = value
        if name == "_variance":
            adapted[f"{prefix}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    return adapted


def lightning(part: str) -> Adapter:
    """Adapter for a training checkpoint of this project: its submodule ``part``, one of :data:`PARTS`."""

    def adapt(state: Mapping[str, Any]) -> State:
        inner = state.get("state_dict")
        found = _parts(tensors(inner)).get(part) if isinstance(inner, Mapping) else None
        if not found:
            raise CheckpointError(f"the checkpoint holds no {part}")
        return found

    return adapt


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> State:
    """The entries under ``prefix.``, without it."""
    start = prefix + "."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def networks(state: Mapping[str, Any]) -> dict[str, State]:
    """Every network in a file, by its place in it ("" for a flat file, "netG", "state_dict.generator", ...).

    Averaged weights come first. Keys are already this project's.
    """
    found: dict[str, State] = {}
    for place, flat in _flat_parts(state, "", 0):
        parts = _parts(flat)
        if parts:
            found.update({f"{place}.{part}".strip("."): inner for part, inner in parts.items()})
        else:
            found[place] = from_paddle(flat)
    return found


def _parts(flat: State) -> dict[str, State]:
    """The networks of a training checkpoint, by their names in :data:`PARTS`; empty for any other file."""
    parts = {part: inner for part in PARTS if (inner := with_prefix(flat, part))}
    # Before the first update the average holds the weights that training began with.
    if AVERAGED in parts and not parts[AVERAGED].pop(_AVERAGES, True):
        del parts[AVERAGED]
    return parts


def identify(state: Mapping[str, Any]) -> Kind:
    """Kind of the main network in a file: the generator of a training checkpoint that holds several."""
    kinds = {kind_of(inner) for inner in networks(state).values()}
    return next((kind for kind in Kind if kind in kinds), Kind.UNKNOWN)


def _flat_parts(state: Mapping[str, Any], place: str, depth: int) -> list[tuple[str, State]]:
    """``(place, tensors)`` of every dict of tensors down to :data:`MAX_DEPTH`, averaged weights first."""
    parts: list[tuple[str, State]] = []
    flat = tensors(state)
    if flat:
        parts.append((place, flat))
    inner = {
        key: value
        for key, value in state.items()
        if isinstance(key, str)
        and isinstance(value, Mapping)
        and not key.startswith(_SKIPPED)
        and depth < MAX_DEPTH
    }
    order = {name: rank for rank, name in enumerate(_CONTAINERS)}
    for key in sorted(inner, key=lambda name: order.get(name, len(order))):
        parts.extend(_flat_parts(inner[key], f"{place}.{key}".strip("."), depth + 1))
    return parts
