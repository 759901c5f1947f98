"""When the doctor is called, what it says of the run, and that it leaves training as it is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader
from wrong_corpora import WRONG_DATA, Corpus

from lipsync.data.sync_pairs import SyncPairDataset
from lipsync.training.diagnosis import TrainingMeasurements
from lipsync.training.doctor import Finding, PlateauDoctor, chance_loss, diagnose
from lipsync.training.syncnet import SyncNetModule

FEW_CLIPS = {"clips": 4}
"""Too few for the lags, which take longest and say nothing of the run."""
SOUND = TrainingMeasurements(
    objective="contrastive",
    step=3000,
    looked_at=60,
    loss=4.1,
    chance_loss=4.1,
    non_finite=0,
    weight_change=0.02,
    learning_rate=5e-4,
    windows=256,
    clips=16,
    step_windows=256,
    near_negatives=0.0,
    similarity=(0.4, 0.3),
)


class Windows(pl.LightningDataModule):
    """A corpus in memory; the first two clips are validation."""

    def __init__(
        self, corpus: Corpus, *, draws: int = 4, objective: Any = "contrastive", **settings: Any
    ) -> None:
        super().__init__()
        settings = {"objective": objective, "windows_per_clip": 8, "augment": False, **settings}
        self.train_set = SyncPairDataset(corpus, True, **settings)
        self.val_set = SyncPairDataset(corpus[:2], False, max_validation_windows=12)
        self.val_splits, self.draws = ["val"], draws
        self.batch_size = draws * self.train_set.items_per_draw

    def train_dataloader(self) -> DataLoader[Any]:
        steps = range(self.draws * 2)
        samples = [self.train_set[draw] for draw in steps]
        return DataLoader(samples, batch_size=self.draws, collate_fn=self.train_set.collate)  # type: ignore[arg-type]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(self.val_set, batch_size=2, collate_fn=self.val_set.collate)]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.train_set.assemble(batch)


Train = Callable[..., tuple[PlateauDoctor, SyncNetModule, dict[str, Any]]]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """A run of a few steps with the doctor at hand: the doctor, the module, and what it wrote."""

    def run(
        data: Windows,
        *,
        lr: float = 2e-4,
        steps: int = 2,
        doctor: dict[str, Any] | None = None,
        **settings: Any,
    ) -> tuple[PlateauDoctor, SyncNetModule, dict[str, Any]]:
        torch.manual_seed(0)
        module = SyncNetModule(partial(torch.optim.Adam, lr=lr), width=0.125, **settings)
        # At chance or not, after so few steps nothing depends on it.
        callback = PlateauDoctor(
            str(tmp_path),
            **{"patience": 2, "min_steps": 1, "margin": 0.5, "every_n_steps": 1, **(doctor or {})},
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            val_check_interval=1,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, datamodule=data)
        path = tmp_path / "doctor.json"
        return callback, module, json.loads(path.read_text()) if path.exists() else {}

    return run


def causes(written: dict[str, Any]) -> list[str]:
    return [finding["cause"] for finding in written["findings"]]


def test_a_sound_run_is_not_accused_but_warned_of(corpus: Corpus, train: Train) -> None:
    with pytest.warns(UserWarning, match="neither data nor settings at fault"):
        doctor, _, written = train(Windows(corpus, draws=5))
    assert written["findings"] == []
    assert doctor.reported
    assert written["step"] == 2
    assert len(written["pair_accuracy"]) == 2
    run = written["training"]
    assert (run["looked_at"], run["windows"], run["step_windows"]) == (2, 40, 40)
    assert 1e-3 < run["weight_change"] < 0.1
    assert run["loss"] == pytest.approx(run["chance_loss"], rel=0.2)
    assert run["near_negatives"] == 0
    assert all(-1 <= cosine <= 1 for cosine in run["similarity"])
    assert len(written["data"]["speech"]["clip_offsets"]) == len(corpus)


@pytest.mark.parametrize(
    "kind",
    [
        "random offsets",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("silent", "constant offset", "30 fps", "jittering", "scattered", "24 fps", "dubbed")
        ),
    ],
)
def test_a_run_on_a_wrong_corpus_names_its_cause_first(
    kind: str,
    corpus: Corpus,
    train: Train,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil, cause = WRONG_DATA[kind]
    with caplog.at_level("INFO"):
        _, _, written = train(Windows(spoil(corpus), draws=5))
    assert causes(written)[0] == cause
    assert f"1. {cause}" in caplog.text + capsys.readouterr().err
    if kind == "random offsets":
        histogram = written["data"]["speech"]["offset_histogram"]
        assert sum(count for lag, count in histogram.items() if abs(int(lag)) >= 3) >= 3


@pytest.mark.parametrize(
    ("lr", "cause"),
    [
        (1e-8, "learning rate too low"),
        (0.5, "learning rate too high"),
        pytest.param(30.0, "learning rate too high", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_learning_rate(lr: float, cause: str, corpus: Corpus, train: Train) -> None:
    _, _, written = train(Windows(corpus, draws=5), lr=lr, doctor=FEW_CLIPS)
    assert causes(written)[0] == cause


def test_a_loss_that_is_no_number(corpus: Corpus, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        SyncNetModule, "objective_loss", lambda self, audio, face, batch: (audio * face).sum() * math.nan
    )
    _, _, written = train(Windows(corpus, draws=5), doctor=FEW_CLIPS)
    finding = written["findings"][0]
    assert (finding["cause"], finding["strength"]) == ("learning rate too high", 1.0)
    assert "not a finite number in" in finding["evidence"]


@pytest.mark.parametrize(("objective", "draws"), [("contrastive", 1), ("bce", 4)])
def test_a_small_batch(objective: str, draws: int, corpus: Corpus, train: Train) -> None:
    _, _, written = train(
        Windows(corpus, draws=draws, objective=objective), objective=objective, doctor=FEW_CLIPS
    )
    assert causes(written) == ["batch size"]


def test_label_noise_by_near_negatives(corpus: Corpus, train: Train) -> None:
    data = Windows(corpus, draws=33, objective="bce", min_negative_gap=1)
    _, _, written = train(data, objective="bce", doctor=FEW_CLIPS)
    assert causes(written) == ["label noise"]
    assert "min_negative_gap=5" in written["findings"][0]["advice"]
    _, _, written = train(Windows(corpus, draws=5), min_gap=1, doctor=FEW_CLIPS)
    assert causes(written) == ["label noise"]
    assert "model.min_gap=3" in written["findings"][0]["advice"]


@pytest.mark.slow
def test_the_doctor_changes_nothing(corpus: Corpus, train: Train) -> None:
    spoilt = WRONG_DATA["silent"][0](corpus)
    _, looked_at, written = train(Windows(spoilt, draws=2), doctor={"every_n_steps": 1})
    assert written
    (Path(looked_at.trainer.default_root_dir) / "doctor.json").unlink()
    _, alone, nothing = train(Windows(spoilt, draws=2), doctor={"min_steps": 10**6})
    assert not nothing
    for one, two in zip(looked_at.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, two)


class Run:
    """As much of a trainer as decides when the doctor is called."""

    def __init__(self, tmp_path: Path, splits: tuple[str, ...] = ("val",), **settings: Any) -> None:
        self.called: list[int] = []
        self.doctor = PlateauDoctor(
            str(tmp_path), **{"patience": 3, "min_steps": 100, "margin": 0.03, **settings}
        )
        self.doctor._report = lambda trainer, module: self.called.append(trainer.global_step)  # type: ignore[method-assign]
        self.module: nn.Module = SyncNetModule(partial(torch.optim.Adam, lr=1e-3), width=0.125)
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            sanity_checking=False,
            callback_metrics={},
            datamodule=SimpleNamespace(val_splits=list(splits)),
        )

    def validate(self, step: int, **scores: float) -> None:
        self.trainer.global_step = step
        self.trainer.callback_metrics = {
            f"{split}/pair_accuracy": torch.tensor(score) for split, score in scores.items()
        }
        self.doctor.on_validation_end(self.trainer, self.module)


def test_called_after_patience_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(100, 1000, 100):
        run.validate(step, val=0.51)
    run.doctor.on_train_end(run.trainer, run.module)
    assert run.called == [300]


def test_an_expert_that_learns_is_left_alone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step, score in enumerate((0.5, 0.5, 0.54, 0.5, 0.5, 0.6, 0.7), start=1):
        run.validate(100 * step, val=score)
    run.doctor.on_train_end(run.trainer, run.module)
    assert run.called == []


def test_not_before_min_steps_nor_in_the_sanity_check(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (10, 20, 30, 40):
        run.validate(step, val=0.5)
    assert run.called == []
    run.validate(120, val=0.5)
    assert run.called == [120]
    fresh = Run(tmp_path)
    fresh.trainer.sanity_checking = True
    for step in (100, 200, 300, 400):
        fresh.validate(step, val=0.5)
    fresh.doctor.on_train_end(fresh.trainer, fresh.module)
    assert fresh.called == []


def test_the_end_of_training_needs_no_patience(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.validate(100, val=0.5)
    assert run.called == []
    run.doctor.on_train_end(run.trainer, run.module)
    assert run.called == [100]


def test_one_list_above_chance_is_enough_to_go_on(tmp_path: Path) -> None:
    run = Run(tmp_path, splits=("val", "seen"))
    for step in range(100, 600, 100):
        run.validate(step, val=0.5, seen=0.7)
    assert run.called == []
    for step in range(600, 900, 100):
        run.validate(step, val=0.5, seen=0.49)
    assert run.called == [800]


def test_a_score_that_is_no_number_is_no_better_than_chance(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(100, 400, 100):
        run.validate(step, val=math.nan)
    assert run.called == [300]


def test_other_modules_are_none_of_its_business(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.module = nn.Linear(1, 1)
    for step in range(100, 600, 100):
        run.validate(step, val=0.5)
        run.doctor.on_train_batch_start(run.trainer, run.module, None, 0)
        run.doctor.on_train_batch_end(run.trainer, run.module, None, None, 0)
        run.doctor.on_validation_batch_end(run.trainer, run.module, None, None, 0)
    run.doctor.on_train_end(run.trainer, run.module)
    assert run.called == []
    assert run.doctor.scores == []


def test_a_resumed_doctor_goes_on_counting_and_is_called_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.validate(100, val=0.5)
    run.validate(200, val=0.5)
    run.doctor.watch.weight_change = 0.03
    resumed = Run(tmp_path)
    resumed.doctor.load_state_dict(run.doctor.state_dict())
    assert resumed.doctor.watch.weight_change == 0.03
    resumed.validate(300, val=0.5)
    assert resumed.called == [300]
    again = Run(tmp_path)
    again.doctor.load_state_dict(resumed.doctor.state_dict())
    again.validate(400, val=0.5)
    assert again.called == []


def test_chance_of_both_objectives(corpus: Corpus) -> None:
    data = Windows(corpus, draws=3)
    batch = data.train_set.assemble(data.train_set.collate([data.train_set[draw] for draw in range(3)]))
    bce, contrast = (
        SyncNetModule(torch.optim.Adam, objective=name, width=0.125) for name in ("bce", "contrastive")
    )
    assert chance_loss(bce, batch) == pytest.approx(math.log(2))
    # 24 windows, 8 of each clip, those nearer than three frames left out.
    assert math.log(8 / 2) / 2 < chance_loss(contrast, batch) < (math.log(24) + math.log(8)) / 2 + 1e-6
    assert chance_loss(contrast, batch, world=4) == pytest.approx(chance_loss(contrast, batch) + math.log(2))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({}, None),
        ({"weight_change": 5e-5}, "learning rate too low"),
        ({"weight_change": 0.5}, "learning rate too high"),
        ({"weight_change": math.inf}, "learning rate too high"),
        ({"loss": 7.0}, "learning rate too high"),
        ({"non_finite": 2}, "learning rate too high"),
        ({"loss": 1.5}, "too little variety"),
        ({"near_negatives": 0.07}, "label noise"),
        ({"near_negatives": None}, None),
        ({"windows": 16, "clips": 1}, "batch size"),
        ({"windows": 256, "clips": 1}, "batch size"),
        ({"windows": 8, "clips": 2, "step_windows": 512}, "batch size"),
        ({"objective": "bce", "windows": 8, "clips": 8, "step_windows": 8}, "batch size"),
        ({"objective": "bce", "windows": 8, "clips": 8, "step_windows": 64}, None),
        ({"looked_at": 0, "weight_change": 0.0, "windows": 0, "clips": 0, "loss": math.nan}, None),
    ],
)
def test_rules_of_the_run(change: dict[str, Any], cause: str | None) -> None:
    findings = diagnose(None, replace(SOUND, **change))
    assert [finding.cause for finding in findings] == ([cause] if cause else [])


def test_the_strongest_comes_first() -> None:
    findings = diagnose(None, replace(SOUND, near_negatives=0.03, non_finite=5))
    assert [finding.cause for finding in findings] == ["learning rate too high", "label noise"]
    assert isinstance(findings[0], Finding)
    assert findings[0].strength > findings[1].strength
