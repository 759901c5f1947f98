"""What the pixels say of generated frames, and the callback that sees expert and judge part."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lipsync.data.generation import GenerationBatch
from lipsync.errors import ConfigError
from lipsync.training.judging import (
    GRID,
    JudgeWatch,
    Reading,
    grid_energy,
    laplacian_variance,
    picture_scores,
    read,
)


def smooth(frames: Tensor) -> Tensor:
    """Noise without anything finer than a few pixels, like a face."""
    kernel = (1, 9, 9)
    return functional.avg_pool3d(frames, kernel, stride=1, padding=(0, 4, 4), count_include_pad=False)


@pytest.fixture
def batch(generation_batch: GenerationBatch) -> GenerationBatch:
    return generation_batch._replace(target=smooth(generation_batch.target))


def test_the_truth_scores_one(batch: GenerationBatch) -> None:
    scores = {key: float(value) for key, value in picture_scores(batch, batch.target.clone()).items()}
    copied = functional.l1_loss(batch.faces[:, 3:, :, 48:], batch.target[..., 48:, :])
    assert scores == {
        "l1": 0,
        "l1_lower": 0,
        "l1_copy": pytest.approx(float(copied)),
        "sharpness": 1,
        "pattern": 0,
    }


def test_blur_and_patterns_are_told_apart(batch: GenerationBatch) -> None:
    blurred = picture_scores(batch, smooth(batch.target))
    assert blurred["sharpness"] < 0.5
    assert blurred["pattern"] < -3
    row, column = torch.arange(96)[:, None], torch.arange(96)
    for name, pattern in (
        ("checkerboard", (-1.0) ** (row + column)),
        ("columns", (-1.0) ** column.expand(96, 96)),
        ("rows", (-1.0) ** row.expand(96, 96)),
        ("period 4", (-1.0) ** (row // 2 + column // 2)),
    ):
        for frames in (batch.target, smooth(batch.target)):
            scores = picture_scores(batch, frames + 0.01 * pattern)
            assert scores["pattern"] > 20, f"{name}, blurred or not"
        assert scores["l1_lower"] < 0.05, f"{name}: L1 hardly sees it"
    sharpened = picture_scores(batch, 2 * batch.target - smooth(batch.target))
    assert sharpened["sharpness"] > 2
    assert sharpened["pattern"] < 10
    weaker = picture_scores(batch, 0.5 * batch.target + 0.1)
    assert weaker["sharpness"] == pytest.approx(0.25, rel=1e-3)
    assert weaker["pattern"] == pytest.approx(-6.02, abs=0.01)


def test_only_the_lower_half_counts(batch: GenerationBatch) -> None:
    fake = batch.target.clone()
    fake[..., :48, :] = torch.rand_like(fake[..., :48, :])
    scores = picture_scores(batch, fake)
    assert (float(scores["sharpness"]), float(scores["pattern"]), float(scores["l1_lower"])) == (1, 0, 0)
    assert scores["l1"] > 0


def test_flat_pictures_divide_by_nothing() -> None:
    flat = torch.zeros(2, 3, 5, 96, 96)
    batch = GenerationBatch(torch.zeros(2, 6, 5, 96, 96), flat, *torch.zeros(3, 1))
    assert all(torch.isfinite(value) for value in picture_scores(batch, torch.rand_like(flat)).values())


def test_measures_at_known_points() -> None:
    checkerboard = ((-1.0) ** (torch.arange(16)[:, None] + torch.arange(32))).expand(1, 1, 16, 32)
    assert laplacian_variance(checkerboard).item() == pytest.approx(64)  # -4 - 4 = -8 and 8
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 16, 32)
    assert laplacian_variance(ramp).item() == pytest.approx(0, abs=1e-9)
    energy = grid_energy(checkerboard)
    assert int(energy.argmax()) == GRID.index((2, 2))
    assert energy.max() > 1e6 * energy.sort().values[-2]
    columns = ((torch.arange(32) // 2) % 2).float().expand(1, 1, 16, 32)  # two dark, two light
    assert int(grid_energy(columns).argmax()) == GRID.index((0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert laplacian_variance(checkerboard).item() == pytest.approx(64)


class Run:
    """As much of a trainer and a module as the callback looks at."""

    def __init__(self, **settings: Any) -> None:
        self.watch = JudgeWatch(**settings)
        self.module: Any = SimpleNamespace(expert=object(), sync_weight=torch.zeros(()), sync_factor=1.0)
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            sanity_checking=False,
            callback_metrics={},
            datamodule=SimpleNamespace(val_splits=["val"]),
        )

    def validate(self, *, weight: float = 0.03, **metrics: float) -> list[str]:
        """Warnings of one validation; every metric but those given is that of a healthy run."""
        self.trainer.global_step += 100
        self.module.sync_weight.fill_(weight)
        values = {"own": 0.5, "judge_own": 0.35, "own_real": 1.0, "judge_own_real": 0.7, "l1_lower": 0.03}
        self.trainer.callback_metrics = {
            f"val/{name}": torch.tensor(value) for name, value in (values | metrics).items()
        }
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.watch.on_validation_end(self.trainer, self.module)
        return [str(item.message) for item in caught]


def test_a_healthy_run_is_not_disturbed() -> None:
    """A weaker judge rises to its own ceiling; L1 wobbles; the copying phase is far below chance."""
    run = Run()
    history = [
        (0.0, 0.04, 0.10, 0.040),
        (0.0, 0.32, 0.25, 0.028),
        (0.01, 0.50, 0.38, 0.029),
        (0.03, 0.71, 0.52, 0.031),
        (0.03, 0.90, 0.62, 0.030),
        (0.03, 0.97, 0.60, 0.027),
        (0.03, 0.98, 0.69, 0.026),
    ]
    for weight, own, judge, l1 in history:
        assert run.validate(weight=weight, own=own, judge_own=judge, l1_lower=l1) == []
    assert run.watch.alarms == []


def test_the_expert_alone_is_pleased() -> None:
    run = Run()
    assert run.validate(weight=0, own=0.32, judge_own=0.22) == []
    assert run.validate(own=0.60, judge_own=0.35) == []
    (message,) = run.validate(own=0.94, judge_own=0.42)
    assert "\n" not in message
    for part in ("step 300", "val", "0.94", "0.60", "0.32", "0.31", "fooling"):
        assert part in message, part
    assert run.watch.alarms == ["gap"]


def test_a_gap_that_was_there_before_is_no_alarm() -> None:
    run = Run()
    assert run.validate(weight=0, own=0.60, judge_own=0.21) == []  # a judge that reads nothing here
    assert run.validate(own=0.64, judge_own=0.22) == []
    (message,) = run.validate(own=0.90, judge_own=0.22)
    assert "0.90" in message


def test_the_judge_falls_while_the_expert_rises() -> None:
    run = Run(margin=9)
    run.validate(weight=0, own=0.3, judge_own=0.21)
    assert run.validate(own=0.5, judge_own=0.49) == []
    assert run.validate(own=0.6, judge_own=0.44) == []
    (message,) = run.validate(own=0.7, judge_own=0.35)
    assert "fell from 0.70 at step 200 to 0.50" in message
    assert "from 0.50 to 0.70" in message
    run = Run(margin=9)
    run.validate(weight=0, own=0.3, judge_own=0.21)
    run.validate(own=0.5, judge_own=0.49)
    assert run.validate(own=0.4, judge_own=0.35) == [], "both fall: a bad moment, nobody is fooled"


def test_l1_gets_worse_than_before_the_gate() -> None:
    """The measured case: .0253 before, .0498 after; no judge is needed to see it."""
    run = Run()
    nothing = {"judge_own": float("nan"), "judge_own_real": float("nan")}
    assert run.validate(weight=0, own=0.04, l1_lower=0.0318, **nothing) == []
    assert run.validate(weight=0, own=0.32, l1_lower=0.0253, **nothing) == []
    assert run.validate(own=0.5, l1_lower=0.0285, **nothing) == []
    (message,) = run.validate(own=0.71, l1_lower=0.0498, **nothing)
    assert "0.0498" in message
    assert "0.0253" in message
    assert run.watch.alarms == ["l1"]


def test_one_warning_for_a_change_of_state() -> None:
    run = Run()
    run.validate(weight=0, l1_lower=0.03)
    counts = [len(run.validate(l1_lower=l1)) for l1 in (0.04, 0.05, 0.04, 0.03, 0.03, 0.04)]
    assert counts == [1, 0, 0, 0, 0, 1]
    assert len(run.validate(l1_lower=0.04, own=0.95, judge_own=0.3)) == 1, "another alarm joins"
    assert run.watch.alarms == ["gap", "l1"]


def test_the_last_validation_before_the_gate_counts() -> None:
    run = Run()
    run.validate(weight=0, l1_lower=0.02)
    run.validate(weight=0, l1_lower=0.04)
    assert run.validate(l1_lower=0.044) == []


def test_without_a_quiet_phase_the_first_validation_is_the_measure() -> None:
    run = Run()
    assert run.validate(l1_lower=0.03) == []
    assert len(run.validate(l1_lower=0.04)) == 1


def test_silent_without_an_expert_and_in_the_sanity_check() -> None:
    run = Run()
    run.module.expert = None
    assert run.validate(weight=0) == run.validate(l1_lower=9.0) == []
    assert run.watch.before is None
    run = Run()
    run.trainer.sanity_checking = True
    run.validate(weight=0)
    assert run.watch.before is None
    run.module = SimpleNamespace(expert=object())  # the module that trains an expert
    run.watch.on_train_start(run.trainer, run.module)
    run.trainer.sanity_checking = False
    run.watch.on_validation_end(run.trainer, run.module)
    assert run.watch.before is None


def test_lower_halves_the_weight_while_the_alarm_stands() -> None:
    run = Run(action="lower")
    run.validate(weight=0)
    run.validate()
    assert run.module.sync_factor == 1
    factors = []
    for l1 in (0.04, 0.04, 0.03):
        run.validate(l1_lower=l1)
        factors.append(run.module.sync_factor)
    assert factors == [0.5, 0.25, 0.25]
    warned = Run()
    warned.validate(weight=0)
    warned.validate(l1_lower=0.04)
    assert warned.module.sync_factor == 1, "warning is all it does by default"


def test_a_resumed_watch_goes_on() -> None:
    run = Run(action="lower")
    run.validate(weight=0)
    run.validate(own=0.6, judge_own=0.5)
    run.validate(l1_lower=0.04)
    resumed = Run(action="lower")
    resumed.watch.load_state_dict(run.watch.state_dict())
    resumed.trainer.global_step = run.trainer.global_step
    assert resumed.watch.before == run.watch.before == Reading(100, 0.5, 0.5, pytest.approx(0.03))
    assert resumed.watch.best == run.watch.best
    resumed.watch.on_train_start(resumed.trainer, resumed.module)
    assert resumed.module.sync_factor == 0.5
    assert resumed.validate(l1_lower=0.04) == run.validate(l1_lower=0.04) == [], "known already"
    assert resumed.watch.state_dict() == run.watch.state_dict()


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose warn or lower"):
        JudgeWatch(action="stop")  # type: ignore[arg-type]


def test_a_reading_is_in_shares_of_the_ceiling() -> None:
    logged = {"own": 0.6, "own_real": 0.8, "l1_lower": 0.5}
    metrics = {f"val/{name}": torch.tensor(value) for name, value in logged.items()}
    reading = read(7, "val", metrics)
    assert (reading.step, reading.own, reading.l1) == (7, pytest.approx(0.75), 0.5)
    assert reading.judge != reading.judge, "nan: there is no judge"
    assert not reading.gap > -9
