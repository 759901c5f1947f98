"""The best checkpoint, early stopping and the learning rate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lipsync.data.generation import GenerationBatch
from lipsync.errors import ConfigError
from lipsync.training.monitoring import BestCheckpoint, EarlyStop, LearningRate, MetricWatch


class Run:
    """As much of a trainer as the callbacks look at; ``saved`` holds the steps at which it saved."""

    def __init__(self, *splits: str, expert: bool = False) -> None:
        self.module: Any = SimpleNamespace(**{"expert" if expert else "generator": object()})
        self.saved: list[tuple[Path, int]] = []
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            sanity_checking=False,
            should_stop=False,
            callback_metrics={},
            datamodule=SimpleNamespace(val_splits=list(splits) or ["val"]),
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all=True: decision),  # noqa: A006 (Lightning's name)
            save_checkpoint=lambda path: self.saved.append((path, self.trainer.global_step)),
        )

    def ready(self, watch: MetricWatch) -> Any:
        watch.setup(self.trainer, self.module, "fit")
        return watch

    def validate(self, watch: Any, step: int, **metrics: float) -> None:
        self.trainer.global_step = step
        self.trainer.callback_metrics = {
            f"{self.trainer.datamodule.val_splits[0]}/{name}": torch.tensor(value)
            for name, value in metrics.items()
        }
        watch.on_validation_end(self.trainer, self.module)


def test_the_best_is_saved_and_nothing_else(tmp_path: Path) -> None:
    run = Run()
    best = run.ready(BestCheckpoint(str(tmp_path)))
    for step, l1 in enumerate((float("nan"), 0.5, 0.6, 0.5, 0.4, float("nan"), 0.45)):
        run.validate(best, step, l1_lower=l1)
    assert run.saved == [(tmp_path / "best.ckpt", 1), (tmp_path / "best.ckpt", 4)]
    assert best.best == pytest.approx(0.4)


def test_experts_are_ranked_by_accuracy_on_the_first_list(tmp_path: Path) -> None:
    run = Run("seen", "val", expert=True)
    best = run.ready(BestCheckpoint(str(tmp_path)))
    assert (best.monitor, best.mode) == ("seen/pair_accuracy", "max")
    for step, accuracy in enumerate((0.5, 0.7, 0.6, 0.9)):
        run.validate(best, step, pair_accuracy=accuracy, sync=0.0)
    assert [step for _, step in run.saved] == [0, 1, 3]


def test_a_resumed_run_compares_with_the_best_of_all(tmp_path: Path) -> None:
    run = Run()
    first = run.ready(BestCheckpoint(str(tmp_path), "val/own", "max"))
    run.validate(first, 1, own=0.8)
    resumed, other = (run.ready(BestCheckpoint(str(tmp_path), f"val/{n}", "max")) for n in ("own", "sync"))
    for best in (resumed, other):
        best.load_state_dict(first.state_dict())
    run.validate(resumed, 2, own=0.7)
    assert [step for _, step in run.saved] == [1]
    run.validate(other, 2, sync=0.1)
    assert [step for _, step in run.saved] == [1, 2], "another metric begins anew"


@pytest.mark.parametrize("watch", [EarlyStop, lambda *given: BestCheckpoint("folder", *given)])
def test_a_monitor_that_is_not_there_is_one_line(watch: Any) -> None:
    run = Run("val", "val_seen")
    for monitor in ("sync", "test/sync", "val/"):
        with pytest.raises(ConfigError, match=rf"monitor={monitor}: .*\(val, val_seen\)"):
            run.ready(watch(monitor, "min"))
    missing = run.ready(watch("val/psnr", "max"))
    with pytest.raises(ConfigError, match=r"monitor=val/psnr: .* it logs val/l1, val/sync$") as error:
        run.validate(missing, 1, sync=1.0, l1=0.1)
    assert "\n" not in str(error.value)
    for monitor, mode in (("val/sync", None), (None, "min"), ("val/sync", "best")):
        with pytest.raises(ConfigError, match="give a monitor with mode=min"):
            watch(monitor, mode)


def test_early_stopping_counts_validations_without_an_improvement() -> None:
    run = Run()
    stop = run.ready(EarlyStop(patience=2, min_delta=0.05))
    stopped = []
    for step, l1 in enumerate((0.5, 0.47, 0.4, 0.39, 0.38)):
        run.validate(stop, step, l1_lower=l1)
        stopped.append(run.trainer.should_stop)
    assert stopped == [False, False, False, False, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_early_stopping_ends_a_run_that_has_blown_up(value: float) -> None:
    run = Run()
    stop = run.ready(EarlyStop(patience=100))
    run.validate(stop, 1, l1_lower=0.5)
    assert not run.trainer.should_stop
    run.validate(stop, 2, l1_lower=value)
    assert run.trainer.should_stop


def test_a_stopped_run_goes_on_with_more_patience() -> None:
    run = Run()
    stop = run.ready(EarlyStop(patience=1))
    run.validate(stop, 1, l1_lower=0.5)
    run.validate(stop, 2, l1_lower=0.5)
    assert run.trainer.should_stop
    again = Run()
    resumed = again.ready(EarlyStop(patience=3))
    resumed.load_state_dict(stop.state_dict())
    again.validate(resumed, 3, l1_lower=0.5)
    assert not again.trainer.should_stop
    again.validate(resumed, 4, l1_lower=0.5)
    assert again.trainer.should_stop
    with pytest.raises(ConfigError, match="patience=0"):
        EarlyStop(patience=0)


def test_the_sanity_check_does_not_count(tmp_path: Path) -> None:
    run = Run()
    run.trainer.sanity_checking = True
    for watch in (run.ready(BestCheckpoint(str(tmp_path))), run.ready(EarlyStop())):
        run.validate(watch, 0)
    assert not run.saved


@pytest.mark.slow
def test_a_real_run(
    *, make_module: Any, make_trainer: Any, same_batch: Any, generation_batch: GenerationBatch, tmp_path: Path
) -> None:
    best, stop = BestCheckpoint(str(tmp_path)), EarlyStop(patience=2, min_delta=100.0)
    validated = {"limit_val_batches": 1.0, "val_check_interval": 1}
    trainer = make_trainer(9, callbacks=[stop, LearningRate(), best], enable_checkpointing=True, **validated)
    trainer.fit(make_module(), same_batch(generation_batch, steps=9))
    assert trainer.global_step == 3, "nothing improves by 100"
    assert float(trainer.callback_metrics["train/lr"]) == pytest.approx(1e-3)
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    states = [state for state in saved["callbacks"].values() if state.get("monitor") == "val/l1_lower"]
    assert best.best in [state["best"] for state in states], "the file knows its own score"
    assert saved["global_step"] <= 3
