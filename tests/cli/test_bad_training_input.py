"""Bad input of train and evaluate: one line on stderr, exit code 2."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_files import (
    WEIGHTS,
    assert_nothing_ran,
    bad_weights,
    media,
    video,
)

__all__ = ["bad_weights", "media"]  # fixtures


# train


@pytest.fixture
def train(command: Any, tiny: Any, tmp_path: Path) -> Callable[..., Any]:
    """A training run that must be refused; nothing may look like a result."""

    def call(*overrides: object, model: str = "wav2lip") -> str:
        done = command("train", *tiny(model, tmp_path / "run", *map(str, overrides)))
        line: str = done.line()
        assert not list(tmp_path.rglob("*.ckpt"))
        assert not list(tmp_path.rglob("metrics.csv"))
        return line

    return call


def test_train_with_bad_data(train: Any, corpus: Path, tmp_path: Path) -> None:
    assert "gone" in train("data.root=gone")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "preprocess" in train(f"data.root={empty}")
    assert str(corpus / "filelists" / "dev.txt") in train("data.val_splits=[dev]")
    lists = empty / "filelists"
    lists.mkdir()
    (lists / "train.txt").write_text("s0/gone\n")
    assert "s0/gone" in train(f"data.root={empty}").replace(os.sep, "/")
    (lists / "train.txt").write_text("\n")
    assert "train.txt" in train(f"data.root={empty}")
    (lists / "train.txt").write_text("../../etc\n")
    assert "../../etc" in train(f"data.root={empty}")
    (empty / "s0" / "bare").mkdir(parents=True)
    (lists / "train.txt").write_text("s0/bare\n")
    assert "bare" in train(f"data.root={empty}")


@pytest.mark.parametrize("kind", [*WEIGHTS, "generator"])
def test_train_with_a_bad_expert(
    kind: str, train: Any, bad_weights: Mapping[str, Path], weights: Mapping[str, Path]
) -> None:
    path = {**bad_weights, **weights}[kind]
    assert str(path) in train(f"model.expert_checkpoint={path}")
    assert_nothing_ran(bad_weights)


@pytest.mark.parametrize("kind", [*WEIGHTS, "generator"])
def test_train_with_a_bad_checkpoint_to_resume(
    kind: str, train: Any, bad_weights: Mapping[str, Path], weights: Mapping[str, Path]
) -> None:
    path = {**bad_weights, **weights}[kind]
    line = train(f"ckpt_path={path}")
    assert str(path) in line
    assert_nothing_ran(bad_weights)


def test_train_resuming_another_model(command: Any, tiny: Any, train: Any, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert command("train", *tiny("wav2lip", first)).code == 0
    other = (first / "checkpoints" / "last.ckpt").rename(tmp_path / "other.bin")
    for path in (*first.rglob("*.csv"), *first.rglob("*.ckpt")):
        path.unlink()
    for model in ("syncnet", "wav2lip_hq"):
        assert str(other) in train(f"ckpt_path={other}", model=model)
    assert str(other) in train(f"ckpt_path={other}", "model.generator.width=0.25")


@pytest.mark.parametrize(
    "override",
    [
        "model=nonesuch",
        "data=nonesuch",
        "logger=nonesuch",
        "experiment=nonesuch",
        "modle=wav2lip",
        "model.generator.widht=1",
        "data.batch_size=0",
        "data.batch_size=many",
        "data.num_workers=-1",
        "trainer.val_check_interval=0",
        "data.root=null",
        "trainer.max_steps=many",
        "trainer.max_steps=-5",
        "trainer.precision=13",
        "trainer.accelerator=nonesuch",
        "trainer.devices=0",
        "trainer.nonesuch=1",
        "seed=-1",
        "seed=x",
        "model.expert_mode=half",
        "model.optimizer.lr=fast",
        "model.optimizer.lr=-1",
        "ckpt_path=last",
    ],
)
def test_train_with_bad_settings(override: str, train: Any) -> None:
    assert train(override)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_train_on_a_gpu_that_is_not_there(train: Any) -> None:
    assert "gpu" in train("trainer=gpu").lower()


def test_train_the_expert_with_bad_settings(train: Any) -> None:
    assert "nonsense" in train("model.objective=nonsense", model="syncnet")
    assert "data.batch_size=7" in train("data.batch_size=7", model="syncnet")


def test_train_into_a_file(train: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert str(tmp_path / "mine") in train(f"hydra.run.dir={tmp_path / 'mine' / 'run'}")
    assert (tmp_path / "mine").read_text() == "mine"


# evaluate


@pytest.fixture
def evaluate(command: Any, media: Mapping[str, Path], weights: Mapping[str, Path]) -> Callable[..., Any]:
    def call(**changes: object) -> Any:
        given: dict[str, object] = {
            "videos": media["good"],
            "judge": weights["cosine"],
            "output": "out",
            "protocol": "lrs",
            "detector": "annotated",
            "device": "cpu",
        }
        return command("evaluate", *(f"{key}={value}" for key, value in {**given, **changes}.items()))

    return call


@pytest.mark.parametrize("kind", ["empty", "noise", "cut off", "no sound", "no face"])
def test_evaluate_with_a_bad_video(kind: str, evaluate: Any, media: Mapping[str, Path]) -> None:
    """It is reported, in the tables too, and the exit code says that nothing was scored."""
    protocol = "wild" if kind == "no face" else "lrs"
    line = evaluate(videos=media[kind], protocol=protocol).line()
    assert media[kind].name in line
    assert json.loads(Path("out/summary.json").read_text())["n_failed"] == 1
    assert not list(Path("out").glob("*.part"))


def test_evaluate_with_short_sound(evaluate: Any, tmp_path: Path) -> None:
    line = evaluate(videos=video(tmp_path / "short.mp4", frames=4, seconds=0.15)).line()
    assert "short.mp4" in line


@pytest.mark.parametrize("kind", [*WEIGHTS, "generator"])
def test_evaluate_with_a_bad_judge(
    kind: str, evaluate: Any, bad_weights: Mapping[str, Path], weights: Mapping[str, Path]
) -> None:
    path = {**bad_weights, **weights}[kind]
    assert str(path) in evaluate(judge=path).line()
    assert not Path("out/summary.json").exists()
    assert_nothing_ran(bad_weights)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("videos", "gone*.mp4"),
        ("references", "gone"),
        ("protocol", "nonesuch"),
        ("detector", "nonesuch"),
        ("device", "nonesuch"),
        ("vidoes", "x"),
    ],
)
def test_evaluate_with_bad_settings(setting: str, value: str, evaluate: Any) -> None:
    evaluate(**{setting: value}).line()
    assert not Path("out/summary.json").exists()


def test_evaluate_into_a_file(evaluate: Any) -> None:
    Path("mine").write_text("mine")
    assert "mine" in evaluate(output="mine").line()
    assert Path("mine").read_text() == "mine"


def test_evaluate_any_name(evaluate: Any, media: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "it's; a=b, [c] ö"
    folder.mkdir()
    for name in ('say "x".mp4', "видео; rm.mp4"):
        (folder / name).write_bytes(media["good"].read_bytes())
        annotation = media["good"].with_suffix(".faces.json").read_text()
        (folder / name).with_suffix(".faces.json").write_text(annotation)
    done = evaluate(videos=folder, output=tmp_path / "re, port=1")
    assert (done.code, done.err) == (0, "")
    summary = json.loads((tmp_path / "re, port=1" / "summary.json").read_text())
    assert (summary["n_videos"], summary["n_failed"]) == (2, 0)
    assert not list(Path.cwd().iterdir()), "no log or run folder"
