"""Where networks run."""

from __future__ import annotations

import torch

from lipsync.errors import ConfigError


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
