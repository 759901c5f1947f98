"""Packs a preprocessed corpus for fast training: one memory-mapped store a file list.

    python scripts/pack_corpus.py PREPROCESSED
    python scripts/pack_corpus.py PREPROCESSED --size 256 --splits train val --workers 8

PREPROCESSED holds clip folders and filelists/, written by preprocess.py or by the preprocessing of the
original Wav2Lip. The packs go to PREPROCESSED/pack/<split>_<size>; the clips stay as they are. A pack takes
27.6 kB a frame at size 96 (2.5 GB an hour of video); one that is up to date is not written again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lipsync.data.filelist import resolve_filelist
from lipsync.data.pack import load_pack
from lipsync.data.pack_writer import pack_splits
from lipsync.data.preprocessing.engine import LocalEngine
from lipsync.errors import DataError, UserError
from lipsync.inference.hooks import ProgressHook

EXIT_USER, EXIT_INTERRUPTED = 2, 130


def splits_of(root: Path, named: Sequence[str] | None) -> list[str]:
    """The file lists named, or all that are not empty."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; run preprocess.py first")
    if named:
        return [resolve_filelist(root, split).stem for split in named]
    found = sorted(path.stem for path in (root / "filelists").glob("*.txt") if path.stat().st_size)
    if not found:
        raise DataError(f"{root / 'filelists'}: no file list that names a clip; run preprocess.py first")
    return found


def pack(root: Path, named: Sequence[str] | None, size: int, workers: int, overwrite: bool) -> None:
    """Packs what is not up to date and says what there is."""
    splits = splits_of(root, named)
    with ProgressHook() as hook:
        written = pack_splits(
            root,
            splits,
            size,
            lambda done, total, step: hook(step, done, total),
            runner=LocalEngine(workers),
            overwrite=overwrite,
        )
    for split in splits:
        pack = load_pack(root, split, size)
        state = "packed" if split in written else "up to date"
        print(f"{split}: {len(pack.clips)} clips, {len(pack.frames)} frames, {state}: {pack.folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, metavar="PREPROCESSED", help="folder with clips and filelists/")
    parser.add_argument("--size", type=int, default=96, help="side of the faces in pixels (default: 96)")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="file lists (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="also what is up to date")
    options = parser.parse_args(arguments)
    try:
        pack(options.root, options.splits, options.size, options.workers, options.overwrite)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt:
        print("interrupted; finished packs are kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
