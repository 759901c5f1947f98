"""FLOP counts of the networks, and the numbers that training logs about its speed."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.profilers import SimpleProfiler
from torch import nn

from lipsync.data.generation import GenerationBatch
from lipsync.data.sync_pairs import SyncBatch
from lipsync.models.flops import forward_flops
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip
from lipsync.training.syncnet import SyncNetModule
from lipsync.training.throughput import (
    MEL,
    Throughput,
    generator_step_flops,
    matmul_flops_per_second,
    training_dtype,
    window_flops,
)

GIGA = 1e9


def test_published_counts_at_full_width() -> None:
    """7.93 GFLOP a frame, 2.51 a half frame, 2.42 a window."""
    assert forward_flops(Wav2Lip(), (1, *MEL), (1, 6, 96, 96)) / GIGA == pytest.approx(7.934, abs=0.001)
    critic = forward_flops(QualityDiscriminator(), (1, 3, 5, 96, 96))
    assert critic / 5 / GIGA == pytest.approx(2.512, abs=0.001)
    assert forward_flops(SyncNet(), (1, *MEL), (1, 15, 48, 96)) / GIGA == pytest.approx(2.421, abs=0.001)


def test_counting_changes_nothing_and_scales_with_the_batch() -> None:
    net = SyncNet(width=0.125).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    generator_state = torch.get_rng_state()
    one = forward_flops(net, (1, *MEL), (1, 15, 48, 96))
    assert forward_flops(net, (3, *MEL), (3, 15, 48, 96)) == 3 * one > 0
    assert net.training
    assert all(parameter.device.type == "cpu" and parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator_state)


def test_counts_of_a_compiled_network_are_the_same() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    net.compile(backend="eager")
    assert forward_flops(net, (1, 3, 5, 5)) == 2 * 3 * 4 * 9 * 9


def test_a_generator_window_adds_up() -> None:
    generator, critic, expert = Wav2Lip(0.125), QualityDiscriminator(0.125), SyncNet(0.125)
    frame = forward_flops(generator, (1, *MEL), (1, 6, 96, 96))
    window = forward_flops(expert, (1, *MEL), (1, 15, 48, 96))
    halves = forward_flops(critic, (1, 3, 5, 96, 96))
    assert generator_step_flops(generator) == 15 * frame
    whole = generator_step_flops(generator, [expert], critic)
    assert whole == 15 * frame + 2 * window + (2 + 3 + 3) * halves


def test_the_expert_counts_from_the_step_its_loss_is_on(
    make_module: Any, generation_batch: GenerationBatch, expert_file: Any
) -> None:
    module = make_module(expert_checkpoint=str(expert_file))
    off = window_flops(module, generation_batch)
    module.sync_weight.fill_(0.03)
    on = window_flops(module, generation_batch)
    assert off is not None
    assert on is not None
    assert on - off == 2 * forward_flops(module.expert, (1, *MEL), (1, 15, 48, 96))


def test_an_expert_window_costs_three_forward_passes(sync_batch: SyncBatch) -> None:
    module = SyncNetModule(torch.optim.Adam, width=0.125)
    forward = forward_flops(module.expert, (1, *MEL), (1, 15, 48, 96))
    assert window_flops(module, sync_batch) == 3 * forward


def test_a_module_of_another_kind_has_no_count() -> None:
    assert window_flops(nn.Linear(2, 2), None) is None


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("bf16-true", torch.bfloat16),
        ("16-mixed", torch.float16),
        ("64-true", torch.float64),
    ],
)
def test_precision_of_the_products(precision: str, dtype: torch.dtype) -> None:
    assert training_dtype(precision) == dtype


def test_the_peak_is_measured_without_random_numbers() -> None:
    before = torch.get_rng_state()
    assert matmul_flops_per_second(torch.device("cpu"), torch.float32) > 1e9
    assert torch.equal(torch.get_rng_state(), before)


class SlowLoader(pl.LightningDataModule):
    """``steps`` batches, each after ``delay`` seconds in the loader and ``move`` on the way to the device."""

    val_splits = ("val",)

    def __init__(self, batch: Any, steps: int, delay: float = 0.0, move: float = 0.0) -> None:
        super().__init__()
        self.batch, self.steps, self.delay, self.move = batch, steps, delay, move

    def train_dataloader(self) -> Any:
        def wait(index: int) -> Any:
            time.sleep(self.delay)
            return self.batch

        dataset = _Calls(wait, self.steps)
        return torch.utils.data.DataLoader(dataset, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        time.sleep(self.move)
        return batch


class _Calls:
    def __init__(self, call: Any, length: int) -> None:
        self.call, self.length = call, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.call(index)


class Tiny(pl.LightningModule):
    """One weight, a step of ``pause`` seconds, and a slow validation."""

    def __init__(self, pause: float = 0.0, validation: float = 0.0) -> None:
        super().__init__()
        self.layer, self.pause, self.validation = nn.Linear(4, 1), pause, validation

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        time.sleep(self.pause)
        return self.layer(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.validation)

    def training_flops(self, batch: Any) -> float:
        return 1e6

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def rows(trainer: pl.Trainer) -> list[dict[str, float]]:
    """What the trainer's CSV logger holds about speed."""
    logger = trainer.logger
    assert isinstance(logger, CSVLogger)
    kept = [row for row in logger.experiment.metrics if "perf/data_wait" in row]
    logger.experiment.metrics = []
    return kept


