"""Random views: geometry, levels, mel; and that the device path equals the plain one when nothing moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipsync.data.augmentation import (
    MEL_BAND,
    change_levels,
    change_mel,
    draw_geometry,
    draw_levels,
    draw_mel_change,
    warp,
)


def geometry(count: int = 1, **numbers: float) -> torch.Tensor:
    still = {"flip": 1.0, "angle": 0.0, "scale": 1.0, "dx": 0.0, "dy": 0.0} | numbers
    return torch.tensor([list(still.values())]).repeat(count, 1)


@pytest.mark.parametrize("height", [48, 96])
def test_no_movement_is_the_identity_and_a_flip_mirrors(height: int) -> None:
    images = torch.rand(3, 15, height, 96)
    assert torch.allclose(warp(images, geometry(3)), images, atol=1e-4)
    assert torch.allclose(warp(images, geometry(3, flip=-1.0)), images.flip(-1), atol=1e-4)


def test_the_lower_half_is_that_of_the_whole() -> None:
    images = torch.rand(2, 3, 96, 96)
    moved = torch.from_numpy(draw_geometry(np.random.default_rng(0), 2))
    assert torch.allclose(warp(images, moved, lower_half=True), warp(images, moved)[:, :, 48:], atol=1e-4)


@pytest.mark.parametrize(("name", "axis"), [("dx", -1), ("dy", -2)])
def test_a_shift_is_a_share_of_the_width(name: str, axis: int) -> None:
    images = torch.rand(1, 3, 48, 96)
    moved = warp(images, geometry(**{name: 0.125}))  # 12 pixels: what lies there comes to the origin
    kept = moved.narrow(axis, 0, moved.shape[axis] - 12)
    assert torch.allclose(kept, images.narrow(axis, 12, images.shape[axis] - 12), atol=1e-4)


def test_rotation_keeps_angles_on_a_half_face() -> None:
    """A square stays a square although the picture is twice as wide as high."""
    square = torch.zeros(8, 1, 48, 96)
    square[:, :, 14:34, 38:58] = 1
    angles = torch.linspace(-0.6, 0.6, 8)
    moved = warp(square, torch.stack([torch.ones(8), angles, torch.ones(8), 0 * angles, 0 * angles], dim=1))
    assert torch.allclose(moved.sum((1, 2, 3)), torch.full((8,), 400.0), rtol=0.03)
    y, x = torch.meshgrid(torch.arange(48.0) - 23.5, torch.arange(96.0) - 47.5, indexing="ij")
    for picture in moved[:, 0]:
        spread = torch.stack([(picture * x * x).sum(), (picture * y * y).sum()]) / picture.sum()
        assert spread[0] == pytest.approx(float(spread[1]), rel=0.05)


def test_levels_stay_in_range_and_do_what_they_say() -> None:
    images = torch.rand(2, 15, 48, 96)
    assert torch.equal(change_levels(images, torch.tensor([[1.0, 0.0]] * 2)), images)
    drawn = torch.from_numpy(draw_levels(np.random.default_rng(1), 2))
    changed = change_levels(images, drawn)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert not torch.equal(changed, images)
    flat = change_levels(torch.full((1, 3, 4, 4), 0.75), torch.tensor([[0.8, 0.05]]))
    assert torch.allclose(flat, torch.full((1, 3, 4, 4), 0.75))  # 0.25 * 0.8 + 0.5 + 0.05


def test_a_mel_change_is_a_gain_and_one_silent_stripe() -> None:
    mel = torch.rand(3, 80, 16) * 8 - 4
    change = torch.from_numpy(draw_mel_change(np.random.default_rng(2), 3))
    changed = change_mel(mel, change)
    assert -4 <= changed.min() <= changed.max() <= 4
    for row in range(3):
        silent = (changed[row] == -4).all(dim=1).nonzero().flatten()
        first = int(change[row, 1])
        assert set(range(first, first + MEL_BAND)) <= set(silent.tolist())
        rest = [band for band in range(80) if band not in set(silent.tolist())]
        assert torch.allclose(changed[row, rest], (mel[row, rest] + change[row, 0]).clamp(-4, 4))


def test_draws_cover_their_ranges_and_nothing_else() -> None:
    drawn = draw_geometry(np.random.default_rng(3), 2000)
    assert set(drawn[:, 0]) == {-1.0, 1.0}
    for column, centre, width in ((1, 0, 0.1), (2, 1, 0.12), (3, 0, 0.08), (4, 0, 0.08)):
        away = np.abs(drawn[:, column] - centre)
        assert 0.95 * width < away.max() <= width + 1e-6
    still = draw_geometry(np.random.default_rng(4), 5, flip=False, rotation=0, scale=0, shift=0)
    assert np.array_equal(still, np.tile([1, 0, 1, 0, 0], (5, 1)))
