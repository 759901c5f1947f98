"""The generator on one device: the network as it was trained against its folded copy, in one run.

    python benchmarks/generator_speed.py                       # float32 and what the device is quick with
    python benchmarks/generator_speed.py --threads 2 --batch 8 16 --image-size 192
    python benchmarks/generator_speed.py --device cuda --precision float32 bfloat16 float16 --compiled

``plain`` is the network with what a script around it does: crops to fractions of 255, the lower half masked,
the forward pass (under autocast where the precision is not float32), pixels rounded. ``folded`` is what
``Wav2LipSynthesizer`` runs, ``lower rows`` the same where the compositor shows the lower half only. All of
them take crops and give pixels in the host's memory. The forms take turns, and the best of the rounds counts,
so that whatever else the machine does meets all alike. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import reported

from lipsync.inference.synthesize import PlainGenerator
from lipsync.models.device import has_bfloat16, resolve_device, resolve_precision
from lipsync.models.layers import IMAGE_SIZES
from lipsync.models.wav2lip import Wav2Lip
from lipsync.models.wav2lip_folded import FoldedWav2Lip

Form = Callable[[], None]


def forms(options: argparse.Namespace, device: torch.device, precision: str, batch: int) -> dict[str, Form]:
    """What is timed, the plain network first."""
    dtype = resolve_precision(precision, device)
    torch.manual_seed(0)
    network = Wav2Lip(options.width, options.image_size).eval()
    rng = np.random.default_rng(0)
    side = options.image_size
    crops = torch.from_numpy(rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8))
    mels = torch.from_numpy(rng.standard_normal((batch, 1, 80, 16)).astype(np.float32))
    folded = FoldedWav2Lip(network, dtype).to(device)
    plain = PlainGenerator(network, dtype).to(device)
    if options.compiled:
        folded.compile(dynamic=False)

    def run(generator: torch.nn.Module, first: int) -> Form:
        return lambda: generator(mels.to(device), crops.to(device), first).cpu()

    lower = side // 2 - 1
    return {"plain": run(plain, 0), "folded": run(folded, 0), "folded, lower rows": run(folded, lower)}


@torch.inference_mode()
def measure(made: dict[str, Form], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Best seconds of each."""
    best = dict.fromkeys(made, float("inf"))
    for form in made.values():
        form()
    for _ in range(rounds):
        for name, form in made.items():
            start = clock()
            form()
            best[name] = min(best[name], clock() - start)
    return best


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each form, precision and batch."""
    device = resolve_device(options.device)
    precisions = options.precision or ["float32", *["bfloat16"] * has_bfloat16(device)]
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows: list[dict[str, Any]] = []
    for precision in precisions:
        for batch in options.batch:
            seconds = measure(forms(options, device, precision, batch), options.rounds, clock)
            rows += [
                {"form": form, "precision": precision, "batch": batch, "ms": 1000 * taken / batch}
                for form, taken in seconds.items()
            ]
    for row in rows:
        row["ratio"] = rows[0]["ms"] / row["ms"]
        same = [r for r in rows if (r["precision"], r["batch"]) == (row["precision"], row["batch"])]
        row["ratio_of_precision"] = same[0]["ms"] / row["ms"]
    return rows


def report(result: dict[str, Any]) -> str:
    """The table as text."""
    lines = [f"{'':<30}{'batch':>6}{'ms a frame':>12}{'frames/s':>10}{'plain':>9}{'first row':>11}"]
    for row in result["rows"]:
        line = f"{row['precision'] + ', ' + row['form']:<30}{row['batch']:>6}{row['ms']:>12.2f}"
        line += f"{1000 / row['ms']:>10.1f}{row['ratio_of_precision']:>8.2f}x{row['ratio']:>10.2f}x"
        lines.append(line)
    return "\n".join([*lines, result["machine"]])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, choices=IMAGE_SIZES, default=96)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--precision", nargs="+", help="default: float32, and bfloat16 where it is native")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="the folded copy through torch.compile")
    parser.add_argument("--cpu-time", action="store_true", help="of all threads, not the wall's")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    cores = f"{os.cpu_count()} cores, {options.threads} used, torch {torch.__version__}, {options.device}"
    return reported(lambda: {"machine": cores, "rows": compare(options)}, report, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
