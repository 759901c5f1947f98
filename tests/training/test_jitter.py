"""Random views for the expert."""

from __future__ import annotations

import pytest
import torch

from lipsync.training.jitter import jitter_windows


def test_the_seed_decides() -> None:
    windows = torch.rand(3, 15, 48, 96)
    assert torch.equal(jitter_windows(windows, 5), jitter_windows(windows, 5))
    assert not torch.equal(jitter_windows(windows, 5), jitter_windows(windows, 6))


def test_gradient_reaches_the_window() -> None:
    windows = torch.rand(2, 15, 48, 96, requires_grad=True)
    jitter_windows(windows, 3).mean().backward()
    assert windows.grad is not None
    assert float(windows.grad.sum()) == pytest.approx(1.0, abs=0.05)
