"""Training windows a core can deliver: the data path of the original Wav2Lip against ours, in one run.

    python benchmarks/train_throughput.py                        # on a corpus drawn for it
    python benchmarks/train_throughput.py PREPROCESSED --json out.json
    python benchmarks/train_throughput.py PREPROCESSED --workers 16

``original`` does for every item what the trainers of the original do: draw a clip, list its pictures, read 5
(expert) or 10 (generator) of them, resize, scale in float64, read the whole sound, take its whole mel, cut.
``clips``, ``pack`` and ``resident`` are data.storage and data.resident of this project. Two figures each:

    loader   windows a second of CPU time in the loader, which is all a core does when a GPU trains: it hands
             over uint8 pictures (resident: where they lie), the device scales, masks and gathers
    ready    the same with the float tensors that the network takes made on that core too

One thread, files in the page cache; CPU time, so that other processes count little. The original's sound is
read by Python's wave module (faster than what it used), its mel is ours (as fast). A pack that is missing is
written first.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from original_data_path import SIZE, OriginalItems

from lipsync.data.datamodule import LipSyncData
from lipsync.data.filelist import read_filelist, resolve_filelist
from lipsync.data.generation import GenerationDataset
from lipsync.data.pack import pack_folder
from lipsync.data.pack_writer import pack_splits
from lipsync.data.sync_pairs import SyncPairDataset
from lipsync.data.synthetic_datamodule import SyntheticData
from lipsync.errors import UserError

CORES = 16
TARGET_RATE = {"expert": 20_000, "generator": 3_000}
PATHS: dict[str, dict[str, Any]] = {
    "clips": {"storage": "clips", "resident": False},
    "pack": {"storage": "pack", "resident": False},
    "resident": {"storage": "pack", "resident": True},
}
WINDOWS: dict[str, Callable[..., Any]] = {
    "expert": functools.partial(SyncPairDataset, objective="contrastive"),  # the default, with augmentation
    "expert, one pair a draw": functools.partial(SyncPairDataset, objective="bce", augment=False),
    "generator": GenerationDataset,
}


def original_batches(root: Path, split: str, trainer: str, batch: int) -> Iterator[int]:
    """Batches of the original's items; yields the number of windows in each."""
    names = read_filelist(resolve_filelist(root, split))
    items = OriginalItems([root / name for name in names], generator=trainer == "generator")
    while True:
        for fields in zip(*(items() for _ in range(batch)), strict=True):
            torch.stack(fields)
        yield batch


def our_data(root: Path, split: str, trainer: str, path: str, workers: int = 0) -> LipSyncData:
    """The DataModule as training sets it up; every epoch is endless."""
    batch = 256 if trainer == "expert" else 64
    data = LipSyncData(
        str(root),
        functools.partial(WINDOWS[trainer], seed=0),
        batch_size=batch,
        train_split=split,
        val_splits=(),
        num_workers=workers,
        epoch_draws=10**9,
        image_size=SIZE,
        **PATHS[path],
    )
    data.setup("fit")
    return data


def our_batches(data: LipSyncData, ready: bool) -> Generator[int, None, None]:
    """Batches of ours as the loader hands them over, or ready for the network."""
    for batch in data.train_dataloader():
        if ready:
            data.on_after_batch_transfer(batch, 0)
        yield data.batch_size


