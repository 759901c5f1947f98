"""The sync gate and the sample pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lipsync.data.generation import GenerationBatch
from lipsync.data.sync_pairs import SyncBatch
from lipsync.errors import ConfigError
from lipsync.training.callbacks import SampleGrid, SyncGate, picture_grid


class Run:
    """As much of a trainer and a module as the callbacks look at."""

    def __init__(self, *, expert: bool = True, split: str = "val") -> None:
        self.module: Any = SimpleNamespace(
            expert=object() if expert else None,
            sync_weight=torch.zeros(()),
            generator=lambda mels, faces: faces[:, 3:] * 0 + 0.5,
        )
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            sanity_checking=False,
            callback_metrics={},
            loggers=[],
            world_size=1,
            datamodule=SimpleNamespace(val_splits=[split]),
            saved=[],
        )
        self.trainer.save_checkpoint = self.trainer.saved.append
        self.split = split

    def validate(self, gate: SyncGate, **metrics: float) -> bool:
        """A validation with these results; whether the gate is open after it."""
        self.trainer.callback_metrics = {
            f"{self.split}/{name}": torch.tensor(value) for name, value in metrics.items()
        }
        gate.on_validation_end(self.trainer, self.module)
        return gate.opened_at is not None

    def step(self, gate: SyncGate, number: int) -> float:
        """The sync weight that training step ``number`` uses."""
        self.trainer.global_step = number
        gate.on_train_batch_start(self.trainer, self.module, None, 0)
        return float(self.module.sync_weight)


def test_threshold_opens_the_gate_for_good() -> None:
    run, gate = Run(), SyncGate(weight=0.03, threshold=0.75)
    assert run.step(gate, 0) == 0
    assert not run.validate(gate, sync=0.75)
    assert run.step(gate, 1) == 0
    assert run.validate(gate, sync=0.7499)
    assert run.step(gate, 2) == pytest.approx(0.03)
    assert run.validate(gate, sync=5.0)
    assert run.step(gate, 3) == pytest.approx(0.03)


def test_copy_margin_opens_when_the_generator_beats_copying() -> None:
    run, gate = Run(), SyncGate(threshold=None, copy_margin=0.9)
    assert not run.validate(gate, sync=0.1, l1_lower=0.09, l1_copy=0.1)
    assert run.validate(gate, sync=0.1, l1_lower=0.0899, l1_copy=0.1)


@pytest.mark.parametrize("settings", [{"threshold": None}, {"threshold": 0.75, "copy_margin": 0.9}])
def test_metrics_that_were_not_logged_open_nothing(settings: dict[str, Any]) -> None:
    run, gate = Run(), SyncGate(**settings)
    assert not run.validate(gate)
    assert not run.validate(gate, sync=float("nan"), l1_lower=float("nan"), l1_copy=0.1)
    assert run.step(gate, 10**6) == 0


def test_the_first_validation_list_decides() -> None:
    run, gate = Run(split="seen"), SyncGate(threshold=0.75)
    run.trainer.callback_metrics = {"val/sync": torch.tensor(0.1)}
    gate.on_validation_end(run.trainer, run.module)
    assert gate.opened_at is None
    assert run.validate(gate, sync=0.1)


def test_start_step_opens_at_the_latest() -> None:
    run, gate = Run(), SyncGate(weight=0.01, threshold=None, start_step=3)
    assert [run.step(gate, step) for step in range(5)] == pytest.approx([0, 0, 0, 0.01, 0.01])
    assert gate.opened_at == 3


def test_the_weight_moves_along_its_ramp() -> None:
    run, gate = Run(), SyncGate(weight=0.04, threshold=None, start_step=2, ramp_steps=4)
    weights = [run.step(gate, step) for step in range(8)]
    assert weights == pytest.approx([0, 0, 0.01, 0.02, 0.03, 0.04, 0.04, 0.04])


def test_a_smooth_ramp_begins_and_ends_flat() -> None:
    run, gate = Run(), SyncGate(weight=0.04, threshold=None, start_step=2, ramp_steps=4, ramp="cosine")
    weights = [run.step(gate, step) for step in range(8)]
    assert weights == pytest.approx([0, 0, 0.005858, 0.02, 0.034142, 0.04, 0.04, 0.04], abs=1e-6)
    jump = SyncGate(weight=0.04, threshold=None, start_step=0, ramp="cosine")
    assert Run().step(jump, 0) == pytest.approx(0.04)
    with pytest.raises(ConfigError, match="ramp=steep: choose linear or cosine"):
        SyncGate(ramp="steep")  # type: ignore[arg-type]


def test_the_sanity_check_does_not_count() -> None:
    run, gate = Run(), SyncGate(threshold=0.75)
    run.trainer.sanity_checking = True
    assert not run.validate(gate, sync=0.1)


def test_without_an_expert_the_gate_stays_shut() -> None:
    run, gate = Run(expert=False), SyncGate(threshold=0.75, start_step=0)
    assert not run.validate(gate, sync=0.1)
    assert run.step(gate, 5) == 0
    assert gate.opened_at is None


def test_a_resumed_gate_goes_on_where_it_was() -> None:
    run, gate = Run(), SyncGate(weight=0.04, threshold=None, start_step=2, ramp_steps=4)
    straight = [run.step(gate, step) for step in range(4)]
    resumed = SyncGate(weight=0.04, threshold=None, ramp_steps=4)
    resumed.load_state_dict(gate.state_dict())
    again = Run()
    assert again.step(resumed, 3) == straight[3] == pytest.approx(0.02)
    shut = SyncGate()
    shut.load_state_dict(SyncGate().state_dict())
    assert shut.opened_at is None


def test_the_gate_works_in_a_real_run_and_survives_its_checkpoint(
    *,
    make_module: Any,
    make_trainer: Any,
    same_batch: Any,
    expert_file: Path,
    generation_batch: GenerationBatch,
    tmp_path: Path,
) -> None:
    def run(steps: int, **resume: Any) -> tuple[Any, SyncGate]:
        module = make_module(expert_checkpoint=str(expert_file), expert_mode="train")
        gate = SyncGate(weight=0.08, threshold=1e9, ramp_steps=8)
        trainer = make_trainer(steps, callbacks=[gate], limit_val_batches=1.0, val_check_interval=2)
        trainer.fit(module, datamodule=same_batch(generation_batch, steps=2), **resume)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module, gate

    module, gate = run(4)
    assert gate.opened_at == 2, "the first validation follows the second step"
    assert float(module.sync_weight) == pytest.approx(0.02), "steps 2 and 3 took one and two of eight"
    module, gate = run(6, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert gate.opened_at == 2
    assert float(module.sync_weight) == pytest.approx(0.04)


def test_the_grid_shows_reference_masked_generated_and_truth(generation_batch: GenerationBatch) -> None:
    fake = torch.full_like(generation_batch.target, 0.25)
    grid = picture_grid(generation_batch, fake)
    assert grid.shape == (2 * 96, 4 * 96, 3)
    assert grid.dtype == np.uint8

    def pixels(images: torch.Tensor) -> np.ndarray:
        return (images[1, :, 2].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()

    columns = np.split(grid[96:], 4, axis=1)
    assert np.array_equal(columns[0], pixels(generation_batch.faces[:, 3:]))
    assert np.array_equal(columns[1], pixels(generation_batch.faces[:, :3]))
    assert columns[1][48:].max() == 0
    assert set(np.unique(columns[2])) == {64}
    assert np.array_equal(columns[3], pixels(generation_batch.target))


def test_values_outside_the_range_do_not_wrap_around(generation_batch: GenerationBatch) -> None:
    bright = picture_grid(generation_batch, torch.full_like(generation_batch.target, 1.5))
    assert bright[:96, 192:288].min() == 255


@pytest.mark.parametrize(("windows", "rows"), [(8, 2), (1, 1)])
def test_a_picture_is_written_for_the_first_batch(
    windows: int, rows: int, generation_batch: GenerationBatch, tmp_path: Path
) -> None:
    run, samples = Run(), SampleGrid(str(tmp_path / "samples"), windows=windows)
    run.trainer.global_step = 1234
    samples.on_validation_batch_end(run.trainer, run.module, None, generation_batch, 0, 0)
    samples.on_validation_batch_end(run.trainer, run.module, None, generation_batch, 1, 0)
    samples.on_validation_batch_end(run.trainer, run.module, None, generation_batch, 0, 1)
    (path,) = (tmp_path / "samples").iterdir()
    assert path.name == "step000001234.jpg"
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (rows * 96, 4 * 96, 3)


def test_the_grid_shows_the_averaged_generator(generation_batch: GenerationBatch, tmp_path: Path) -> None:
    run = Run()
    run.module.eval_generator = lambda mels, faces: faces[:, 3:] * 0 + 1.0
    SampleGrid(str(tmp_path)).on_validation_batch_end(run.trainer, run.module, None, generation_batch, 0)
    (path,) = tmp_path.iterdir()
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image[8:-8, 2 * 96 + 16 : 3 * 96 - 16].min() > 240


def test_the_expert_s_batches_have_no_pictures(sync_batch: SyncBatch, tmp_path: Path) -> None:
    run = Run()
    SampleGrid(str(tmp_path / "samples")).on_validation_batch_end(
        run.trainer, run.module, None, sync_batch, 0
    )
    assert not (tmp_path / "samples").exists()
