"""Files of a run that can be killed at any moment: written whole, checked when read, one in reserve."""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lipsync.data.generation import GenerationBatch
from lipsync.errors import CheckpointError, ConfigError
from lipsync.training import checkpointing
from lipsync.training.checkpointing import (
    AtomicCheckpointIO,
    ExactResume,
    LastCheckpoint,
    StepCheckpoint,
    read_last,
    read_training_state,
)

MODULE: Any = nn.Identity()


class Run:
    """As much of a trainer as the callbacks look at; what it saves is the number of the step."""

    def __init__(self, *, world_size: int = 1) -> None:
        self.trainer: Any = SimpleNamespace(
            global_step=0, world_size=world_size, current_epoch=0, is_global_zero=True
        )
        self.trainer.save_checkpoint = lambda path: Path(path).write_text(str(self.trainer.global_step))
        self.trainer.strategy = SimpleNamespace(broadcast=lambda value: value)
        counts = {part: dict.fromkeys(("ready", "started", "processed", "completed"), 0) for part in "tc"}
        self.trainer.fit_loop = SimpleNamespace(state_dict=lambda: {"epoch_progress": counts})

    def steps(self, saver: Any, count: int) -> None:
        """So many batches, each of them an optimizer step."""
        for batch in range(count):
            saver.on_train_batch_start(self.trainer, MODULE, None, batch)
            self.trainer.global_step += 1
            saver.on_train_batch_end(self.trainer, MODULE, None, None, batch)


def save(path: Path, value: float = 0.0, **parts: Any) -> None:
    """A small checkpoint of a training run."""
    state = {"w": torch.full((64, 64), value)}
    torch.save({"pytorch-lightning_version": "2.6", "state_dict": state, **parts}, path)


def test_a_file_is_replaced_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, events = tmp_path / "new" / "last.ckpt", []
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3)}, path)
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(path, weights_only=True)["a"], torch.ones(3))
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("flush"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (events.append("rename"), replace(a, b))[1])
    AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(3)}, path)
    assert events == ["flush", "rename"], "the bytes are on the disk before the name is"
    with pytest.raises(TypeError):
        AtomicCheckpointIO().save_checkpoint({"a": (i for i in range(3))}, path)  # cannot be saved
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.zeros(3)), (
        "the older file is still there, and whole"
    )
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(path)
    state = {"global_step": 7}
    plugin = AtomicCheckpointIO(path, state)
    assert plugin.load_checkpoint(str(path)) is state
    assert "state_dict" in plugin.load_checkpoint(path), "once"


def test_last_is_saved_when_the_next_step_begins_and_at_the_end(tmp_path: Path) -> None:
    run, last = Run(), LastCheckpoint(str(tmp_path), every_n_steps=2)
    last.on_train_start(run.trainer, MODULE)

    def files() -> dict[str, str]:
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    run.steps(last, 2)
    assert files() == {}, "a validation may follow the second step"
    run.steps(last, 1)
    assert files() == {"last.ckpt": "2"}
    run.steps(last, 2)
    last.on_train_end(run.trainer, MODULE)
    assert files() == {"last.ckpt": "5", "previous.ckpt": "4"}


def test_gradients_that_are_being_accumulated_are_not_cut_off(tmp_path: Path) -> None:
    run, last = Run(), LastCheckpoint(str(tmp_path), every_n_steps=1)
    last.on_train_start(run.trainer, MODULE)
    saved: list[int] = []
    run.trainer.save_checkpoint = lambda path: (saved.append(batches), Path(path).touch())
    for batches in range(1, 8):
        before = run.trainer.global_step
        last.on_train_batch_start(run.trainer, MODULE, None, 0)
        run.trainer.global_step = before + (batches % 3 == 0)
        last.on_train_batch_end(run.trainer, MODULE, None, None, 0)
    assert saved == [4, 7], "when the batch after each third one begins"


