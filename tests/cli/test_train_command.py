"""``train.py`` on a corpus of six tiny clips: what it writes, resume, interruption, loggers, processes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lipsync.checkpoints.networks import load_expert, load_generator

REPOSITORY = Path(__file__).resolve().parents[2]
Tiny = Callable[..., list[str]]


def script(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """``python train.py ...`` from the repository's root."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must succeed; what it said."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out + err


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def logged(folder: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(folder) if row.get(name)]


def assert_run_folder(folder: Path) -> None:
    """What every run leaves, and nothing half-written."""
    config = OmegaConf.load(folder / "config.yaml")
    assert config.task == "train"
    assert config.paths.output_dir == str(folder), "interpolations are resolved"
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert rows(folder)
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("objective", ["contrastive", "bce"])
def test_the_expert(objective: str, command: Any, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    extra = [f"model.objective={objective}"] + ["data.batch_size=4"] * (objective == "bce")
    done = command("train", *tiny("syncnet", folder, *extra))
    assert done.code == 0, done.err
    assert_run_folder(folder)
    assert len(logged(folder, "train/sync")) == 2
    for name in ("val/sync", "val/pair_accuracy", "val/offset_accuracy"):
        assert len(logged(folder, name)) == 1, name
    expert, loaded = load_expert(folder / "checkpoints" / "last.ckpt")
    assert expert.head == ("cosine" if objective == "bce" else "contrastive")
    assert loaded.hparams["objective"] == objective
    assert not (folder / "samples").exists()


def test_wav2lip_without_an_expert(command: Any, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = command("train", *tiny("wav2lip", folder))
    assert done.code == 0, done.err
    assert_run_folder(folder)
    logged_names = set(rows(folder)[0])
    assert logged_names >= {"epoch", "step", "train/l1", "train/lr", "val/l1", "val/l1_lower", "val/l1_copy"}
    assert not [name for name in logged_names if "sync" in name]
    assert "step000000002.jpg" in [path.name for path in (folder / "samples").iterdir()]


@pytest.mark.parametrize("expert", ["cosine", "contrastive"])
def test_wav2lip_with_an_expert(
    expert: str, command: Any, tiny: Tiny, weights: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    extra = [
        f"model.expert_checkpoint={weights[expert]}",
        "callbacks.sync_gate.start_step=1",
        "callbacks.sync_gate.ramp_steps=0",
    ]
    done = command("train", *tiny("wav2lip", folder, *extra))
    assert done.code == 0, done.err
    assert_run_folder(folder)
    assert len(logged(folder, "train/l1")) == 2
    assert len(logged(folder, "train/sync")) == 1, "from step 1 on"
    assert len(logged(folder, "val/own")) == 1
    path = folder / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    assert float(state["state_dict"]["sync_weight"]) == pytest.approx(0.01)
    generator, loaded = load_generator(path)
    assert sum(p.numel() for p in generator.parameters()) > 0
    assert loaded.hparams["mel_shift"] == -1


def test_wav2lip_hq_logs_all_terms(
    command: Any, tiny: Tiny, weights: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    gate = ["callbacks.sync_gate.start_step=0", f"model.expert_checkpoint={weights['cosine']}"]
    done = command("train", *tiny("wav2lip_hq", folder, *gate))
    assert done.code == 0, done.err
    for name in ("l1", "sync", "adversarial", "critic"):
        assert len(logged(folder, f"train/{name}")) == 2, name
    assert OmegaConf.load(folder / "config.yaml").callbacks.sync_gate.weight == 0.03
    load_generator(folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("epoch_draws", "workers"),
    [
        (16, 0),
        pytest.param(2, 0, marks=pytest.mark.slow),
        pytest.param(4, 0, marks=pytest.mark.slow),
        pytest.param(16, 1, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_one_that_went_straight_through(
    *, epoch_draws: int, workers: int, command: Any, tiny: Tiny, weights: dict[str, Path], tmp_path: Path
) -> None:
    """Stopped at the end of an epoch of one or two steps, and in the middle of one of eight."""
    extra = [
        f"model.expert_checkpoint={weights['cosine']}",
        "model.expert_mode=train",
        "callbacks.sync_gate.start_step=1",
        "callbacks.sync_gate.ramp_steps=4",
        f"data.epoch_draws={epoch_draws}",
        f"data.num_workers={workers}",
    ]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert command("train", *tiny("wav2lip_hq", straight, *extra, "trainer.max_steps=4")).code == 0
    assert command("train", *tiny("wav2lip_hq", stopped, *extra)).code == 0
    half = rows(stopped)
    done = command("train", *tiny("wav2lip_hq", stopped, *extra, "trainer.max_steps=4", "ckpt_path=last"))
    assert done.code == 0, done.err
    assert rows(stopped)[: len(half)] == half, "the rows of the first half are kept"
    for name in ("train/l1", "train/sync", "train/adversarial", "train/critic", "val/l1", "val/sync"):
        assert logged(stopped, name) == logged(straight, name), name
    for name in ("epoch", "step"):
        assert [row[name] for row in rows(stopped)] == [row[name] for row in rows(straight)]
    assert len(logged(stopped, "train/l1")) == 4
    ends = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (straight, stopped)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 4
    for key, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][key]), key


def test_the_same_seed_gives_the_same_run(command: Any, tiny: Tiny, tmp_path: Path) -> None:
    losses = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert command("train", *tiny("syncnet", tmp_path / name, f"seed={seed}")).code == 0
        losses[name] = logged(tmp_path / name, "train/sync")
    assert losses["a"] == losses["b"]
    assert losses["a"] != losses["c"]


@pytest.mark.slow
def test_the_command_says_what_it_does(tiny: Tiny, tmp_path: Path) -> None:
    extra = ["trainer.accumulate_grad_batches=2", "data.batch_size=4"]
    said = finished(script(*tiny("wav2lip", tmp_path / "run", *extra)))
    batch, rate, stopped, speed, done = said.splitlines()  # no banners, advice or warnings
    assert batch == f"global batch: 4 windows x 1 processes x 2 = 8; run folder: {tmp_path / 'run'}"
    assert rate.startswith("lr 0.0001"), "what the learning rate follows"
    assert stopped == "`Trainer.fit` stopped: `max_steps=2` reached."
    assert speed.startswith("speed over ")
    assert done == f"done: step 2, {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"


def test_ctrl_c_keeps_the_work(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = tiny("wav2lip", folder, "trainer.max_steps=100000", "trainer.val_check_interval=3")
    process = script(*arguments)
    samples, deadline = folder / "samples", time.monotonic() + 120
    while not samples.is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err, err
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= 3
    assert "last.ckpt" in out + err, "it says how to go on"


@pytest.mark.slow
def test_two_processes_train_hq(tiny: Tiny, weights: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    extra = [
        "trainer.devices=2",
        f"model.expert_checkpoint={weights['cosine']}",
        "callbacks.sync_gate.start_step=1",
        "trainer.max_steps=4",
    ]
    out = finished(script(*tiny("wav2lip_hq", folder, *extra)))
    assert out.count("global batch: 2 windows x 2 processes") == 1, "rank 0 speaks for all"
    assert_run_folder(folder)
    assert len(logged(folder, "train/sync")) == 3
    for name in ("train/l1", "train/adversarial", "train/critic"):
        assert len(logged(folder, name)) == 4, name
    load_generator(folder / "checkpoints" / "last.ckpt")
    # A checkpoint of two processes goes on in one, as well as in two.
    extra = [*extra[1:], "trainer.max_steps=5", "ckpt_path=last"]
    finished(script(*tiny("wav2lip_hq", folder, *extra)))
    assert [int(row["step"]) for row in rows(folder) if row["train/l1"]] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_bad_setting_of_two_processes_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    process = script(*tiny("wav2lip", tmp_path / "run", "trainer.devices=2", "ckpt_path=gone.ckpt"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("lipsync: gone.ckpt: ")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_the_installed_command_and_loader_processes(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "a run, with = and 'quotes'; ö"
    arguments = tiny("wav2lip", folder, "data.num_workers=1")
    quiet = ("callbacks.progress=null", "trainer.enable_progress_bar=false")
    arguments = [arg for arg in arguments if arg not in quiet]
    done = subprocess.run(
        [sys.executable, "-m", "lipsync", "train", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert_run_folder(folder)


@pytest.mark.slow
def test_tensorboard_gets_numbers_and_pictures(tiny: Tiny, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    finished(script(*tiny("wav2lip", folder, "logger=tensorboard")))
    assert_run_folder(folder)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/l1")] == [0, 1]
    assert [event.value for event in events.Scalars("train/l1")] == pytest.approx(logged(folder, "train/l1"))
    (picture,) = events.Images("val/samples")
    assert (picture.step, picture.width, picture.height) == (2, 4 * 96, 2 * 96)


@pytest.mark.slow
def test_wandb_offline(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ["logger=wandb", "logger.wandb.offline=true"]
    finished(script(*tiny("wav2lip", folder, *settings), env={"WANDB_MODE": "offline"}))
    assert_run_folder(folder)
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb"))
    assert len(list(run.rglob("*.png"))) == 1, "the sample picture"


@pytest.mark.slow
def test_a_sweep_runs_every_value_and_makes_itself_heard(tiny: Tiny, tmp_path: Path) -> None:
    arguments = [arg for arg in tiny("syncnet", tmp_path) if not arg.startswith("hydra.run.dir=")]
    sweep = ["--multirun", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    finished(script(*sweep, *arguments, "seed=1,2"))
    losses = [logged(tmp_path / "sweep" / str(job), "train/sync") for job in (0, 1)]
    assert losses[0] != losses[1]
    process = script(*sweep, *arguments, "seed=1,2", "model.objective=nonsense")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "nonsense" in err.splitlines()[-1]
