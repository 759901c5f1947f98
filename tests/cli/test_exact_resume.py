"""A run that is killed and resumed is the run that was left alone: the same log and weights, to the bit."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lipsync.training.checkpointing import LastCheckpoint

REPOSITORY = Path(__file__).resolve().parents[2]
Tiny = Callable[..., list[str]]
SAVING = "callbacks.last.every_n_steps"


def history(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv as they were written, without measurements of time."""
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                {name: text for name, text in row.items() if text and not name.startswith("perf/")}
                for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        return []
    return [row for row in rows if set(row) - {"epoch", "step"}]


def losses(folder: Path) -> list[str]:
    return [row["train/l1"] if "train/l1" in row else row["train/sync"] for row in steps(folder)]


def steps(folder: Path) -> list[dict[str, str]]:
    return [row for row in history(folder) if "train/l1" in row or "train/sync" in row]


def state(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Nested values are equal, tensors to the bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{k}")
    else:
        assert one == other, where


def assert_same_run(straight: Path, resumed: Path) -> None:
    """Log, weights, optimizer, schedule and gate."""
    assert history(resumed) == history(straight)
    ends = [state(folder / "checkpoints" / "last.ckpt") for folder in (straight, resumed)]
    for part in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(ends[0][part], ends[1][part], part)
    gates = [{k: v for k, v in end["callbacks"].items() if "SyncGate" in k} for end in ends]
    assert gates[0] == gates[1]


@pytest.fixture
def every_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where runs leave a copy of each checkpoint they make, ``<step>.ckpt``."""
    folder = tmp_path / "moments"
    folder.mkdir()
    save = LastCheckpoint._save

    def saved(self: LastCheckpoint, trainer: Any) -> None:
        save(self, trainer)
        shutil.copy(self.folder / "last.ckpt", folder / f"{trainer.global_step}.ckpt")

    monkeypatch.setattr(LastCheckpoint, "_save", saved)
    return folder


def begin(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """``train.py`` in a process group of its own; what it says goes to ``said.txt``."""
    folder.mkdir(exist_ok=True)
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "train.py", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            stdout=said,
            stderr=said,
        )


def kill_at(step: int, folder: Path, *arguments: str) -> None:
    """Run until the log holds ``step``, then SIGKILL every process of the run."""
    process, deadline = begin(folder, *arguments), time.monotonic() + 240
    try:
        while not any(int(row.get("step", -1)) >= step for row in history(folder)):
            assert process.poll() is None, (folder / "said.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish(folder: Path, *arguments: str) -> None:
    """Run to the end."""
    process = begin(folder, *arguments)
    try:
        assert process.wait(timeout=300) == 0, (folder / "said.txt").read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


QUICK = ["callbacks.samples=null", "callbacks.sample_video=null"]
GATE = ["callbacks.sync_gate.start_step=2", "callbacks.sync_gate.ramp_steps=3", "model.expert_mode=train"]
RANDOM = ["data.windows.flip=true", "data.windows.crop_margin=0.05", "model.expert_jitter=true"]
BY_EPOCHS = ["trainer.val_check_interval=null", "trainer.check_val_every_n_epoch=1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        # The gate opens by a validation; epochs of three steps end between, before and after validations.
        ("wav2lip", ["callbacks.sync_gate.threshold=1e9", "data.epoch_draws=6"]),
        ("wav2lip", [*GATE, *RANDOM, "data.epoch_draws=20", "trainer.accumulate_grad_batches=3"]),
        ("wav2lip_hq", [*GATE, *BY_EPOCHS, "data.epoch_draws=8", "model.ema_decay=0.9"]),
        ("syncnet", ["data.epoch_draws=10"]),
    ],
    ids=["gate by validation", "accumulated", "hq, EMA", "syncnet"],
)
def test_a_run_goes_on_from_every_step(
    *,
    model: str,
    settings: list[str],
    command: Any,
    tiny: Tiny,
    weights: dict[str, Path],
    every_moment: Path,
    tmp_path: Path,
) -> None:
    """Resumed from each of its checkpoints, beside the log of a run that had got further."""
    total = 5
    extra = [*QUICK, f"trainer.max_steps={total}", f"{SAVING}=1", *settings]
    if model != "syncnet":
        extra.append(f"model.expert_checkpoint={weights['cosine']}")
    straight = tmp_path / "straight"
    done = command("train", *tiny(model, straight, *extra))
    assert done.code == 0, done.err
    assert len(losses(straight)) == total
    assert sorted(int(path.stem) for path in every_moment.iterdir()) == list(range(1, total + 1))
    for step in range(1, total):
        resumed = tmp_path / f"from{step}"
        (resumed / "checkpoints").mkdir(parents=True)
        shutil.copy(straight / "metrics.csv", resumed)
        (every_moment / f"{step}.ckpt").rename(resumed / "checkpoints" / "last.ckpt")
        done = command("train", *tiny(model, resumed, *extra, "ckpt_path=last"))
        assert done.code == 0, done.err
        assert_same_run(straight, resumed)


LATE_GATE = ["callbacks.sync_gate.start_step=6", "callbacks.sync_gate.ramp_steps=0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("syncnet", ["data.num_workers=1", f"{SAVING}=null", "callbacks.last.every_minutes=0.0001"]),
        ("wav2lip_hq", [*LATE_GATE, *RANDOM, "model.ema_decay=0.9", f"{SAVING}=2"]),
        ("wav2lip_hq", [*LATE_GATE, f"{SAVING}=3", "trainer.devices=2"]),
    ],
    ids=["syncnet, a worker, by time", "hq", "hq, two processes"],
)
def test_sigkill_changes_nothing(
    *, model: str, settings: list[str], tiny: Tiny, weights: dict[str, Path], tmp_path: Path
) -> None:
    """Killed while it validates, killed again in the middle of an epoch."""
    extra = [*QUICK, "trainer.max_steps=20", "trainer.val_check_interval=4", "data.epoch_draws=28", *settings]
    if model != "syncnet":
        extra.append(f"model.expert_checkpoint={weights['cosine']}")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(straight, *tiny(model, straight, *extra))
    arguments = tiny(model, killed, *extra)
    # The row of step 3 is written before the validation after it.
    kill_at(3, killed, *arguments)
    kill_at(9, killed, *arguments, "ckpt_path=last")
    assert "19" not in [row["step"] for row in steps(killed)], "killed too late"
    finish(killed, *arguments, "ckpt_path=last")
    assert [row["step"] for row in steps(killed)] == [str(step) for step in range(20)]
    assert_same_run(straight, killed)


@pytest.mark.slow
@pytest.mark.parametrize(("fallback", "step"), [("best", 4), ("previous", 3)])
def test_a_damaged_last_checkpoint_is_passed_over(
    fallback: str, step: int, command: Any, tiny: Tiny, tmp_path: Path
) -> None:
    """The newest of the others is the best one, saved by the validation after step 4, or the one before."""
    straight, folder = tmp_path / "straight", tmp_path / "run"
    extra = [*QUICK, *(["callbacks.best=null"] if fallback == "previous" else [])]
    assert command("train", *tiny("wav2lip", straight, *extra, "trainer.max_steps=6")).code == 0
    assert command("train", *tiny("wav2lip", folder, *extra, "trainer.max_steps=5", f"{SAVING}=3")).code == 0
    checkpoints = folder / "checkpoints"
    last = checkpoints / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 16
    last.write_bytes(data)
    resume = tiny("wav2lip", folder, *extra, "trainer.max_steps=6", "ckpt_path=last")
    done = command("train", *resume)
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "warning" in line]
    said = f"{last} is missing or damaged; going on from {checkpoints / fallback}.ckpt, step {step}"
    assert line == f"lipsync: warning: {said}"
    assert_same_run(straight, folder)
    for path in checkpoints.glob("*.ckpt"):
        path.write_bytes(b"")
    assert "no checkpoint in it can be read" in command("train", *resume).line()
