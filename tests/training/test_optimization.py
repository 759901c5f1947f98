"""Learning-rate schedule and optimizer factories."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lipsync.data.datamodule import LipSyncData
from lipsync.data.window_dataset import WindowDataset
from lipsync.errors import ConfigError
from lipsync.training.optimization import (
    LearningRateScaling,
    configure,
    planned_steps,
    takes_fused,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    warmup_steps_down,
)


def rates(steps: int, schedule: Any = warmup_cosine, **settings: Any) -> list[float]:
    """The learning rate of steps 0, 1, ... ``steps``, with a peak of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, **settings)
    values = []
    for _ in range(steps + 1):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_warmup_then_half_a_cosine() -> None:
    values = rates(100, total_steps=100, warmup_steps=10, final_fraction=0.02)

    def cosine(step: int) -> float:
        return 0.02 + 0.98 * (1 + math.cos(math.pi * step / 100)) / 2

    assert values[0] == pytest.approx(0.1 * cosine(0)) == pytest.approx(0.1)
    assert values[4] == pytest.approx(0.5 * cosine(4))
    assert values[9] == pytest.approx(cosine(9))
    assert values[50] == pytest.approx(0.51)
    assert values[100] == pytest.approx(0.02)
    assert values[10:] == sorted(values[10:], reverse=True)


def test_the_rate_stays_at_its_end_after_the_planned_steps() -> None:
    assert rates(30, total_steps=20, warmup_steps=1, final_fraction=0.1)[20:] == pytest.approx([0.1] * 11)


