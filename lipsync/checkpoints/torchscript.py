"""Weights out of a TorchScript archive, without its code.

The download that the Wav2Lip page links to today (``Wav2Lip-SD-GAN.pt``) is such an archive. Its ``data.pkl``
is a tree of modules with their tensors as attributes, its ``data/`` folder the storages. Only these two are
read; the ``code/`` folder is never looked at.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lipsync.checkpoints.formats import damaged
from lipsync.checkpoints.pdparams import MAX_DEPTH, PARSE_ERRORS, RefusedGlobal, RestrictedUnpickler, refusal

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _ScriptModule:
    """Any class of the archive: attributes without behaviour."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __new__(cls, *_arguments: Any) -> _ScriptModule:  # NEWOBJ does not call __init__
        self = super().__new__(cls)
        self.attributes = {}
        return self

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes = state


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= storage.numel()):
        raise pickle.UnpicklingError("tensor outside its storage")
    return storage.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


def _first(value: Any, *_rest: Any) -> Any:
    return value


class _ScriptUnpickler(RestrictedUnpickler):
    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("collections", "OrderedDict"): OrderedDict,
        **{("torch", name): dtype for name, dtype in _STORAGES.items()},
        **{
            ("torch.jit._pickle", name): _first
            for name in ("restore_type_tag", "build_intlist", "build_doublelist", "build_boollist")
        },
    }
    buildable = (_ScriptModule,)

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.read(f"{root}/data.pkl"))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _ScriptModule
        return super().find_class(module, name)

    def persistent_load(self, pid: tuple[Any, ...]) -> Tensor:
        """Storage ``pid = ("storage", dtype, file name, device, element count)`` as a flat tensor."""
        _, dtype, key, _, count = pid
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        storage = self.storages[key]
        if storage.dtype != dtype or storage.numel() < count:
            raise pickle.UnpicklingError(f"storage {key} is too small")
        return storage


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """State dict of the module in a TorchScript archive.

    Raises:
        CheckpointError: The archive is damaged, or holds more than modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(n for n in archive.namelist() if n.endswith("/data.pkl")).removesuffix("/data.pkl")
            return _flatten(_ScriptUnpickler(archive, root).load())
    except RefusedGlobal as error:
        raise refusal(path, str(error)) from error
    except (*PARSE_ERRORS, zipfile.BadZipFile, zlib.error, OSError) as error:
        raise damaged(path, error) from error


def _flatten(module: Any, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    if not isinstance(module, _ScriptModule) or depth > MAX_DEPTH:
        raise pickle.UnpicklingError("no module inside")
    state: dict[str, Tensor] = {}
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            state[prefix + name] = value
        elif isinstance(value, _ScriptModule):
            state.update(_flatten(value, f"{prefix}{name}.", depth + 1))
    return state
