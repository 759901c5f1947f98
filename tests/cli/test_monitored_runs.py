"""``train.py`` with best checkpoint, early stopping, videos and loggers."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

Tiny = Callable[..., list[str]]


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.parametrize(("model", "metric"), [("syncnet", "pair_accuracy"), ("wav2lip", "l1_lower")])
def test_every_model_keeps_its_best_and_logs_its_learning_rate(
    model: str, metric: str, command: Any, tiny: Tiny, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = command("train", *tiny(model, folder, "trainer.val_check_interval=1"))
    assert done.code == 0, done.err
    scores = logged(folder, f"val/{metric}")
    best = min(scores) if metric == "l1_lower" else max(scores)
    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    states = [state for state in saved["callbacks"].values() if state.get("monitor") == f"val/{metric}"]
    assert [state["best"] for state in states] == pytest.approx([best])
    assert saved["global_step"] == scores.index(best) + 1
    assert len(logged(folder, "train/lr")) == 2
    videos = sorted(path.name for path in folder.glob("samples/*.mp4"))
    steps = ("000000001", "000000002") if model == "wav2lip" else ()
    assert videos == [f"step{step}_s{clip % 2}_c{clip}.mp4" for step in steps for clip in (4, 5)]


def test_early_stopping_is_a_choice_of_callbacks(command: Any, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = [
        *("callbacks=early_stopping", "callbacks.early_stopping.min_delta=100"),
        *(
            "callbacks.early_stopping.patience=1",
            "callbacks.best.monitor=val/sync",
            "callbacks.best.mode=min",
        ),
        *("trainer.max_steps=9", "trainer.val_check_interval=1"),
    ]
    done = command("train", *tiny("syncnet", folder, *settings))
    assert done.code == 0, done.err
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    config = OmegaConf.load(folder / "config.yaml").callbacks
    assert config.early_stopping.monitor == config.best.monitor == "val/sync"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint:UserWarning")
def test_a_run_resumed_from_its_best_equals_one_that_went_on(
    command: Any, tiny: Tiny, weights: dict[str, Path], tmp_path: Path
) -> None:
    gate = ["callbacks.sync_gate.threshold=1e9", f"model.expert_checkpoint={weights['cosine']}"]
    gate += ["callbacks.sync_gate.ramp_steps=8", "callbacks.sync_gate.ramp=cosine"]
    steps = {"short": 3, "straight": 4, "resumed": 4}
    for name, last in steps.items():
        best = tmp_path / "short" / "checkpoints" / "best.ckpt"
        extra = [f"trainer.max_steps={last}"] + [f"ckpt_path={best}"] * (name == "resumed")
        done = command("train", *tiny("wav2lip", tmp_path / name, *gate, *extra))
        assert done.code == 0, done.err
    for metric, count in (("train/l1", 2), ("train/sync", 2), ("val/l1", 1), ("val/sync", 1)):
        straight, resumed = (logged(tmp_path / name, metric) for name in ("straight", "resumed"))
        assert len(resumed) == count, metric
        assert resumed == straight[-count:], metric


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (("callbacks.best.monitor=val/psnr", "callbacks.best.mode=max"), "val/psnr: .* it logs val/l1, val"),
        (
            ("callbacks.best.monitor=test/l1", "callbacks.best.mode=min"),
            r"test/l1: .*splits \(val\)",
        ),
        (("callbacks.best.monitor=val/l1",), "give a monitor with mode"),
        (("callbacks=early_stopping", "callbacks.best=null"), "callbacks.best.monitor"),
        (("callbacks.sample_video.split=gone",), "split=gone: "),
        (("callbacks.sample_video.clips=0",), "clips=0: "),
        (("callbacks.sync_gate.ramp=steep",), "ramp=steep: "),
    ],
)
def test_a_bad_setting_is_one_line(
    setting: tuple[str, ...], words: str, command: Any, tiny: Tiny, tmp_path: Path
) -> None:
    done = command("train", *tiny("wav2lip", tmp_path / "run", *setting))
    assert re.search(words, done.line()), done.err


def test_without_callbacks_and_loggers(command: Any, tiny: Tiny, tmp_path: Path) -> None:
    arguments = tiny("wav2lip", tmp_path / "bare", "callbacks=none")
    done = command("train", *arguments)
    assert done.code == 0, done.err
    assert not (tmp_path / "bare" / "checkpoints" / "best.ckpt").exists()
    assert not (tmp_path / "bare" / "samples").exists()
    assert logged(tmp_path / "bare", "train/l1")
    assert not logged(tmp_path / "bare", "train/lr")
    done = command("train", *tiny("wav2lip", tmp_path / "unlogged", "logger.csv=null"))
    assert done.code == 0, done.err
    assert (tmp_path / "unlogged" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
def test_tensorboard_gets_scalars_pictures_videos_and_sound(command: Any, tiny: Tiny, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    done = command("train", *tiny("wav2lip", folder, "logger=tensorboard", "callbacks.sample_video.clips=1"))
    assert done.code == 0, done.err
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = events.Tags()
    assert {"train/l1", "train/lr", "val/l1"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"val/samples", "val/video/s0/c4"}
    assert tags["audio"] == ["val/sound/s0/c4"]
    (gif,) = events.Images("val/video/s0/c4")
    assert gif.encoded_image_string.startswith(b"GIF89a")
    assert (gif.step, events.Audio("val/sound/s0/c4")[0].length_frames) == (2, 40 * 640)


@pytest.mark.slow
def test_wandb_offline_gets_the_videos(command: Any, tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    done = command("train", *tiny("wav2lip", folder, "logger=wandb", "logger.wandb.offline=true"))
    import wandb

    wandb.finish()
    assert done.code == 0, done.err
    (run,) = (folder / "wandb").glob("offline-run-*")
    media = run / "files" / "media"
    originals = sorted(path.read_bytes() for path in (folder / "samples").glob("*.mp4"))
    assert sorted(path.read_bytes() for path in media.rglob("*.mp4")) == originals
    assert len(originals) == 2
    assert len(list(media.rglob("*.png"))) == 1, "the sample picture"