class KeepingLogger(CSVLogger):
    """Keeps its rows in memory."""

    def save(self) -> None:
        pass


BATCH = (torch.ones(6, 4), torch.zeros(6))


def train(make_trainer: Any, tmp_path: Any, module: Any, data: Any, **settings: Any) -> pl.Trainer:
    logger = KeepingLogger(tmp_path)
    defaults: dict[str, Any] = {"log_every_n_steps": 5, "logger": logger, "callbacks": [Throughput(0.001)]}
    trainer: pl.Trainer = make_trainer(**{**defaults, **settings})
    trainer.fit(module, datamodule=data)
    return trainer


def test_waiting_is_told_from_moving_and_from_computing(make_trainer: Any, tmp_path: Any) -> None:
    data = SlowLoader(BATCH, 30, delay=0.02, move=0.01)
    logged = rows(train(make_trainer, tmp_path, Tiny(pause=0.01), data, steps=20))
    assert [row["step"] for row in logged] == [4, 9, 14, 19]
    for row in logged[1:]:
        # 20 of at least 40 ms; sleeping takes longer on a busy machine, never shorter.
        assert 0.25 < row["perf/data_wait"] < 0.75
        assert 0 < row["perf/windows_per_second"] < 6 / 0.04
        # A window is 1 MFLOP, the peak 1 GFLOP/s.
        assert row["perf/mfu"] == pytest.approx(row["perf/windows_per_second"] * 1e6 / 1e9)
        assert "perf/gpu_memory" not in row


def test_no_waiting_where_batches_are_ready(make_trainer: Any, tmp_path: Any) -> None:
    data = SlowLoader(BATCH, 30, move=0.02)
    logged = rows(train(make_trainer, tmp_path, Tiny(pause=0.02), data, steps=20))
    assert max(row["perf/data_wait"] for row in logged) < 0.3


def test_validation_does_not_count(make_trainer: Any, tmp_path: Any) -> None:
    module = Tiny(pause=0.01, validation=0.5)
    settings = {"val_check_interval": 5, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    logged = rows(train(make_trainer, tmp_path, module, SlowLoader(BATCH, 20), steps=20, **settings))
    assert len(logged) == 4
    # Five steps of ten milliseconds; with the validation it would be 600 ms.
    assert max(30 / row["perf/windows_per_second"] for row in logged) < 0.4


def test_accumulated_batches_are_counted_and_logged_once(make_trainer: Any, tmp_path: Any) -> None:
    data = SlowLoader(BATCH, 40)
    module = Tiny(pause=0.02)
    trainer = train(make_trainer, tmp_path, module, data, steps=10, accumulate_grad_batches=4)
    logged = rows(trainer)
    assert [row["step"] for row in logged] == [4, 9]
    assert all(60 < row["perf/windows_per_second"] < 6 / 0.02 for row in logged)


def test_one_line_at_the_end_and_the_own_profiler_stays(
    make_trainer: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    profiler = SimpleProfiler()
    with caplog.at_level(logging.INFO):
        trainer = train(make_trainer, tmp_path, Tiny(), SlowLoader(BATCH, 30), steps=20, profiler=profiler)
    lines = [record.getMessage() for record in caplog.records if "windows/s" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("speed over 15 steps: ")
    assert "of the time waiting for data" in lines[0]
    assert "% of 0.001 TFLOP/s" in lines[0]
    assert trainer.profiler is profiler  # type: ignore[attr-defined]
    assert len(profiler.recorded_durations["run_training_batch"]) == 20


def test_losses_are_those_without_it(make_trainer: Any, same_batch: Any, sync_batch: SyncBatch) -> None:
    def weights(callbacks: list[Any]) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        module = SyncNetModule(torch.optim.Adam, width=0.125)
        make_trainer(3, callbacks=callbacks, log_every_n_steps=1).fit(
            module, datamodule=same_batch(sync_batch, steps=3)
        )
        return {key: value.clone() for key, value in module.state_dict().items()}

    watched, alone = weights([Throughput()]), weights([])
    assert all(torch.equal(watched[key], alone[key]) for key in alone)
