"""Sync losses against recorded values, definitions and their edge cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lipsync.losses.sync import contrastive_loss, cosine_bce, expert_sync_loss
from lipsync.models.syncnet import SyncNet, lower_half_windows

Load = Callable[[str], tuple[dict[str, Any], Any]]


def recorded_embeddings() -> tuple[Tensor, Tensor, Tensor]:
    """Audio and face embeddings and labels by the rule of the fixture ``losses``."""

    def embeddings(seed: int) -> np.ndarray:
        x = np.maximum(np.random.default_rng(seed).standard_normal((8, 512)), 0)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    audio, face = embeddings(201), embeddings(202)
    face[0] = np.float32(0.9) * audio[0] + np.float32(0.1) * face[0]
    face[0] /= np.linalg.norm(face[0])
    face[1] = 0
    face[2] = 0
    face[2, audio[2].argmin()] = 1
    target = torch.tensor([1.0, 1, 0, 0, 1, 0, 1, 0])
    return torch.from_numpy(audio), torch.from_numpy(face), target


def test_cosine_bce_equals_the_reference(parity: Load) -> None:
    _, expected = parity("losses")
    audio, face, target = recorded_embeddings()
    face.requires_grad_()
    loss = cosine_bce(audio, face, target[:, None])
    each = [cosine_bce(audio[i : i + 1], face[i : i + 1], target[i : i + 1]).item() for i in range(8)]
    assert loss.item() == pytest.approx(float(expected["cosine_bce_mean"]), rel=1e-6)
    np.testing.assert_allclose(each, expected["cosine_bce_each"], rtol=1e-5, atol=1e-7)

    loss.backward()
    assert face.grad is not None
    norms = face.grad.norm(dim=1)
    assert norms[1] == 0  # the reference: 1.25e19, from an embedding of zeros
    ordinary = [0, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(norms[ordinary], expected["grad_v_norms"][ordinary], rtol=1e-4, atol=1e-7)


def test_equal_vectors_do_not_leave_the_unit_interval() -> None:
    audio = functional.normalize(torch.rand(1600, 512).relu(), dim=1)
    assert (functional.cosine_similarity(audio, audio) > 1).any()
    for label in (0.0, 1.0):
        face = audio.clone().requires_grad_()
        loss = cosine_bce(audio, face, torch.full((1600,), label))
        loss.backward()
        assert 0 <= loss.item() <= 100
        assert face.grad is not None
        assert face.grad.isfinite().all()


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_zero_embeddings_send_no_gradient_through_the_expert(label: float) -> None:
    raw = torch.zeros(2, 8)
    raw[1] = torch.rand(8)
    raw.requires_grad_()
    audio = functional.normalize(torch.rand(2, 8), dim=1)
    loss = cosine_bce(audio, functional.normalize(raw, dim=1), torch.full((2,), label))
    loss.backward()
    assert raw.grad is not None
    assert torch.equal(raw.grad[0], torch.zeros(8))
    assert 0 < raw.grad[1].norm() < 100


def windows(clips: list[int], frames: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    audio = functional.normalize(torch.randn(len(clips), 16, generator=generator), dim=1)
    face = functional.normalize(torch.randn(len(clips), 16, generator=generator), dim=1)
    return audio, face, torch.tensor(clips), torch.tensor(frames)


def naive_contrastive(
    audio: Tensor, face: Tensor, scale: float, *, clip: list[int], frame: list[int], min_gap: int
) -> float:
    """The definition, one row at a time."""
    total: list[list[float]] = [[], [], [], []]
    count = len(clip)
    for direction, (queries, keys) in enumerate(((face, audio), (audio, face))):
        for i in range(count):
            for within in (0, 1):
                others = [
                    j
                    for j in range(count)
                    if j != i
                    and not (clip[i] == clip[j] and abs(frame[i] - frame[j]) < min_gap)
                    and (not within or clip[i] == clip[j])
                ]
                if within and not others:
                    continue
                logits = [scale * float(queries[i] @ keys[j]) for j in (i, *others)]
                total[2 * within + direction].append(
                    math.log(sum(math.exp(value) for value in logits)) - logits[0]
                )
    means = [sum(values) / len(values) for values in total if values]
    return sum(means) / len(means)


@pytest.mark.parametrize("min_gap", [1, 3, 6])
@pytest.mark.parametrize(
    ("clips", "frames"),
    [
        ([0, 0, 0, 1, 1, 2], [0, 2, 9, 4, 8, 0]),
        ([0, 1, 2, 3], [0, 0, 0, 0]),
        ([7, 7, 7], [10, 13, 11]),
        ([5], [3]),
    ],
)
def test_contrastive_loss_equals_its_definition(clips: list[int], frames: list[int], min_gap: int) -> None:
    audio, face, clip, frame = windows(clips, frames)
    found = contrastive_loss(audio, face, 7.0, clip, frame, min_gap=min_gap)
    assert found.item() == pytest.approx(
        naive_contrastive(audio, face, 7.0, clip=clips, frame=frames, min_gap=min_gap), rel=1e-4, abs=1e-6
    )


def test_contrastive_loss_keeps_masked_windows_apart() -> None:
    """Two windows of one clip, too near to be negatives of each other: nothing connects them."""
    audio, face, clip, frame = windows([0, 0], [4, 6])
    face.requires_grad_()
    loss = contrastive_loss(audio, face, 10.0, clip, frame)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert face.grad is not None
    assert torch.equal(face.grad, torch.zeros_like(face))
    assert contrastive_loss(audio, face, 10.0, clip, torch.tensor([4, 7])) > 0.01


def test_contrastive_loss_sends_finite_gradients_past_the_mask() -> None:
    audio, face, clip, frame = windows([0, 0, 0, 1], [0, 2, 9, 0])
    face.requires_grad_()
    contrastive_loss(audio, face, 10.0, clip, frame).backward()
    assert face.grad is not None
    assert face.grad.isfinite().all()
    assert face.grad.any(dim=1).all()


def test_contrastive_loss_falls_as_pairs_align_and_trains_its_scale() -> None:
    audio, face, clip, frame = windows([0, 0, 1, 1], [0, 5, 0, 5])
    scale = torch.tensor(10.0, requires_grad=True)
    loss = contrastive_loss(audio, face, scale, clip, frame)
    loss.backward()
    assert scale.grad is not None
    assert scale.grad != 0
    assert contrastive_loss(audio, audio, 100.0, clip, frame) < 1e-3 < loss


def test_contrastive_loss_computes_in_float32_under_autocast() -> None:
    audio, face, clip, frame = windows([0, 0, 1, 1], [0, 5, 0, 5])
    expected = contrastive_loss(audio, face, 50.0, clip, frame)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_loss(audio, face, 50.0, clip, frame), expected)


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 1, 80, 16), torch.rand(batch, 3, 5, 96, 96, requires_grad=True)


@pytest.mark.parametrize("head", ["cosine", "contrastive"])
@pytest.mark.parametrize("batch", [1, 3])
def test_expert_sync_loss_reaches_the_lower_half_only(head: Any, batch: int) -> None:
    expert = SyncNet(width=0.125, head=head).eval().requires_grad_(False)
    mel, fake = inputs(batch)
    loss = expert_sync_loss(expert, mel, lower_half_windows(fake))
    assert loss.shape == ()
    loss.backward()
    assert fake.grad is not None
    assert not fake.grad[..., :48, :].any()
    assert fake.grad[..., 48:, :].flatten(1).any(dim=1).all()


def test_expert_sync_loss_of_each_head() -> None:
    mel, fake = inputs(3)
    window = lower_half_windows(fake.detach())
    expert = SyncNet(width=0.125).eval()
    audio, face = expert(mel, window)
    torch.testing.assert_close(
        expert_sync_loss(expert, mel, window), -functional.cosine_similarity(audio, face).log().mean()
    )
    contrastive = SyncNet(width=0.125, head="contrastive").eval()
    audio, face = contrastive(mel, window)
    expected = functional.cross_entropy(10.0 * face @ audio.T, torch.arange(3))
    torch.testing.assert_close(expert_sync_loss(contrastive, mel, window), expected)
    one = expert_sync_loss(contrastive, mel[:1], window[:1])
    torch.testing.assert_close(one, 1 - audio[0] @ face[0])
    other = torch.randn(4, 1, 80, 16)
    candidates = torch.cat([audio, contrastive.encode_audio(other)])
    expected = functional.cross_entropy(10.0 * face @ candidates.T, torch.arange(3))
    torch.testing.assert_close(expert_sync_loss(contrastive, mel, window, other), expected)
    expert_sync_loss(contrastive, mel, window).backward()
    assert contrastive.log_temperature.grad is None
