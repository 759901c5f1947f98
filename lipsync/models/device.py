"""Where networks run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TypeAlias

import torch

from lipsync.errors import ConfigError

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
"""What :func:`resolve_precision` knows."""


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device of a name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: The name is unknown or this machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device={device} is unknown: use auto, cpu, cuda or mps") from error
    if found.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device={device} is not supported: use auto, cpu, cuda or mps")
    lacks_cuda = found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count()
    if lacks_cuda or (found.type == "mps" and not torch.backends.mps.is_available()):
        raise ConfigError(f"device={device} is not available on this machine: use device=auto or device=cpu")
    return found


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The number type of a name for networks that only run forward.

    Args:
        precision: ``float32``, ``bfloat16``, ``float16`` (GPUs only), or ``auto``: bfloat16 where ``device``
            computes with it natively, float32 elsewhere.
        device: As :func:`resolve_device` gives.

    Raises:
        ConfigError: The name is unknown, or the device cannot compute in that type.
    """
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision not in types:
        raise ConfigError(f"precision={precision} is unknown: use auto, float32, bfloat16 or float16")
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("precision=float16 needs a GPU: use bfloat16, float32 or auto with device=cpu")
    return types[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context in which a network computes in ``dtype``: for float32 one that changes nothing.

    Args:
        device: Where the network is.
        dtype: As :func:`resolve_precision` gives.
    """
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On CUDA, convolutions that give the same bits again, and full products where they are float32."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16: elsewhere it is emulated, slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and _cpu_has_bfloat16()


def _cpu_has_bfloat16() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        # Of ARM's, "bf16" says too little: oneDNN uses it only in builds with the Compute Library.
        return any(capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    # Versions of torch before that function know one of the two.
    earlier = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return earlier is not None and bool(earlier())
