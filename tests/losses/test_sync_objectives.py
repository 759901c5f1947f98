"""The generator's sync objectives: known values, what they reward, where their gradient goes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lipsync.losses.sync import (
    OBJECTIVES,
    MouthWindows,
    Objective,
    Speech,
    bounded_loss,
    expert_sync_loss,
    face_features,
    feature_loss,
    objective_loss,
    relative_loss,
)
from lipsync.models.syncnet import SyncNet, lower_half_windows

COMPARING: tuple[Objective, ...] = ("relative", "bounded", "features")


def frozen_expert(head: Any = "contrastive") -> SyncNet:
    return SyncNet(width=0.125, head=head).eval().requires_grad_(False)


def speech(batch: int = 3, others: int = 0) -> Speech:
    own, reference, *further = torch.randn(2 + others, batch, 1, 80, 16).unbind()
    return Speech(own, reference, torch.stack(further, dim=1) if further else None)


def frames(batch: int = 3) -> Tensor:
    return torch.rand(batch, 3, 5, 96, 96)


def windows(fake: Tensor, true: Tensor) -> MouthWindows:
    reference = torch.rand_like(true)
    return MouthWindows(*(lower_half_windows(view) for view in (fake, true, reference)))


def test_relative_loss_at_known_points() -> None:
    """``-log(1 - r)`` with ``r = |x - y| / (|x - y| + |y - d|)``."""
    x, y, d = torch.tensor([0.5]), torch.tensor([0.7]), torch.tensor([[0.1]])
    share = 0.2 / (0.2 + 0.6)
    assert relative_loss(x, y, d, eps=0).item() == pytest.approx(-math.log(1 - share))
    assert relative_loss(y, y, d).item() == 0
    beyond, short = relative_loss(y + 0.1, y, d), relative_loss(y - 0.1, y, d)
    assert beyond.item() == pytest.approx(short.item(), rel=1e-5), "more than real is as bad as less"
    nearer = relative_loss(x, y, torch.tensor([[0.6]]))
    assert nearer > relative_loss(x, y, d), "a reference that fits nearly as well costs more"
    two = relative_loss(x, y, torch.tensor([[0.1, 0.6]]))
    assert two.item() == pytest.approx((relative_loss(x, y, d) + nearer).item() / 2)


def test_relative_loss_is_finite_where_nothing_separates() -> None:
    x = torch.tensor([0.2], requires_grad=True)
    loss = relative_loss(x, torch.tensor([0.5]), torch.tensor([[0.5]]), eps=0.05)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + 0.3 / 0.05))
    assert x.grad is not None
    assert abs(x.grad.item()) <= 1 / 0.05


def test_bounded_loss_at_known_points() -> None:
    true = torch.tensor([[0.8, 0.1, 0.3]])
    assert bounded_loss(true, true).item() == 0
    assert bounded_loss(torch.tensor([[0.95, 0.0, -0.5]]), true).item() == 0, "no reward for surpassing"
    short = torch.tensor([[0.6, 0.1, 0.3]])
    assert bounded_loss(short, true).item() == pytest.approx(0.2)
    copying = torch.tensor([[0.6, 0.5, 0.3]])
    assert bounded_loss(copying, true).item() == pytest.approx(0.2 + 0.4 / 2)
    assert bounded_loss(short[:, :1], true[:, :1]).item() == pytest.approx(0.2)


def test_bounded_loss_sends_no_gradient_beyond_the_true_score() -> None:
    fake = torch.tensor([[0.9, 0.0], [0.3, 0.0]], requires_grad=True)
    bounded_loss(fake, torch.tensor([[0.8, 0.1], [0.8, 0.1]])).backward()
    assert fake.grad is not None
    assert fake.grad.tolist() == [[0, 0], [-0.5, 0]]


def test_features_end_in_the_embedding() -> None:
    for head in ("cosine", "contrastive"):
        expert = frozen_expert(head)
        window = lower_half_windows(frames())
        *stages, embedding = face_features(expert, window)
        torch.testing.assert_close(embedding, expert.encode_face(window))
        sizes = [tuple(stage.shape[2:]) for stage in stages]
        assert len(set(sizes)) == len(sizes) > 3
        assert sizes[-1] == (1, 1)


def test_feature_loss_at_known_points() -> None:
    true = [torch.full((1, 2, 3, 3), 2.0), torch.tensor([[1.0, 0.0]])]
    fake = [torch.full((1, 2, 3, 3), 3.0), torch.tensor([[0.0, 1.0]])]
    assert feature_loss(true, true).item() == 0
    assert feature_loss(fake, true).item() == pytest.approx(0.5 + 1.0)


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("head", ["cosine", "contrastive"])
@pytest.mark.parametrize("objective", COMPARING)
def test_the_true_window_costs_nothing(objective: Objective, head: Any, others: int) -> None:
    true = frames()
    loss = objective_loss(frozen_expert(head), objective, speech(others=others), windows(true, true))
    assert loss.shape == ()
    assert loss.item() == 0


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("head", ["cosine", "contrastive"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_reaches_the_generated_mouth(objective: Objective, head: Any, others: int) -> None:
    expert = frozen_expert(head)
    fake, true = frames().requires_grad_(), frames().requires_grad_()
    loss = objective_loss(expert, objective, speech(others=others), windows(fake, true))
    loss.backward()
    assert loss > 0
    assert fake.grad is not None
    assert not fake.grad[..., :48, :].any()
    assert fake.grad[..., 48:, :].any()
    assert true.grad is None, "the truth is a constant"
    assert all(parameter.grad is None for parameter in expert.parameters())


def test_bounded_and_relative_are_what_they_say() -> None:
    """Against the scores written out one by one."""
    expert, said = frozen_expert(), speech(others=2)
    view = windows(frames(), frames())
    assert said.others is not None
    sounds = [expert.encode_audio(mel) for mel in (said.own, said.reference, *said.others.unbind(1))]
    fake, true, reference = (expert.encode_face(window) for window in view)

    def scores(face: Tensor, audio: list[Tensor]) -> Tensor:
        return torch.stack([functional.cosine_similarity(face, each) for each in audio], dim=1)

    bounded = bounded_loss(scores(fake, sounds), scores(true, sounds))
    torch.testing.assert_close(objective_loss(expert, "bounded", said, view), bounded)
    own = sounds[:1]
    unfit = torch.cat([scores(reference, own), scores(true, sounds[2:])], dim=1)
    relative = relative_loss(scores(fake, own)[:, 0], scores(true, own)[:, 0], unfit)
    torch.testing.assert_close(objective_loss(expert, "relative", said, view), relative)


def test_other_moments_are_negatives_of_their_own_row() -> None:
    expert, said = frozen_expert(), speech(others=2)
    assert said.others is not None
    window = lower_half_windows(frames())
    audio, face = expert(said.own, window)
    copied = expert.encode_audio(said.reference)
    rows = []
    for i in range(3):
        candidates = torch.cat([audio, copied, expert.encode_audio(said.others[i])])
        logits = expert.scale * (candidates @ face[i])
        rows.append(functional.cross_entropy(logits[None], torch.tensor([i])))
    found = expert_sync_loss(expert, said.own, window, said.reference, said.others)
    torch.testing.assert_close(found, torch.stack(rows).mean())
    alone = expert_sync_loss(expert, said.own[:1], window[:1], None, said.others[:1])
    assert alone.item() == pytest.approx(
        float(
            functional.cross_entropy(
                expert.scale * face[:1] @ torch.cat([audio[:1], expert.encode_audio(said.others[0])]).T,
                torch.tensor([0]),
            )
        ),
        rel=1e-5,
    )


def test_the_cosine_head_has_no_use_for_negatives() -> None:
    expert, said = frozen_expert("cosine"), speech(others=2)
    window = lower_half_windows(frames())
    torch.testing.assert_close(
        expert_sync_loss(expert, said.own, window, said.reference, said.others),
        expert_sync_loss(expert, said.own, window),
    )


def test_an_unknown_objective_is_refused() -> None:
    true = frames(1)
    with pytest.raises(ValueError, match="choose from default, relative, bounded, features"):
        objective_loss(frozen_expert(), "best", speech(1), windows(true, true))  # type: ignore[arg-type]


def test_values_are_computed_in_float32_under_autocast() -> None:
    fake, true, unfit = (torch.rand(5, 3).mul(0.01).add(0.7) for _ in range(3))
    features = [torch.rand(2, 4, 3, 3), functional.normalize(torch.rand(2, 8), dim=1)]
    nearly = [features[0] + 1e-4, functional.normalize(features[1] + 1e-4, dim=1)]

    def values() -> list[Tensor]:
        return [
            bounded_loss(fake, true),
            relative_loss(fake[:, 0], true[:, 0], unfit),
            feature_loss(nearly, features),
        ]

    expected = values()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for found, value in zip(values(), expected, strict=True):
            assert found.dtype == torch.float32
            assert torch.equal(found, value)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_under_autocast_are_float32_and_near(objective: Objective) -> None:
    expert, said = frozen_expert(), speech(others=1)
    view = windows(frames(), frames())
    expected = objective_loss(expert, objective, said, view)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective_loss(expert, objective, said, view)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.2, abs=0.05)
