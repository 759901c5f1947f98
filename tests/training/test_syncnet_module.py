"""What the expert's module optimises, and what its validation measures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional

from lipsync.checkpoints.networks import load_expert
from lipsync.data.sync_pairs import SyncBatch
from lipsync.losses.sync import contrastive_loss, cosine_bce
from lipsync.training.optimization import warmup_constant, warmup_cosine
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
    settings = {"objective": objective, "width": 0.125, "min_gap": 3, "image_size": 96}
    assert loaded.hparams == {**settings, "lr_scaling": "none", "base_batch": 256}
    own = module.expert.state_dict()
    assert all(torch.equal(own[key], value) for key, value in expert.state_dict().items())


class Sized(pl.LightningDataModule):
    """The same batches for training and validation; says how many windows one has."""

    batch_size = 12
    val_splits = ("val",)

    def __init__(self, batches: list[SyncBatch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_the_rate_follows_the_global_batch(
    rule: Any, factor: float, sync_batch: SyncBatch, make_trainer: Any
) -> None:
    module = module_of(lr_scaling=rule, base_batch=6, scheduler=warmup_constant)
    trainer = make_trainer(1, accumulate_grad_batches=2)
    trainer.fit(module, datamodule=Sized([sync_batch] * 4))
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs == [pytest.approx(2e-3 * factor)]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(2e-3 * factor * 2 / 100)


def test_the_line_about_the_rate(sync_batch: SyncBatch, make_trainer: Any) -> None:
    assert module_of(lr_scaling="sqrt", base_batch=256).lr_note(1024) == "lr 0.002 x sqrt(1024/256) = 0.004"
    assert module_of(lr_scaling="linear", base_batch=64).lr_note(16) == "lr 0.002 x 16/64 = 0.0005"
    assert module_of(lr_scaling="sqrt").lr_note() == "lr 0.002 x sqrt(global batch/256)"
    assert module_of().lr_note(1024).startswith("lr 0.002, whatever the batch")
    module = module_of(lr_scaling="linear", base_batch=6)
    make_trainer(1).fit(module, datamodule=Sized([sync_batch] * 4))
    assert module.lr_note() == "lr 0.002 x 12/6 = 0.004"


def test_a_network_for_larger_pictures() -> None:
    module = module_of(image_size=192)
    assert module.expert.image_size == module.hparams["image_size"] == 192
    audio, face = module.eval().expert(torch.zeros(2, 1, 80, 16), torch.zeros(2, 15, 96, 192))
    assert audio.shape == face.shape == (2, 256)


def rows(batch: SyncBatch, index: list[int]) -> SyncBatch:
    return SyncBatch(*(field[index] for field in batch))


def test_validation_means_are_over_clips_however_they_fall_into_batches(
    sync_batch: SyncBatch, make_trainer: Any
) -> None:
    """Three clips, of five, four and three windows, in one batch or two."""
    clip = torch.tensor([0] * 5 + [1] * 4 + [2] * 3)
    batch = sync_batch._replace(clip=clip, frame=torch.arange(12))
    torch.manual_seed(4)
    module = module_of("bce")

    def validated(batches: list[SyncBatch]) -> dict[str, torch.Tensor]:
        data = Sized(batches)
        trainer = make_trainer(limit_val_batches=1.0)
        trainer.validate(module, datamodule=data, verbose=False)
        return dict(trainer.callback_metrics)

    whole = validated([batch])
    parts = validated([rows(batch, list(range(9))), rows(batch, [9, 10, 11])])
    for name in ("pair_accuracy", "offset_accuracy"):
        assert parts[f"val/{name}"] == pytest.approx(float(whole[f"val/{name}"])), name
    with torch.inference_mode():
        audio, face = module.eval().expert(batch.mel, batch.face)
        each = [
            float(clip_scores(a, f)["pair_accuracy"])
            for a, f in zip(audio.split([5, 4, 3]), face.split([5, 4, 3]), strict=True)
        ]
    assert whole["val/pair_accuracy"] == pytest.approx(sum(each) / 3)


def test_a_clip_that_fills_another_process_up_is_not_counted_twice(sync_batch: SyncBatch) -> None:
    """Three clips on two processes: the second gets clip 1 and, for want of another, clip 0 again."""
    batch = sync_batch._replace(clip=torch.arange(12) // 4, frame=torch.arange(12))
    module = module_of("bce").eval()

    def sums(world_size: int, rank: int, clips: list[int]) -> torch.Tensor:
        data = SimpleNamespace(val_splits=["val"])
        module._trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=world_size, global_rank=rank, datamodule=data
        )
        module.on_validation_epoch_start()
        for clip in clips:
            with torch.inference_mode():
                module.validation_step(rows(batch, list(range(4 * clip, 4 * clip + 4))), clip)
        return module._sums["val"]

    together = sums(2, 0, [0, 2]) + sums(2, 1, [1, 0])
    torch.testing.assert_close(together, sums(1, 0, [0, 1, 2]))
    assert float(together[-1]) == 3


def share(batch: SyncBatch, rank: int) -> SyncBatch:
    """The windows of one of two processes; clips are torn apart."""
    return rows(batch, list(range(rank, 12, 2)))


def gradients_of_a_process(rank: int, folder: str) -> None:
    """Loss and DDP's gradients on this process's half of the windows, saved by the first process."""
    torch.set_num_threads(1)
    path = Path(folder)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path / 'rendezvous'}", rank=rank, world_size=2
    )
    state = torch.load(path / "input.pt", weights_only=True)
    module = module_of()
    module.load_state_dict(state["weights"])
    module.eval()  # frozen batch statistics: those of half a batch are other ones
    mine = share(SyncBatch(**state["batch"]), rank)
    module.log = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    # The same module inside DDP, called through its training step as Lightning does.
    module.forward = module.training_step  # type: ignore[method-assign,assignment]
    ddp = torch.nn.parallel.DistributedDataParallel(module)  # must outlive the backward pass
    loss = ddp(mine, 0)
    loss.backward()
    found = {name: p.grad for name, p in module.named_parameters()}
    torch.save({"loss": loss.detach(), "gradients": found}, path / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_their_joined_batch(
    sync_batch: SyncBatch, tmp_path: Path
) -> None:
    module = module_of().eval()
    torch.save({"weights": module.state_dict(), "batch": sync_batch._asdict()}, tmp_path / "input.pt")
    module.log = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    loss = module.training_step(sync_batch, 0)
    loss.backward()
    torch.multiprocessing.spawn(gradients_of_a_process, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    half = share(sync_batch, 0)
    with torch.inference_mode():
        alone = module.objective_loss(*module.expert(half.mel, half.face), half)
    assert abs(float(alone) - loss.item()) > 1e-3, "half a batch alone has another loss"
    for rank in ranks:
        assert float(rank["loss"]) == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in module.named_parameters():
            expected = parameter.grad
            assert expected is not None
            error = (rank["gradients"][name] - expected).norm()
            assert error <= 1e-3 * expected.norm() + 1e-6, name
    assert float(ranks[0]["gradients"]["expert.log_temperature"].abs()) > 0
