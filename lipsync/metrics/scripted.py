"""Networks that come with their code: TorchScript files."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import torch

from lipsync.checkpoints.formats import Format, damaged, detect, shown
from lipsync.errors import CheckpointError

_CALL = re.compile(r"\b(?:torch|ops\.\w+)\.(\w+)\s*\(")
_NAMESPACE = re.compile(r"\bops\.(\w+)\.|\b__torch__\.torch\.(classes)\.")
_NAMESPACES = ("prim", "aten")
_FILES = ("save", "load", "from_file", "_load_for_lite_interpreter")


def load_scripted(path: Path, device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
    """A TorchScript module in evaluation mode, after a look at its code.

    TorchScript is a small language of its own: it can call neither Python nor the system. The operators of
    torch that open files, operators of extensions and bound C++ classes are the ways around that, so a file
    that names one of them is refused before anything of it runs. This keeps an honest mistake and a crude
    attack out; as with any file that is run, take it only from where you trust it.

    Raises:
        CheckpointError: The file is missing, damaged, no TorchScript, or refused.
    """
    if detect(path) is not Format.TORCHSCRIPT:
        raise CheckpointError(f"{path}: is no TorchScript file; give one that torch.jit.save wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
            sources = [archive.read(name).decode("utf-8") for name in names]
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError) as error:
        raise damaged(path, error) from error
    for source in sources:
        found = _forbidden(source)
        if found is not None:
            raise CheckpointError(f"{path}: refused, its code uses {shown(found)}; take another file")
    try:
        module = torch.jit.load(str(path), map_location=device)
    except RuntimeError as error:
        raise damaged(path, error) from error
    return module.eval()


def _forbidden(source: str) -> str | None:
    """The first thing in TorchScript code that reaches out of it."""
    for match in _NAMESPACE.finditer(source):
        if match[2] or match[1] not in _NAMESPACES:
            return match[0].rstrip(".")
    return next((f"torch.{match[1]}" for match in _CALL.finditer(source) if match[1] in _FILES), None)
