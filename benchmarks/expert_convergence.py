"""Which objective trains the better sync expert: the stock cosine-BCE or contrast, each at its best?

    python benchmarks/expert_convergence.py PREPROCESSED --work convergence --steps 160 --seeds 0 1 2

PREPROCESSED is packed (``preprocess.py storage=pack``) and has the lists ``train``, ``val`` and, optionally,
``val_seen``. Three corpora: (a) ``clean``, as it is; (b) ``shifted``, with the speech of 30 % of the training
clips moved by 3 to 10 frames, also with offset repair; (c) ``synthetic``, many drawn speakers with few
clips each. All runs see the same number of windows at the same width on the same number of threads. Finished
runs are kept, so the command can be interrupted and given again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lipsync.data.pack import FRAMES, INDEX, MELS, Pack, pack_folder
from lipsync.files import write_text

REPOSITORY = Path(__file__).resolve().parents[1]
BATCH = 256
METRICS = ("pair_accuracy", "offset_accuracy")
ARMS = {
    "bce": ["model.objective=bce", f"data.batch_size={BATCH // 4}"],
    "contrastive": ["model.objective=contrastive", f"data.batch_size={BATCH}"],
    "contrastive+repair": [
        "model.objective=contrastive",
        f"data.batch_size={BATCH}",
        "callbacks=offset_repair",
    ],
}
CORPORA = {
    "clean": ("bce", "contrastive"),
    "shifted": ("bce", "contrastive", "contrastive+repair"),
    "synthetic": ("bce", "contrastive"),
}


def shifted_corpus(source: Path, target: Path, share: float = 0.3, seed: int = 0) -> dict[str, int]:
    """A copy of a packed corpus in which the speech of some training clips comes early or late.

    Args:
        source: Packed root.
        target: New root; made anew.
        share: Of the training clips that are moved.
        seed: Of the choice.

    Returns:
        Frames by which each moved clip's speech is late: its frame ``f`` fits the speech of ``f + frames``.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source / "filelists", target / "filelists")
    for folder in (source / "pack").iterdir():
        made = target / "pack" / folder.name
        made.mkdir(parents=True)
        for name in (INDEX, FRAMES, MELS):
            (made / name).symlink_to((folder / name).resolve())
    folder = pack_folder(target, "train", 96)
    pack = Pack(folder, verify=False)
    mels, rng, moved = np.array(pack.mels), np.random.default_rng(seed), {}
    for clip in pack.clips:
        if rng.random() >= share:
            continue
        frames = int(rng.integers(3, 11)) * int(rng.choice([-1, 1]))
        late = np.full((clip.mel_steps, 80), -4, dtype=np.float32)
        steps = round(frames * 3.2)
        own = mels[clip.first_column : clip.first_column + clip.mel_steps]
        if steps > 0:
            late[steps:] = own[:-steps]
        else:
            late[:steps] = own[-steps:]
        own[:] = late
        moved[clip.name] = frames
    (folder / MELS).unlink()
    np.save(folder / MELS, mels)
    write_text(target / "moved.json", json.dumps(moved, indent=1))
    return moved


