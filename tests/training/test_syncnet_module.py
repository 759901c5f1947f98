"""What the expert's module optimises, and what its validation measures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.nn import functional

from lipsync.checkpoints.networks import load_expert
from lipsync.data.sync_pairs import SyncBatch
from lipsync.losses.sync import contrastive_loss, cosine_bce
from lipsync.training.optimization import warmup_cosine
from lipsync.training.syncnet import SyncNetModule, clip_scores

ADAM = partial(torch.optim.Adam, lr=2e-3)
Objective = Literal["contrastive", "bce"]
OBJECTIVES: tuple[Objective, ...] = ("contrastive", "bce")


def module_of(objective: Objective = "contrastive", **arguments: Any) -> SyncNetModule:
    return SyncNetModule(ADAM, objective=objective, width=0.125, **arguments)


def scores(audio: torch.Tensor, face: torch.Tensor) -> tuple[float, float]:
    result = clip_scores(audio, face)
    assert set(result) == {"pair_accuracy", "offset_accuracy"}
    return float(result["pair_accuracy"]), float(result["offset_accuracy"])


@pytest.mark.parametrize(("shift", "found"), [(0, 1), (1, 1), (-1, 1), (2, 0), (-4, 0), (7, 0)])
def test_the_offset_of_a_perfect_expert(shift: int, found: float) -> None:
    audio = torch.eye(40)
    assert scores(audio, audio.roll(shift, dims=0))[1] == found


def test_pairs_of_a_perfect_and_of_a_wrong_expert() -> None:
    audio = torch.eye(40)
    assert scores(audio, audio)[0] == 1
    assert scores(audio, -audio)[0] == 0


def test_constant_embeddings_score_chance_and_find_no_offset() -> None:
    same = torch.zeros(30, 8)
    same[:, 0] = 1
    assert scores(same, same) == (0.5, 0)


def test_random_embeddings_score_near_chance() -> None:
    draws = torch.randn(2, 200, 40, 16, generator=torch.Generator().manual_seed(0))
    audio, face = functional.normalize(draws, dim=-1)
    pairs, offsets = zip(*(scores(a, f) for a, f in zip(audio, face, strict=True)), strict=True)
    assert sum(pairs) / 200 == pytest.approx(0.5, abs=0.02)
    # Three of fifteen offsets lie within one frame of zero.
    assert sum(offsets) / 200 == pytest.approx(3 / 15, abs=0.1)


@pytest.mark.parametrize("windows", [1, 3, 5])
def test_a_clip_too_short_for_far_speech_scores_chance(windows: int) -> None:
    audio = torch.eye(8)[:windows]
    assert scores(audio, audio) == (0.5, 1)


def test_neighbours_do_not_count_against_a_pair() -> None:
    """A window that scores above its own speech only within four frames is no error."""
    audio = torch.eye(40)
    face = functional.normalize(audio + 2 * audio.roll(-4, dims=0), dim=1)
    face[36:] = audio[36:]  # the roll comes around to far speech there
    assert scores(audio, face)[0] == 1
    far = functional.normalize(audio + 2 * audio.roll(-5, dims=0), dim=1)
    assert scores(audio, far)[0] < 1


def test_unknown_objective_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"model\.objective=triplet: choose contrastive or bce"):
        module_of("triplet")  # type: ignore[arg-type]


def test_the_objectives_are_the_losses(sync_batch: SyncBatch) -> None:
    contrastive, bce = module_of("contrastive", min_gap=5), module_of("bce")
    audio, face = contrastive.expert(sync_batch.mel, sync_batch.face)
    expected = contrastive_loss(
        audio, face, contrastive.expert.scale, sync_batch.clip, sync_batch.frame, min_gap=5
    )
    assert torch.equal(contrastive.objective_loss(audio, face, sync_batch), expected)
    assert torch.equal(contrastive.validation_loss(audio, face, sync_batch), expected)
    audio, face = bce.expert(sync_batch.mel, sync_batch.face)
    assert audio.min() >= 0, "the original head is not negative"
    expected = cosine_bce(audio, face, sync_batch.match)
    assert torch.equal(bce.objective_loss(audio, face, sync_batch), expected)


def test_bce_validation_scores_every_window_with_own_and_far_speech(sync_batch: SyncBatch) -> None:
    module = module_of("bce")
    own = torch.eye(12)
    assert float(module.validation_loss(own, own, sync_batch)) == pytest.approx(0, abs=1e-5)
    same = torch.ones(12, 4) / 2
    # Own speech costs nothing, far speech the clamped logarithm.
    assert float(module.validation_loss(same, same, sync_batch)) == pytest.approx(50, abs=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_tiny_batch_is_learned_by_heart(
    objective: Objective, sync_batch: SyncBatch, make_trainer: Any, same_batch: Any
) -> None:
    module = module_of(objective).train()

    def loss() -> float:
        with torch.inference_mode():
            audio, face = module.expert(sync_batch.mel, sync_batch.face)
            return float(module.objective_loss(audio, face, sync_batch))

    before = loss()
    make_trainer(40).fit(module, datamodule=same_batch(sync_batch, steps=40))
    after = loss()
    assert after < 0.15 * before, (before, after)


def test_validation_logs_each_list_under_its_name(
    sync_batch: SyncBatch, make_trainer: Any, same_batch: Any
) -> None:
    module = module_of()
    trainer = make_trainer(limit_val_batches=1.0)
    data = same_batch(sync_batch, val_splits=["val", "seen"])
    trainer.validate(module, datamodule=data, verbose=False)
    metrics = trainer.callback_metrics
    names = ("sync", "pair_accuracy", "offset_accuracy")
    assert set(metrics) == {f"{split}/{name}" for split in ("val", "seen") for name in names}
    with torch.inference_mode():
        audio, face = module.eval().expert(sync_batch.mel, sync_batch.face)
        runs = [clip_scores(a, f) for a, f in zip(audio.split(6), face.split(6), strict=True)]
    for name in ("pair_accuracy", "offset_accuracy"):
        mean = torch.stack([run[name] for run in runs]).mean()
        assert metrics[f"val/{name}"] == pytest.approx(float(mean))
        assert metrics[f"seen/{name}"] == metrics[f"val/{name}"]


def test_the_schedule_advances_every_step(sync_batch: SyncBatch, make_trainer: Any, same_batch: Any) -> None:
    module = module_of(scheduler=partial(warmup_cosine, warmup_steps=4))
    trainer = make_trainer(3)
    trainer.fit(module, datamodule=same_batch(sync_batch, steps=3))
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == 3
    # After the third of three steps: warm-up factor 4/4, end of the cosine.
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(2e-3 * 0.02)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_checkpoint_is_read_back_as_the_expert(
    objective: Objective, sync_batch: SyncBatch, make_trainer: Any, same_batch: Any, tmp_path: Path
) -> None:
    module = module_of(objective)
    trainer = make_trainer(1)
    trainer.fit(module, datamodule=same_batch(sync_batch))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    expert, loaded = load_expert(tmp_path / "last.ckpt")
    assert expert.head == ("cosine" if objective == "bce" else "contrastive")
    assert loaded.hparams == {"objective": objective, "width": 0.125, "min_gap": 3}
    own = module.expert.state_dict()
    assert all(torch.equal(own[key], value) for key, value in expert.state_dict().items())
