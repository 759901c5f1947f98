"""The expert learns, on drawn faces, from nothing: clean clips, and clips of which a third is out of sync."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from lipsync.data.pack_writer import pack_splits
from lipsync.data.preprocessing.runner import preprocess
from lipsync.data.synthetic import make_corpus
from lipsync.faces.annotated import AnnotatedDetector


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 drawn clips of six speakers, packed."""
    root = tmp_path_factory.mktemp("drawn")
    make_corpus(root / "raw", 48, 6, 3.0, seed=5, size=128, unseen_speakers=False)
    preprocess(root / "raw", root / "pre", AnnotatedDetector)
    pack_splits(root / "pre", ["train", "val", "test"], 96)
    return root / "pre"


def train(command: Any, root: Path, folder: Path, steps: int, *overrides: str) -> dict[str, float]:
    """Train a narrow expert on one CPU thread; its last validation, on the test list."""
    done = command(
        "train",
        *("experiment=cpu_syncnet", f"data.root={root}", f"hydra.run.dir={folder}", *overrides),
        *("model.width=0.125", "model.optimizer.lr=2e-3", "model.scheduler.warmup_steps=20"),
        *(
            "data.batch_size=64",
            "data.epoch_draws=40",
            "data.windows.augment=false",
            "data.val_splits=[test]",
        ),
        *(f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"),
        *("trainer.enable_progress_bar=false", "callbacks.progress=null", "callbacks.throughput=null"),
    )
    assert done.code == 0, done.err
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        last = [row for row in csv.DictReader(file) if row["test/pair_accuracy"]][-1]
    return {name: float(last[f"test/{name}"]) for name in ("pair_accuracy", "offset_accuracy")}


@pytest.mark.slow
def test_the_expert_learns_and_finds_the_offset(command: Any, root: Path, tmp_path: Path) -> None:
    scores = train(command, root, tmp_path / "run", 120)
    assert scores["pair_accuracy"] > 0.8
    assert scores["offset_accuracy"] == 1.0


@pytest.mark.slow
def test_offset_repair_moves_the_clips_that_are_off(
    command: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    moved = importlib.import_module("expert_convergence").shifted_corpus(root, tmp_path / "shifted", seed=1)
    assert len(moved) >= 8
    scores = train(command, tmp_path / "shifted", tmp_path / "run", 160, "callbacks=offset_repair")
    found = json.loads((tmp_path / "run" / "offsets.json").read_text())
    right = [name for name, frames in moved.items() if abs((found.get(name) or 99) - frames) <= 1]
    wrong = [name for name, offset in found.items() if name not in moved]
    assert len(right) >= 0.8 * len(moved)
    assert len(wrong) <= 1
    assert scores["offset_accuracy"] == 1.0