def command(corpus: str, arm: str, folder: Path, root: Path, options: Any) -> list[str]:
    """The training command of one run, without its seed."""
    splits = ["val"] if corpus == "synthetic" or not options.seen else ["val_seen", "val"]
    steps = options.steps * (BATCH // 64 if arm == "bce" else 1)
    per_draw = 1 if arm == "bce" else 16
    batch = BATCH // 4 if arm == "bce" else BATCH
    return [
        sys.executable,
        str(REPOSITORY / "train.py"),
        "experiment=cpu_syncnet",
        f"data.root={root}",
        f"data.val_splits=[{','.join(splits)}]",
        f"model.width={options.width}",
        *ARMS[arm],
        f"data.epoch_draws={steps * batch // per_draw // 20}",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps // 3}",
        f"model.scheduler.warmup_steps={steps // 8}",
        "trainer.enable_progress_bar=false",
        "callbacks.progress=null",
        f"hydra.run.dir={folder}",
        *options.override,
    ]


def finished(folder: Path) -> dict[str, Any] | None:
    """What an earlier invocation left of this run."""
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.is_file() else None


def run(corpus: str, arm: str, seed: int, roots: dict[str, Path], options: Any) -> dict[str, Any]:
    """Train one expert, or take the result of an earlier invocation."""
    folder = options.work / f"{corpus}-{arm}-{seed}"
    if (result := finished(folder)) is not None:
        return result
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    arguments = [*command(corpus, arm, folder, roots[corpus], options), f"seed={seed}"]
    subprocess.run(arguments, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    history = validations(folder / "metrics.csv")
    result = {"corpus": corpus, "arm": arm, "seed": seed, "seconds": time.monotonic() - began, **history[-1]}
    result["history"] = history
    if (folder / "offsets.json").is_file():
        result |= repair_quality(folder / "offsets.json", roots[corpus] / "moved.json")
    write_text(folder / "result.json", json.dumps(result, indent=1))
    return result


def validations(path: Path) -> list[dict[str, float]]:
    """Step and metrics of each validation in a ``metrics.csv``."""
    found: dict[int, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scores = {k: float(v) for k, v in row.items() if v and k.rpartition("/")[2] in METRICS}
            if scores:
                found.setdefault(int(row["step"]), {"step": int(row["step"])}).update(scores)
    return list(found.values())


def repair_quality(table: Path, truth: Path) -> dict[str, float]:
    """How well the offsets found match those put in."""
    found, moved = json.loads(table.read_text()), json.loads(truth.read_text())
    right = [n for n, frames in moved.items() if found.get(n) is not None and abs(found[n] - frames) <= 1]
    false = [n for n, offset in found.items() if n not in moved and (offset is None or abs(offset) > 1)]
    return {
        "repair/moved": len(moved),
        "repair/corrected": len(right),
        "repair/left_out": sum(found.get(name, 0) is None for name in moved),
        "repair/false": len(false),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Mean and spread (standard deviation over the seeds) as Markdown."""
    names = [k for k in results[0] if k.rpartition("/")[2] in METRICS]
    names = sorted({k for r in results for k in r if k.rpartition("/")[2] in METRICS} | set(names))
    lines = ["| corpus | objective | runs | minutes | " + " | ".join(names) + " |"]
    lines.append("|---" * (4 + len(names)) + "|")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["corpus"], result["arm"]), []).append(result)
    for (corpus, arm), runs in groups.items():
        minutes = statistics.mean(r["seconds"] for r in runs) / 60
        cells = [_spread([r[name] for r in runs if name in r]) for name in names]
        lines.append(f"| {corpus} | {arm} | {len(runs)} | {minutes:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * spread:.1f}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="preprocessed and packed corpus")
    parser.add_argument("--work", type=Path, default=Path("convergence"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=160, help=f"steps of {BATCH} windows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--corpora", nargs="+", choices=sorted(CORPORA), default=list(CORPORA))
    parser.add_argument("--synthetic", type=Path, help="packed synthetic corpus")
    parser.add_argument("--override", nargs="*", default=[], help="further settings of train.py")
    options = parser.parse_args()
    options.seen = (options.root / "filelists" / "val_seen.txt").is_file()
    options.work.mkdir(parents=True, exist_ok=True)
    roots = {"clean": options.root.resolve(), "shifted": (options.work / "shifted").resolve()}
    if options.synthetic:
        roots["synthetic"] = options.synthetic.resolve()
    if "shifted" in options.corpora and not (roots["shifted"] / "moved.json").is_file():
        shifted_corpus(roots["clean"], roots["shifted"])
    results = []
    for seed in options.seeds:
        for corpus in options.corpora:
            for arm in CORPORA[corpus]:
                results.append(run(corpus, arm, seed, roots, options))
                print(json.dumps({k: v for k, v in results[-1].items() if k != "history"}), flush=True)
    results.sort(key=lambda r: (list(CORPORA).index(r["corpus"]), list(ARMS).index(r["arm"])))
    print(table(results))
    write_text(options.work / "table.md", table(results) + "\n")


if __name__ == "__main__":
    main()
