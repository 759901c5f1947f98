"""The benchmarks run and give the figures they promise; how good those are depends on the machine."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lipsync.data.clip import Clip
from lipsync.data.clip_writer import ClipWriter
from lipsync.data.filelist import write_filelist

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("train_throughput")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    names = ["s/0", "t/1"]
    for name in names:
        with ClipWriter(tmp_path / f"{name}.part") as writer:
            for index in range(40):
                image = cv2.resize(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8), (30, 40))
                writer.write(index, np.asarray(image, np.uint8), (0, 0, 30, 40))
            sound = (rng.standard_normal(40 * 640) * 0.1).astype(np.float32)
            writer.commit(tmp_path / name, sound, 40, {})
    write_filelist(tmp_path / "filelists" / "train.txt", names)
    return tmp_path


def test_throughput_gives_every_row(throughput: ModuleType, root: Path, tmp_path: Path, capsys: Any) -> None:
    figures = tmp_path / "figures.json"
    arguments = [str(root), "--seconds", "0.02", "--rounds", "1", "--workers", "0", "--json", str(figures)]
    assert throughput.main(arguments) == 0
    rows = json.loads(figures.read_text())["per_core"]
    assert [(row["trainer"], row["path"]) for row in rows] == [
        (trainer, path)
        for trainer in throughput.WINDOWS
        for path in ("original", "clips", "pack", "resident")
    ]
    for row in rows:
        assert min(row["loader"], row["ready"], row["loader_ratio"], row["ready_ratio"]) > 0
        if row["path"] == "original":
            assert row["loader_ratio"] == row["ready_ratio"] == 1
    printed = capsys.readouterr().out
    assert printed.count(" resident ") == len(throughput.WINDOWS)


def test_the_original_path_makes_what_the_networks_take(throughput: ModuleType, root: Path) -> None:
    folders = [root / "s/0"]
    faces, mel, match = throughput.OriginalItems(folders, generator=False)()
    assert (faces.shape, mel.shape, match.shape) == ((15, 48, 96), (1, 80, 16), (1,))
    inputs, segments, mel, truth = throughput.OriginalItems(folders, generator=True)()
    assert (inputs.shape, segments.shape) == ((6, 5, 96, 96), (5, 1, 80, 16))
    assert (mel.shape, truth.shape) == ((1, 80, 16), (3, 5, 96, 96))
    assert inputs[:3, :, 48:].abs().max() == 0
    torch.testing.assert_close(inputs[:3, :, :48], truth[:, :, :48])
    windows = np.lib.stride_tricks.sliding_window_view(Clip(root / "s/0").mel(), 16, axis=1).transpose(
        1, 0, 2
    )
    assert np.abs(windows - mel.numpy()).max(axis=(1, 2)).min() < 1e-5


@pytest.mark.slow  # starts loader processes
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_throughput_with_workers(throughput: ModuleType, root: Path) -> None:
    throughput.pack_splits(root, ["train"], throughput.SIZE)
    rows = throughput.with_workers(root, "train", 2, 0.1)
    assert [(row["trainer"], row["path"]) for row in rows] == [
        (trainer, path) for trainer in ("expert", "generator") for path in ("clips", "pack")
    ]
    assert all(min(row["windows"], row["windows_at_16_cores"]) > 0 for row in rows)
    # Two workers cannot deliver more than two sixteenths of what sixteen could; they hand over ahead of it.
    assert all(row["windows"] < row["windows_at_16_cores"] for row in rows)


def test_a_missing_corpus_is_one_line(throughput: ModuleType, tmp_path: Path, capsys: Any) -> None:
    assert throughput.main([str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
