"""Learning-rate schedule and optimizer factories."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from lipsync.training.optimization import configure, planned_steps, warmup_cosine


def rates(steps: int, **settings: Any) -> list[float]:
    """The learning rate of steps 0, 1, ... ``steps``, with a peak of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = warmup_cosine(optimizer, **settings)
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
