"""A step of Wav2Lip-HQ in one backward pass and one optimizer equals the reference's two.

The reference steps the generator and then the critic; both losses come from the weights before either step,
so that the simultaneous form is the same mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync.losses.adversarial import critic_loss, frozen, generator_loss
from lipsync.losses.sync import expert_sync_loss
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet, lower_half_windows
from lipsync.models.wav2lip import Wav2Lip

Load = Callable[[str], tuple[dict[str, Any], Any]]
SYNC_WEIGHT, ADVERSARIAL_WEIGHT = 0.03, 0.07


@dataclass
class Batch:
    faces: Tensor
    target: Tensor
    mels: Tensor
    mel: Tensor


def recorded_batch() -> Batch:
    """The batch of the fixture ``train_step_hq``."""

    def uniform(seed: int, channels: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng(seed).random((2, channels, 5, 96, 96)).astype("f"))

    def mels(seed: int, *shape: int) -> Tensor:
        values = np.random.default_rng(seed).standard_normal((*shape, 80, 16)) * 2
        return torch.from_numpy(np.clip(values, -4, 4).astype("f"))

    faces = uniform(701, 6)
    faces[:, :3, :, 48:] = 0
    return Batch(faces, uniform(702, 3), mels(703, 2, 5, 1), mels(704, 2, 1))


def gradient_norms(module: nn.Module, keys: dict[str, Any]) -> dict[str, float]:
    norms = {}
    for key in keys:
        gradient = module.get_parameter(key).grad
        assert gradient is not None
        norms[key] = gradient.double().norm().item()
    return norms


@pytest.mark.parametrize("variant", ["expert_train", pytest.param("expert_eval", marks=pytest.mark.slow)])
def test_one_step_equals_the_reference(variant: str, parity: Load, fill: Callable[..., Any]) -> None:
    expected = parity("train_step_hq")[0]["results"][variant]
    generator: Wav2Lip = fill(Wav2Lip(), gain=0.7).train()
    critic: QualityDiscriminator = fill(QualityDiscriminator()).train()
    expert: SyncNet = fill(SyncNet(), gain=0.7).train(variant == "expert_train").requires_grad_(False)
    optimizer = torch.optim.Adam(
        [{"params": generator.parameters()}, {"params": critic.parameters()}], lr=1e-4, betas=(0.5, 0.999)
    )
    batch = recorded_batch()

    fake = generator(batch.mels, batch.faces)
    real_logits, fake_logits = critic(batch.target), critic(fake.detach())
    sync = expert_sync_loss(expert, batch.mel, lower_half_windows(fake))
    adversarial = generator_loss(frozen(critic, fake))
    l1 = functional.l1_loss(fake, batch.target)
    total = SYNC_WEIGHT * sync + ADVERSARIAL_WEIGHT * adversarial
    total = total + (1 - SYNC_WEIGHT - ADVERSARIAL_WEIGHT) * l1
    judged = critic_loss(real_logits, fake_logits)
    (total + judged).backward()
    optimizer.step()

    assert sync.item() == pytest.approx(expected["sync"], rel=1e-5)
    assert adversarial.item() == pytest.approx(expected["perceptual"], rel=1e-5)
    assert l1.item() == pytest.approx(expected["l1"], rel=1e-5)
    assert total.item() == pytest.approx(expected["total"], rel=1e-5)
    assert judged.item() == pytest.approx(expected["disc_real"] + expected["disc_fake"], rel=1e-5)
    assert generator_loss(real_logits).item() == pytest.approx(expected["disc_real"], rel=1e-5)
    statistics = expected["generator_output"]
    assert fake.mean().item() == pytest.approx(statistics["mean"], rel=1e-5)
    assert fake.std(correction=0).item() == pytest.approx(statistics["std"], rel=1e-4)

    for module, name in ((generator, "grad_norms_generator"), (critic, "grad_norms_disc")):
        assert gradient_norms(module, expected[name]) == pytest.approx(expected[name], rel=1e-3)
    for key, after in expected["after_step"].items():
        weight = generator.get_parameter(key).detach().double()
        assert weight.norm().item() == pytest.approx(after["norm"], rel=1e-6)
        assert weight.mean().item() == pytest.approx(after["mean"], rel=1e-3, abs=1e-7)
    running = generator.get_buffer(expected["running_mean_after"]["key"])
    values = expected["running_mean_after"]["values"]
    assert running[: len(values)].tolist() == pytest.approx(values, rel=1e-4, abs=1e-6)