@pytest.mark.parametrize(("world_size", "saved"), [(1, [4, 8, 12, 16, 20, 24]), (2, [10, 20])])
def test_saving_by_time(
    world_size: int, saved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 15 seconds; of several processes the first one decides, now and then."""
    run, last = Run(world_size=world_size), LastCheckpoint(str(tmp_path), every_minutes=1)
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: 15.0 * run.trainer.global_step)
    steps: list[int] = []
    run.trainer.save_checkpoint = lambda path: (steps.append(run.trainer.global_step), Path(path).touch())
    last.on_train_start(run.trainer, MODULE)
    asked: list[int] = []
    run.trainer.strategy.broadcast = lambda value: (asked.append(run.trainer.global_step), value)[1]
    run.steps(last, 26)
    assert steps == saved
    assert world_size == 1 or asked == [10, 20]


def test_ctrl_c_saves_in_a_single_process(tmp_path: Path) -> None:
    for world, step, error, saved in (
        (1, 5, KeyboardInterrupt(), True),
        (1, 0, KeyboardInterrupt(), False),  # nothing done yet
        (2, 5, KeyboardInterrupt(), False),  # saving is collective
        (1, 5, RuntimeError("bug"), False),
    ):
        run = Run(world_size=world)
        run.trainer.global_step = step
        LastCheckpoint(str(tmp_path)).on_exception(run.trainer, MODULE, error)
        assert (tmp_path / "last.ckpt").is_file() == saved, (world, step, error)
        (tmp_path / "last.ckpt").unlink(missing_ok=True)


def test_a_run_without_a_step_saves_nothing(tmp_path: Path) -> None:
    run, last = Run(), LastCheckpoint(str(tmp_path), every_n_steps=1)
    run.trainer.global_step = 9  # resumed where it had ended
    last.on_train_start(run.trainer, MODULE)
    last.on_train_end(run.trainer, MODULE)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*(not resumable|many workers|no .validation_step.)")
def test_numbered_checkpoints(
    make_trainer: Any, make_module: Any, same_batch: Any, generation_batch: GenerationBatch, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "filename": "step{step:09d}",
        "auto_insert_metric_name": False,
        "save_top_k": -1,
    }
    steps = StepCheckpoint(dirpath=str(tmp_path), every_n_train_steps=2, **settings)
    trainer = make_trainer(4, callbacks=[steps], enable_checkpointing=True)
    trainer.fit(make_module(), datamodule=same_batch(generation_batch, steps=9))
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert names == ["step000000002.ckpt", "step000000004.ckpt"]
    assert torch.load(tmp_path / names[0], weights_only=True)["global_step"] == 2
    with pytest.raises(ConfigError, match=r"callbacks\.checkpoint\.every_n_train_steps=0"):
        StepCheckpoint(dirpath=str(tmp_path), every_n_train_steps=0)


@pytest.mark.parametrize("settings", [{"every_n_steps": 0}, {"every_minutes": -1}])
def test_intervals_are_checked(settings: dict[str, Any], tmp_path: Path) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"callbacks.last.{name}"):
        LastCheckpoint(str(tmp_path), **settings)


def test_random_numbers_depend_on_the_step_alone() -> None:
    run = Run()
    run.trainer.global_rank = 0

    def draw(step: int, seed: int = 0, rank: int = 0, batch: int = 0) -> tuple[float, float, float]:
        run.trainer.global_step, run.trainer.global_rank = step, rank
        ExactResume(seed).on_train_batch_start(run.trainer, MODULE, None, batch)
        return random.gauss(0, 1), float(np.random.rand()), float(torch.rand(()))

    first = draw(5)
    torch.rand(3)
    assert draw(5) == first
    for other in (draw(6), draw(5, seed=1), draw(5, rank=1), draw(5, batch=1)):
        assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.filterwarnings("ignore:.*(not resumable|many workers|no .validation_step.)")
def test_dropout_goes_on_as_it_would_have(
    make_trainer: Any,
    same_batch: Any,
    generation_batch: GenerationBatch,
    tmp_path: Path,
) -> None:
    """A network that draws from the process's generator, resumed in the middle."""

    class Noisy(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.seen = nn.Linear(4, 1), []

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = nn.functional.dropout(self.layer(torch.rand(8, 4))).square().mean()
            self.seen.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    def run(steps: int, **resume: Any) -> list[float]:
        torch.manual_seed(steps)
        module = Noisy()
        with torch.no_grad():
            module.layer.weight.fill_(1.0)
            module.layer.bias.fill_(0.0)
        last = LastCheckpoint(str(tmp_path / f"to{steps}"))
        callbacks, plugins = [ExactResume(3), last], [AtomicCheckpointIO()]
        trainer = make_trainer(steps, callbacks=callbacks, plugins=plugins, enable_checkpointing=True)
        trainer.fit(module, datamodule=same_batch(generation_batch, steps=3), **resume)
        return module.seen

    straight = run(7)
    assert run(4) == straight[:4]
    assert run(7, ckpt_path=str(tmp_path / "to4" / "last.ckpt"), weights_only=True) == straight[4:]


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    contents = {"cut": data[: len(data) // 2], "empty": b"", "zeros": bytes(len(data)), "flipped": data}
    path.write_bytes(contents[how]) if how != "gone" else path.unlink()


@pytest.mark.parametrize("how", ["cut", "empty", "zeros", "flipped", "gone"])
def test_a_damaged_last_gives_way_to_the_newest_that_can_be_read(how: str, tmp_path: Path) -> None:
    names = ("step000000003.ckpt", "previous.ckpt", "last.ckpt")
    for number, name in enumerate(names):
        save(tmp_path / name, number, global_step=number)
        os.utime(tmp_path / name, (number, number))
    path, state = read_last(tmp_path)
    assert (path.name, state["global_step"]) == ("last.ckpt", 2)
    damage(tmp_path / "last.ckpt", how)
    path, state = read_last(tmp_path)
    assert (path.name, state["global_step"]) == ("previous.ckpt", 1)
    damage(tmp_path / "previous.ckpt", how)
    torch.save({"state_dict": {}}, tmp_path / "export.ckpt")  # newer, but no training state
    path, _ = read_last(tmp_path)
    assert path.name == "step000000003.ckpt"
    damage(path, how)
    with pytest.raises(CheckpointError) as caught:
        read_last(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "ckpt_path" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt: no such checkpoint"):
        read_last(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_last(tmp_path / "gone")


def test_every_changed_byte_of_the_contents_is_noticed(tmp_path: Path) -> None:
    """A flipped bit leaves what was saved, or is an error of the user's kind; never other weights."""
    path, rng = tmp_path / "last.ckpt", np.random.default_rng(0)
    save(path, 0.5, optimizer_states=[{"state": {0: {"step": torch.tensor(4.0)}}}])
    data = path.read_bytes()
    messages: list[str] = []
    for position in rng.choice(len(data), 400, replace=False):
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            state = read_training_state(path)
        except CheckpointError as error:
            messages.append(str(error))
        else:
            assert torch.equal(state["state_dict"]["w"], torch.full((64, 64), 0.5)), position
            assert float(state["optimizer_states"][0]["state"][0]["step"]) == 4.0
    assert len(messages) > 300, "most of the file is weights"
    assert all(m.startswith(str(path)) and "\n" not in m for m in messages)
