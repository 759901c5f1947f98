"""Random views for the expert."""

from __future__ import annotations

import pytest
import torch

from lipsync.training import jitter
from lipsync.training.jitter import jitter_windows


def test_the_seed_decides() -> None:
    windows = torch.rand(3, 15, 48, 96)
    assert torch.equal(jitter_windows(windows, 5), jitter_windows(windows, 5))
    assert not torch.equal(jitter_windows(windows, 5), jitter_windows(windows, 6))


def test_no_movement_is_the_identity_or_a_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_ROTATION", "MAX_SCALE", "MAX_SHIFT"):
        monkeypatch.setattr(jitter, name, 0.0)
    windows = torch.rand(16, 15, 48, 96)
    moved = jitter_windows(windows, 0)
    kept = [torch.allclose(m, w, atol=1e-4) for m, w in zip(moved, windows, strict=True)]
    flipped = [torch.allclose(m, w.flip(-1), atol=1e-4) for m, w in zip(moved, windows, strict=True)]
    assert all(k != f for k, f in zip(kept, flipped, strict=True))
    assert any(kept)
    assert any(flipped)


def test_rotation_keeps_angles_on_a_half_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square stays a square although the picture is twice as wide as high."""
    monkeypatch.setattr(jitter, "MAX_SCALE", 0.0)
    monkeypatch.setattr(jitter, "MAX_SHIFT", 0.0)
    monkeypatch.setattr(jitter, "MAX_ROTATION", 0.6)
    square = torch.zeros(8, 1, 48, 96)
    square[:, :, 14:34, 38:58] = 1
    moved = jitter_windows(square, 1)
    assert torch.allclose(moved.sum((1, 2, 3)), torch.full((8,), 400.0), rtol=0.03)
    y, x = torch.meshgrid(torch.arange(48.0) - 23.5, torch.arange(96.0) - 47.5, indexing="ij")
    for picture in moved[:, 0]:
        spread = torch.stack([(picture * x * x).sum(), (picture * y * y).sum()]) / picture.sum()
        assert spread[0] == pytest.approx(float(spread[1]), rel=0.05)


def test_gradient_reaches_the_window() -> None:
    windows = torch.rand(2, 15, 48, 96, requires_grad=True)
    jitter_windows(windows, 3).mean().backward()
    assert windows.grad is not None
    assert float(windows.grad.sum()) == pytest.approx(1.0, abs=0.05)