@pytest.mark.parametrize("total", [-1, 0])
def test_without_a_planned_end_the_rate_stays_at_its_peak(total: int) -> None:
    values = rates(50, total_steps=total, warmup_steps=5)
    assert values[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert values[-1] == 1.0


def test_no_warmup_starts_at_the_peak() -> None:
    assert rates(1, total_steps=10, warmup_steps=0)[0] == 1.0


@pytest.mark.parametrize(
    ("estimated", "maximum", "planned"),
    [(1000.0, 300, 300), (1000.0, -1, 1000), (math.inf, -1, -1), (math.inf, 40, 40), (12, 0, 12)],
)
def test_planned_steps(estimated: float, maximum: int, planned: int) -> None:
    assert planned_steps(estimated, maximum) == planned


def test_configure_builds_what_lightning_expects() -> None:
    layer = nn.Linear(2, 2)
    adam = partial(torch.optim.Adam, lr=0.5, betas=(0.5, 0.999))
    alone = configure(layer.parameters(), adam, None, 10)
    assert isinstance(alone, torch.optim.Adam)
    assert alone.defaults["lr"] == 0.5
    both = configure(layer.parameters(), adam, partial(warmup_cosine, warmup_steps=2), 10)
    assert both["lr_scheduler"]["interval"] == "step"
    assert both["lr_scheduler"]["scheduler"].optimizer is both["optimizer"]
    assert both["optimizer"].param_groups[0]["lr"] == pytest.approx(0.25), "first of two warm-up steps"
    assert [id(p) for p in both["optimizer"].param_groups[0]["params"]] == [id(p) for p in layer.parameters()]


def test_warmup_then_constant() -> None:
    assert rates(8, warmup_constant, warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 6)


def test_warmup_then_a_straight_line() -> None:
    values = rates(25, warmup_linear, total_steps=20, warmup_steps=2, final_fraction=0.1)
    assert values[:3] == pytest.approx([0.5, 0.955, 0.91])
    assert values[10] == pytest.approx(0.55)
    assert values[20:] == pytest.approx([0.1] * 6)
    assert rates(9, warmup_linear, total_steps=-1, warmup_steps=1) == [1.0] * 10


def test_warmup_then_steps_down() -> None:
    values = rates(7, warmup_steps_down, milestones=[3, 6], gamma=0.5, warmup_steps=2)
    assert values == pytest.approx([0.5, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])


def built(scheduler: Any, total: int = 100) -> Any:
    sgd = partial(torch.optim.SGD, lr=1.0)
    return configure(nn.Linear(2, 2).parameters(), sgd, scheduler, total)["lr_scheduler"]["scheduler"]


def test_schedules_of_torch_by_partial() -> None:
    schedules = torch.optim.lr_scheduler
    assert built(partial(schedules.StepLR, step_size=7, gamma=0.5)).step_size == 7
    assert built(partial(schedules.CosineAnnealingLR, T_max=30)).T_max == 30
    assert built(partial(schedules.OneCycleLR, max_lr=3.0)).total_steps == 100
    assert built(partial(schedules.OneCycleLR, max_lr=3.0, total_steps=40), total=40).total_steps == 40


def test_schedules_that_cannot_be_built_name_their_setting() -> None:
    schedules = torch.optim.lr_scheduler
    with pytest.raises(ConfigError, match=r"model\.scheduler: .*total_steps.*; give trainer\.max_steps"):
        built(partial(schedules.OneCycleLR, max_lr=3.0), total=-1)
    with pytest.raises(ConfigError, match=r"model\.scheduler: .*step_size"):
        built(schedules.StepLR)
    with pytest.raises(ConfigError, match="ReduceLROnPlateau follows a metric"):
        built(schedules.ReduceLROnPlateau)


def test_the_factor_moves_the_peak() -> None:
    adam = partial(torch.optim.Adam, lr=0.5)
    layer = nn.Linear(2, 2)
    alone = configure(layer.parameters(), adam, None, 10, lr_factor=3.0)
    assert alone.param_groups[0]["lr"] == 1.5
    both = configure(layer.parameters(), adam, partial(warmup_constant, warmup_steps=2), 10, lr_factor=3.0)
    assert both["lr_scheduler"]["scheduler"].base_lrs == [1.5]
    assert both["optimizer"].param_groups[0]["lr"] == pytest.approx(0.75)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_rules_of_scaling(rule: Any, factor: float) -> None:
    assert LearningRateScaling(rule, 256).factor(1024) == factor


def test_unknown_rules_and_batches() -> None:
    with pytest.raises(ConfigError, match=r"model\.lr_scaling=cubic: choose none, sqrt, linear"):
        LearningRateScaling("cubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model\.base_batch=0"):
        LearningRateScaling("sqrt", 0)


def test_fused_where_all_is_on_cuda_and_nobody_chose() -> None:
    on_cuda: Any = [SimpleNamespace(device=torch.device("cuda", 0))]
    adam = torch.optim.AdamW
    assert takes_fused(partial(adam, lr=1.0), on_cuda)
    assert takes_fused(partial(torch.optim.SGD, lr=1.0), on_cuda)
    assert not takes_fused(adam, [nn.Parameter(torch.zeros(1))])
    assert not takes_fused(partial(adam, fused=False), on_cuda)
    assert not takes_fused(partial(adam, foreach=True), on_cuda)
    assert not takes_fused(torch.optim.Adamax, on_cuda)


def test_gradients_of_a_fused_optimizer_are_clipped(make_trainer: Any, tmp_path: Any) -> None:
    """Lightning refuses that for optimizers that say they unscale gradients themselves."""

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return 1e3 * self.layer(batch).sum()

        def configure_optimizers(self) -> Any:
            return configure(self.parameters(), partial(torch.optim.SGD, lr=1.0, fused=True), None, 1)

    module = Module()
    before = [p.detach().clone() for p in module.parameters()]
    trainer = make_trainer(1, precision="bf16-mixed", gradient_clip_val=0.5)
    loader = torch.utils.data.DataLoader([torch.ones(1, 1)], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    moved = torch.stack([(p.detach() - b).norm() for p, b in zip(module.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-2)


class Drawn(WindowDataset[Any, Any]):
    """Item ``n`` is ``n``; two items a draw would be two of them."""

    skipped = 0

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def plan(self, draw: int) -> Any:
        return draw

    def read(self, plan: Any) -> Any:
        return plan

    def gather(self, plan: Any, store: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def collate(samples: Any) -> Any:
        return torch.tensor(samples)

    def assemble(self, sample: Any) -> Any:
        return sample


class Numbers(LipSyncData):
    """Draw numbers instead of windows, 14 to an epoch."""

    def setup(self, stage: str) -> None:
        self.train_set, self.val_sets = Drawn(14), {}

    def val_dataloader(self) -> list[Any]:
        return [torch.utils.data.DataLoader([0])]  # type: ignore[arg-type]


class Recorder(pl.LightningModule):
    """Keeps the draws it was trained on, and with how many optimizer steps done."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.tolist())
        return self.layer(batch[:, None].float()).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The loader of the data module wants one."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
@pytest.mark.parametrize("stopped", [1, 2, 4, 5])
def test_accumulated_batches_are_drawn_once_across_an_interruption(
    make_trainer: Any, tmp_path: Any, stopped: int
) -> None:
    """Six batches of two draws an epoch, which ends with a whole step, two a step; stopped amid an epoch."""

    def train(steps: int, **arguments: Any) -> tuple[list[list[int]], pl.Trainer]:
        module = Recorder()
        data = Numbers(str(tmp_path), windows=None, batch_size=2, num_workers=0)  # type: ignore[arg-type]
        trainer = make_trainer(steps, accumulate_grad_batches=2, max_epochs=-1)
        trainer.fit(module, datamodule=data, **arguments)
        return module.seen, trainer

    whole, _ = train(7)
    first, trainer = train(stopped)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    rest, _ = train(7, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert first + rest == whole
    numbers = [number for batch in whole for number in batch]
    assert numbers == list(range(len(numbers)))
