"""Name or path -> local file: cache folder, verification, download when needed.

The cache folder is ``$LIPSYNC_CACHE`` or ``~/.cache/lipsync/checkpoints``. A file put there by hand under the
name that the catalogue gives is used like a downloaded one, after the same verification.
"""

from __future__ import annotations

import difflib
import logging
import os
from pathlib import Path

from lipsync.checkpoints import download, formats
from lipsync.checkpoints.catalog import CATALOG, CheckpointSpec
from lipsync.checkpoints.download import Progress
from lipsync.errors import CheckpointError
from lipsync.files import write_text

__all__ = ["Progress", "cache_folder", "locate", "resolve"]

_LOGGER = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where downloaded weights are kept; need not exist yet."""
    chosen = os.environ.get("LIPSYNC_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "lipsync" / "checkpoints"


def resolve(source: str | Path, progress: Progress | None = None) -> Path:
    """Local file for a name of the catalogue or a path.

    Args:
        source: ``"wav2lip_gan"``, for instance, or the path of a weight file.
        progress: Called as ``progress(name, bytes so far, bytes in total or None)`` during a download.

    Raises:
        CheckpointError: No name and no file, a failed download, or a file that is not what its name says.
    """
    return locate(source, progress)[0]


def locate(source: str | Path, progress: Progress | None = None) -> tuple[Path, str]:
    """Like :func:`resolve`, with the file's SHA-256."""
    spec = CATALOG.get(str(source))
    if spec is not None:
        return _obtain(spec, progress)
    path = Path(source).expanduser()
    if not path.exists():
        raise CheckpointError(_not_found(str(source)))
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name the weight file itself")
    return path, formats.sha256_of(path)


def _not_found(source: str) -> str:
    if Path(source).suffix or os.sep in source:
        return f"{source}: no such file"
    near = difflib.get_close_matches(source, CATALOG, n=1)
    hint = f", did you mean {near[0]}" if near else ""
    return f"{source}: neither a file nor a known name{hint}; known names: {', '.join(CATALOG)}"


def _obtain(spec: CheckpointSpec, progress: Progress | None) -> tuple[Path, str]:
    folder = cache_folder()
    path = folder / spec.filename
    try:
        if path.is_file():
            return path, _verify(path, spec)
        folder.mkdir(parents=True, exist_ok=True)
        # Several processes of one run ask for the same file at once: one downloads, the others wait for it.
        with download.exclusive(folder / f".{spec.filename}.lock"):
            if not path.is_file():
                _LOGGER.info("downloading %s to %s; licence: %s", spec.name, path, spec.licence)
                download.fetch(spec, path, progress)
            return path, _verify(path, spec)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be used ({error}); set LIPSYNC_CACHE to a folder with room that can be written"
        ) from error


def _verify(path: Path, spec: CheckpointSpec) -> str:
    """The hash of ``path`` if it is the file that the catalogue, or the first use, recorded."""
    with path.open("rb") as stream:
        reason = formats.why_not_weights(stream.read(256))
    if reason is not None:
        raise CheckpointError(f"{path}: {reason}; {spec.page}")
    actual = formats.sha256_of(path)
    if spec.sha256 is not None:
        expected, origin = spec.sha256, f"of {spec.name}"
    else:
        expected, origin = _recorded(path, actual), "recorded at first use"
    if actual != expected:
        raise CheckpointError(
            f"{path}: its SHA-256 {actual[:12]}... is not the {expected[:12]}... {origin}; "
            "delete the file so that it is downloaded again"
        )
    return actual


def _recorded(path: Path, actual: str) -> str:
    """Hash beside a file whose authors published none; written at first use."""
    record = path.with_name(path.name + ".sha256")
    if record.is_file():
        return record.read_text(encoding="ascii").split()[0]
    write_text(record, f"{actual}  {path.name}\n")
    return actual
