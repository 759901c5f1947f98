"""File lists: one clip name (``folder/id``) a line, as in LRS2 and Wav2Lip.

Only the first whitespace-separated token of a line counts (LRS2 lines may carry a tag such as ``NF``);
blank lines and lines starting with ``#`` are skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lipsync.errors import DataError
from lipsync.files import write_text

logger = logging.getLogger(__name__)


def read_filelist(path: Path | str) -> list[str]:
    """Clip names in the order of the file; repeated names are kept once and their number is logged.

    Raises:
        DataError: The file is missing, is not UTF-8 text, names no clip, or holds a name that leaves the
            data folder (absolute, or with ``..``); the message names the file and the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: cannot read this file list ({error.strerror}); run preprocess first"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; a file list holds one folder/id a line") from error
    names: dict[str, None] = {}
    entries = 0
    for number, line in enumerate(lines, start=1):
        tokens = line.split(maxsplit=1)
        if not tokens or tokens[0].startswith("#"):
            continue
        entries += 1
        names[_checked(tokens[0], path, number)] = None
    if not names:
        raise DataError(f"{path}: lists no clip; give it one folder/id a line")
    if entries > len(names):
        logger.warning("%s: %d repeated names are used once", path, entries - len(names))
    return list(names)


def write_filelist(path: Path | str, names: Iterable[str]) -> None:
    """Write one name a line, under a temporary name first; the parent folder is made.

    Raises:
        ValueError: A name would not be read back as it is (empty, whitespace inside, leading ``#``).
    """
    path = Path(path)
    names = list(names)
    for name in names:
        if name.split() != [name] or name.startswith("#"):
            raise ValueError(f"clip name {name!r} cannot stand in a file list")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{name}\n" for name in names))


def resolve_filelist(root: Path | str, split: str) -> Path:
    """``root/filelists/<split>.txt``.

    Raises:
        DataError: There is no such file; the message names the splits that do exist.
    """
    folder = Path(root) / "filelists"
    path = folder / f"{split}.txt"
    if path.is_file():
        return path
    known = ", ".join(sorted(found.stem for found in folder.glob("*.txt"))) or "none"
    raise DataError(f"{path}: no such file list (splits found: {known}); run preprocess or name another")


def _checked(name: str, path: Path, number: int) -> str:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.parts:
        raise DataError(f"{path}:{number}: {name!r} is no folder/id below the data folder; correct the line")
    return str(pure)
