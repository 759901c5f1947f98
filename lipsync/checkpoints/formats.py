"""What a weight file is, told by its first bytes: suffixes lie (a web page saved as ``.pth``)."""

from __future__ import annotations

import hashlib
import zipfile
from enum import Enum
from pathlib import Path

from lipsync.errors import CheckpointError

_HEAD = 1024
_PICKLE_PROTOCOLS = (2, 3, 4, 5)
# A pickled long, torch.serialization.MAGIC_NUMBER: the first object of torch's format before 1.6.
_TORCH_LEGACY = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_TAR_MAGIC = (257, b"ustar")


class Format(Enum):
    """Containers that :func:`lipsync.checkpoints.loading.load_state` reads."""

    TORCH_ZIP = "torch archive"
    TORCHSCRIPT = "TorchScript archive"
    TORCH_LEGACY = "torch file of before 1.6"
    SAFETENSORS = "safetensors"
    PICKLE = "plain pickle"


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file as 64 lower-case hex digits.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def detect(path: Path) -> Format:
    """Container of ``path``.

    Raises:
        CheckpointError: The file is missing, unreadable, empty, a web page, a Git LFS pointer or unknown.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        size = path.stat().st_size
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: is a folder; name the weight file itself") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    reason = why_not_weights(head)
    if reason is not None:
        raise CheckpointError(f"{path}: {reason}")
    if head.startswith(b"PK\x03\x04"):
        return _zip_format(path)
    if _is_safetensors(head, size):
        return Format.SAFETENSORS
    if head[0] == 0x80 and len(head) > 1 and head[1] in _PICKLE_PROTOCOLS:
        return Format.TORCH_LEGACY if head[2:].startswith(_TORCH_LEGACY) else Format.PICKLE
    if head[_TAR_MAGIC[0] :].startswith(_TAR_MAGIC[1]):
        raise CheckpointError(f"{path}: is a tar archive; unpack it and name the weight file inside")
    raise CheckpointError(
        f"{path}: is not a weight file (expected .pth, .pt, .ckpt, .model, .pdparams or .safetensors); "
        "it may be damaged, download it again"
    )


def shown(text: object, limit: int = 120) -> str:
    """Text that came from a file, fit for one line of a message: no line breaks, no control characters."""
    line = "".join(letter if letter.isprintable() else "?" for letter in str(text).strip())
    return line if len(line) <= limit else line[:limit] + "..."


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that its reader could not follow."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{path}: is damaged or incomplete; download it again ({shown(reason)})")


def why_not_weights(head: bytes) -> str | None:
    """Why the first bytes of a file show that a download went wrong, or None."""
    if not head:
        return "is empty; delete it and download it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--", b"<head", b"<script")):
        return (
            "is a web page, not weights (the link asked for a login or a confirmation); "
            "delete it and download it again with a browser"
        )
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights; run `git lfs pull` or download the file itself"
    return None


def _is_safetensors(head: bytes, size: int) -> bool:
    header = int.from_bytes(head[:8], "little")
    return len(head) > 9 and 2 <= header <= size - 8 and head[8:9] == b"{"


def _zip_format(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise damaged(path, error) from error
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(f"{path}: is a zip archive without weights; unpack it and name the file inside")
    scripted = any(name.endswith("/constants.pkl") for name in names)
    return Format.TORCHSCRIPT if scripted else Format.TORCH_ZIP
