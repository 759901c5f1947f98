"""Whether a result can be written, asked before hours are spent on it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from lipsync.errors import MediaError
from lipsync.media.writer import CONTAINERS


def check_outfile(outfile: Path, inputs: Iterable[Path]) -> None:
    """Make the folder of ``outfile`` and see that it can be written there.

    Raises:
        MediaError: The suffix is of no container, the path is a folder, one of ``inputs`` or inside of one,
            or the place does not accept files.
    """
    if outfile.suffix.lower() not in CONTAINERS:
        raise MediaError(f"{outfile}: cannot write this kind of file; use one of {', '.join(CONTAINERS)}")
    try:
        if outfile.is_dir():
            raise MediaError(f"{outfile}: is a folder; give a file to write, such as {outfile / 'out.mp4'}")
        if any(outfile.exists() and outfile.samefile(path) for path in inputs):
            raise MediaError(f"{outfile}: is also an input and would be overwritten; choose another outfile")
        outfile.parent.mkdir(parents=True, exist_ok=True)
        if any(path.is_dir() and outfile.parent.samefile(path) for path in inputs):
            raise MediaError(f"{outfile}: lies among the pictures it is made from; choose another folder")
        with tempfile.TemporaryFile(dir=outfile.parent):
            pass
    except OSError as error:
        raise MediaError(f"{outfile}: cannot be written ({error.strerror}); choose another folder") from error