def rate(batches: Iterator[int], seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Windows a second, after one batch to warm up."""
    next(batches)
    start, count = clock(), 0
    while clock() - start < seconds:
        count += next(batches)
    return count / (clock() - start)


def per_core(root: Path, split: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Windows a second and core of every trainer and path, the best of ``rounds`` taken in turn."""
    sources: dict[tuple[str, str, str], Iterator[int]] = {}
    for trainer in WINDOWS:
        sources[trainer, "original", "ready"] = original_batches(root, split, trainer, 16)
        for path in PATHS:
            data = our_data(root, split, trainer, path)
            sources[trainer, path, "loader"] = our_batches(data, ready=False)
            sources[trainer, path, "ready"] = our_batches(data, ready=True)
    best = dict.fromkeys(sources, 0.0)
    for _ in range(rounds):
        for key, batches in sources.items():
            best[key] = max(best[key], rate(batches, seconds))
    rows = []
    for trainer in WINDOWS:
        original = best[trainer, "original", "ready"]
        for path in ("original", *PATHS):
            ready = best[trainer, path, "ready"]
            loader = best.get((trainer, path, "loader"), ready)
            ratios = {"loader_ratio": loader / original, "ready_ratio": ready / original}
            rows.append({"trainer": trainer, "path": path, "loader": loader, "ready": ready, **ratios})
    return rows


def with_workers(root: Path, split: str, workers: int, seconds: float) -> list[dict[str, Any]]:
    """The DataLoader alone: windows a second of wall time, and those of ``CORES`` cores that only load.

    The latter is extrapolated from the CPU time that the workers took, which other processes do not change.
    """
    rows = []
    for trainer, target in TARGET_RATE.items():
        for path in ("clips", "pack"):
            batches = our_batches(our_data(root, split, trainer, path, workers), ready=False)
            before, start = _cpu_of_children(), time.perf_counter()
            count = 0
            while time.perf_counter() - start < seconds or not count:
                count += next(batches)
            wall = time.perf_counter() - start
            batches.close()  # ends the workers, whose time counts from then on
            rows.append(
                {
                    "trainer": trainer,
                    "path": path,
                    "workers": workers,
                    "windows": count / wall,
                    "windows_at_16_cores": CORES * count / max(_cpu_of_children() - before, 1e-9),
                    "target": target,
                }
            )
    return rows


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def report(result: dict[str, Any]) -> str:
    """The tables as text."""
    lines = [f"{'windows a second and core':<38}{'loader':>9}{'':>9}{'ready':>9}"]
    for row in result["per_core"]:
        line = f"{row['trainer']:<25}{row['path']:<13}{row['loader']:>9.0f}{row['loader_ratio']:>8.1f}x"
        lines.append(f"{line}{row['ready']:>9.0f}{row['ready_ratio']:>8.1f}x")
    lines += ["", f"{'DataLoader alone, windows a second':<38}{'measured':>9}{'16 cores':>9}{'target':>9}"]
    for row in result["with_workers"]:
        line = f"{row['trainer']:<25}{row['path']:<13}{row['windows']:>9.0f}"
        lines.append(f"{line}{row['windows_at_16_cores']:>9.0f}{row['target']:>9}")
    for workers in {row["workers"] for row in result["with_workers"]}:
        lines.append(
            f"measured: wall time with {workers} workers; 16 cores: extrapolated from their CPU time"
        )
    lines.append(f"{result['machine']}; files in the page cache; {result['frames']} frames")
    return "\n".join(lines)


def measure(root: Path, split: str, *, seconds: float, rounds: int, workers: int) -> dict[str, Any]:
    """Everything; packs the file list first where there is no pack.

    Args:
        root: Preprocessed root.
        split: File list.
        seconds: Of each single measurement.
        rounds: Measurements of each kind; the best counts.
        workers: Loader processes, 0 to leave those tables out.

    Raises:
        DataError: No such corpus or file list, or its clips are too short.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pack_splits(root, [split], SIZE)
    frames = np.load(pack_folder(root, split, SIZE) / "frames.npy", mmap_mode="r")
    for first in range(0, len(frames), 256):
        frames[first : first + 256].max()  # read once
    return {
        "machine": f"{os.cpu_count()} cores, torch {torch.__version__}, OpenCV {cv2.__version__}",
        "frames": len(frames),
        "per_core": per_core(root, split, seconds, rounds),
        "with_workers": with_workers(root, split, workers, seconds) if workers else [],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", nargs="?", type=Path, metavar="PREPROCESSED", help="default: draws one")
    parser.add_argument("--split", default="train", help="file list (default: train)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="best of so many (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default: 2; 0: leave out)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    settings = {"seconds": options.seconds, "rounds": options.rounds, "workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        try:
            root = options.root
            if root is None:
                data = SyntheticData(folder, windows=GenerationDataset, clips=24, speakers=4)
                data.prepare_data()
                root = data.root
            result = measure(root, options.split, **settings)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
    print(report(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
