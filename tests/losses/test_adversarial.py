"""Adversarial terms and the frozen forward pass of the critic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipsync.losses.adversarial import critic_loss, frozen, generator_loss
from lipsync.models.quality_discriminator import QualityDiscriminator

Load = Callable[[str], tuple[dict[str, Any], Any]]


def test_terms_equal_the_reference(parity: Load) -> None:
    _, expected = parity("losses")
    p = np.random.default_rng(205).random((10, 1)).astype(np.float32)
    p[0], p[1] = 0, 1
    # The reference clamps logarithms at -100, where the logit of its probability ends.
    logits = torch.from_numpy(p).logit().clamp(-100, 100)
    real, fake = float(expected["disc_real"]), float(expected["disc_fake"])
    assert generator_loss(logits).item() == pytest.approx(real, rel=1e-6)
    assert critic_loss(logits, logits).item() == pytest.approx(real + fake, rel=1e-6)


def test_perceptual_loss_equals_the_reference(parity: Load, fill: Callable[..., nn.Module]) -> None:
    _, expected = parity("Wav2Lip_disc_qual")
    x = torch.from_numpy(np.random.default_rng(121).random((2, 3, 5, 96, 96)).astype(np.float32))
    with torch.no_grad():
        loss = generator_loss(fill(QualityDiscriminator())(x))
    assert loss.item() == pytest.approx(expected["perceptual_loss"].item(), rel=1e-5)


def test_extreme_logits_stay_finite_with_gradients() -> None:
    logits = torch.tensor([[-1000.0], [1000.0]], requires_grad=True)
    loss = generator_loss(logits)
    loss.backward()
    assert loss.item() == pytest.approx(500.0)
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-0.5, 0.0])


def test_terms_compute_in_float32() -> None:
    logits = torch.randn(64, 1).bfloat16()
    assert torch.equal(generator_loss(logits), generator_loss(logits.float()))
    assert generator_loss(logits).dtype == torch.float32


def test_frozen_sends_gradients_to_the_input_only() -> None:
    critic = QualityDiscriminator(width=0.125)
    x = torch.rand(2, 3, 2, 96, 96, requires_grad=True)
    logits = frozen(critic, x)
    torch.testing.assert_close(logits, critic(x))
    generator_loss(logits).backward()
    assert x.grad is not None
    assert x.grad.any()
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())


def test_frozen_uses_and_updates_the_buffers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    before = norm.running_mean.clone()
    frozen(net, torch.rand(2, 3, 4, 4))
    assert not torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 1
