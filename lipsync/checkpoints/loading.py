"""Weights from files into networks: safe to open, strict in what fits, clear about what does not.

    expert = SyncNet()
    loaded = load_weights(expert, "lipsync_expert")        # a name of the catalogue or a path
    state, loaded = read_network("last.ckpt", Kind.GENERATOR)
    generator = Wav2Lip(**generator_kwargs(state))          # the width is told by the shapes
    load_weights(generator, state)

No file can run code: torch files go through ``weights_only``, everything else through restricted readers.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lipsync.checkpoints import formats, store
from lipsync.checkpoints.adapters import Adapter, networks
from lipsync.checkpoints.formats import Format, damaged, sha256_of, shown
from lipsync.checkpoints.kinds import Kind, State, describe, kind_of
from lipsync.checkpoints.pdparams import PARSE_ERRORS, read_pickle, refusal
from lipsync.checkpoints.store import Progress
from lipsync.checkpoints.torchscript import read_torchscript
from lipsync.errors import CheckpointError

__all__ = ["LoadedWeights", "Source", "load_state", "load_weights", "read_network", "sha256_of"]

Source: TypeAlias = str | Path | Mapping[str, Any]
"""A name of the catalogue, a path, or what :func:`load_state` returned."""

HPARAMS = "hyper_parameters"
"""Where a checkpoint of this project keeps the settings it was trained with."""
_SHOWN = 3
_REFUSED = re.compile(r"(?:GLOBAL|global:?) ([\w.]+\.\w+)")


@dataclass(frozen=True)
class LoadedWeights:
    """Where weights came from, for reports and provenance.

    Attributes:
        path: The file; None when the source was already in memory.
        sha256: Of the file, 64 hex digits; None likewise.
        kind: The network that was read.
        hparams: Hyper-parameters in a training checkpoint of this project, converted or not, else empty.
    """

    path: Path | None
    sha256: str | None
    kind: Kind
    hparams: dict[str, Any] = field(default_factory=dict)


def load_state(path: str | Path) -> dict[str, Any]:
    """What a weight file holds: a possibly nested dict of tensors on the CPU and plain values.

    Reads torch files of every age (``.pth``, ``.pt``, ``.ckpt``, ``.model``), TorchScript archives (weights
    only), ``.safetensors`` and ``.pdparams``, told apart by content. Nothing in the file is run.

    Raises:
        CheckpointError: The file is missing, damaged, no weight file, or refused because it asks to run code.
    """
    path = Path(path)
    kind = formats.detect(path)
    if kind is Format.SAFETENSORS:
        state: Any = _load_safetensors(path)
    elif kind is Format.TORCHSCRIPT:
        state = read_torchscript(path)
    elif kind is Format.PICKLE:
        state = read_pickle(path)
    else:
        state = _load_torch(path)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not the weights of a network")
    return dict(state)


def load_weights(
    module: nn.Module, source: Source, adapter: Adapter | None = None, progress: Progress | None = None
) -> LoadedWeights:
    """Copies weights into ``module``; every key and shape must fit.

    Args:
        module: The network; stays on its device and in its dtype.
        source: A name of the catalogue (downloaded when needed), a path, or a loaded dict.
        adapter: Picks and renames the weights; None finds the network in the file that fits ``module``.
        progress: Called while a file of the catalogue is downloaded.

    Raises:
        CheckpointError: The file cannot be had or read, holds another network, other keys or other shapes, or
            weights that are not finite. ``module`` is unchanged then.
    """
    state, path, sha256 = _open(source, progress)
    label = str(path) if path else "the given state"
    wanted = module.state_dict()
    weights = _fitting(state, wanted, label) if adapter is None else _adapted(adapter, state, label)
    weights = _with_counters(weights, wanted)
    _require_fit(weights, wanted, type(module).__name__, label)
    module.load_state_dict(weights, strict=True)
    return LoadedWeights(path, sha256, kind_of(weights), _hparams(state))


def read_network(source: Source, kind: Kind, progress: Progress | None = None) -> tuple[State, LoadedWeights]:
    """State dict of the network of one ``kind`` in a file, for building a module of the right size.

    Raises:
        CheckpointError: The file cannot be had or read, or holds no such network.
    """
    state, path, sha256 = _open(source, progress)
    found = networks(state)
    for weights in found.values():
        if kind_of(weights) is kind:
            return weights, LoadedWeights(path, sha256, kind, _hparams(state))
    raise _wrong_kind(found, kind.value, str(path) if path else "the given state")


def _open(source: Source, progress: Progress | None) -> tuple[dict[str, Any], Path | None, str | None]:
    if isinstance(source, Mapping):
        return dict(source), None, None
    path, sha256 = store.locate(source, progress)
    return load_state(path), path, sha256


def _load_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _REFUSED.search(str(error))
        if named:
            raise refusal(path, named[1]) from error
        raise damaged(path, error) from error
    except (*PARSE_ERRORS, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            state: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
            metadata = file.metadata() or {}
        if HPARAMS in metadata:
            state[HPARAMS] = dict(json.loads(metadata[HPARAMS]))
        return state
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _adapted(adapter: Adapter, state: Mapping[str, Any], label: str) -> State:
    try:
        return adapter(state)
    except CheckpointError as error:
        raise CheckpointError(f"{label}: {error}") from error


def _fitting(state: Mapping[str, Any], wanted: Mapping[str, Tensor], label: str) -> State:
    """The network in ``state`` for a module with the entries ``wanted``."""
    found = networks(state)
    ours = set(wanted)
    for weights in found.values():
        if set(weights) == ours:
            return weights
    kind = kind_of(ours)
    if kind is not Kind.UNKNOWN:
        for weights in found.values():
            if kind_of(weights) is kind:
                return weights
        raise _wrong_kind(found, kind.value, label)
    best = max(found.values(), key=lambda weights: len(ours & set(weights)), default={})
    if not ours & set(best):
        raise _wrong_kind(found, "network with other keys", label)
    return best


def _wrong_kind(found: Mapping[str, State], needed: str, label: str) -> CheckpointError:
    if not found:
        return CheckpointError(f"{label}: holds no weights, a {needed} is needed")
    held = " and ".join(dict.fromkeys(_with_article(describe(weights)) for weights in found.values()))
    return CheckpointError(f"{label}: this is {held}, {_with_article(needed)} is needed")


def _with_article(name: str) -> str:
    return f"{'an' if name.startswith('S3FD') else 'a'} {name}"


def _with_counters(weights: State, wanted: Mapping[str, Tensor]) -> State:
    """Adds the batch counters that torch before 0.4.1 did not save; evaluation never reads them."""
    missing = [key for key in wanted if key.endswith(".num_batches_tracked") and key not in weights]
    return {**weights, **{key: torch.zeros((), dtype=torch.int64) for key in missing}}


def _require_fit(weights: State, wanted: Mapping[str, Tensor], name: str, label: str) -> None:
    """Raises unless keys and shapes agree and every number is finite."""
    missing = [key for key in wanted if key not in weights]
    unexpected = [key for key in weights if key not in wanted]
    shapes = [
        f"{key} {_shape(value)} instead of {_shape(wanted[key])}"
        for key, value in weights.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    groups = ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
    problems = [_listed(keys, what) for keys, what in groups if keys]
    if problems:
        held = _with_article(describe(weights))
        raise CheckpointError(f"{label}: does not fit {name}, {'; '.join(problems)}; the file holds {held}")
    broken = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(
            f"{label}: {_listed(broken, 'not finite')}; the training run that wrote it diverged"
        )


def _listed(keys: Sequence[str], what: str) -> str:
    names = ", ".join(shown(key) for key in keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
    return f"{len(keys)} {'entry' if len(keys) == 1 else 'entries'} {what} ({names})"


def _shape(tensor: Tensor) -> str:
    return "x".join(str(extent) for extent in tensor.shape) or "scalar"


def _hparams(state: Mapping[str, Any]) -> dict[str, Any]:
    return dict(state.get(HPARAMS, {}))
