"""Experts, judges and sync objectives of the generator's module: who trains it, and who only looks on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipsync.checkpoints.formats import sha256_of
from lipsync.data.generation import GenerationBatch
from lipsync.errors import CheckpointError, ConfigError
from lipsync.losses.sync import OBJECTIVES, Objective
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip
from lipsync.training.judging import JudgeWatch, expert_scores
from lipsync.training.wav2lip import Wav2LipModule

Make = Callable[..., Wav2LipModule]
ADAM = partial(torch.optim.Adam, lr=1e-3)

# The frozen networks are in eval mode on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}


@pytest.fixture
def judge_file(fill: Any, tmp_path: Path) -> Path:
    """A narrow expert of the other kind."""
    path = tmp_path / "judge.pth"
    torch.save({"state_dict": fill(SyncNet(width=0.125, head="contrastive"), gain=0.9).state_dict()}, path)
    return path


def test_a_judge_looks_on_and_nothing_else(
    *,
    make_module: Make,
    expert_file: Path,
    judge_file: Path,
    generation_batch: GenerationBatch,
    make_trainer: Any,
    same_batch: Any,
    tmp_path: Path,
) -> None:
    arguments = {"expert_checkpoint": str(expert_file), "expert_mode": "train"}
    module = make_module(**arguments, judge_checkpoint=str(judge_file))
    without = make_module(**arguments)
    for each in (module, without):
        each.sync_weight.fill_(0.5)
    assert module.judge is not None
    judge = copied(module.judge)
    trainer = make_trainer(2, limit_val_batches=1.0)
    trainer.fit(module, datamodule=same_batch(generation_batch, steps=2))
    assert not changed(module.judge, judge), "not even its batch-norm statistics"
    assert not module.judge.training
    assert not any(parameter.requires_grad for parameter in module.judge.parameters())
    make_trainer(2, limit_val_batches=1.0).fit(without, datamodule=same_batch(generation_batch, steps=2))
    assert not changed(module.generator, copied(without.generator)), "training is as without it"

    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    with torch.inference_mode():
        fake = module.eval().generator(generation_batch.mels, generation_batch.faces)
        said = expert_scores(module.judge, generation_batch, fake)
    assert set(said) == {"sync", "own", "own_real"}
    for name, value in said.items():
        assert metrics[f"val/judge_{name}"] == pytest.approx(float(value)), name
    assert metrics["val/judge_sync"] != metrics["val/sync"]

    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {key.partition(".")[0] for key in saved["state_dict"]} == {"generator", "sync_weight"}
    assert saved["hyper_parameters"]["judge_sha256"] == sha256_of(judge_file)
    resumed = make_module(**arguments, judge_checkpoint=str(judge_file))
    make_trainer(2).fit(
        resumed,
        datamodule=same_batch(generation_batch),
        ckpt_path=tmp_path / "last.ckpt",
        weights_only=True,
    )
    assert not changed(resumed, copied(module) | copied_statistics(resumed))


def copied_statistics(module: Wav2LipModule) -> dict[str, Tensor]:
    """State of the expert, which in ``train`` mode moves and is not saved."""
    return {key: value.clone() for key, value in module.state_dict().items() if key.startswith("expert.")}


def test_the_expert_cannot_be_its_own_judge(make_module: Make, expert_file: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "judge.pth"
    renamed.write_bytes(expert_file.read_bytes())
    with pytest.raises(CheckpointError, match=r"judge\.pth: is the expert itself") as error:
        make_module(expert_checkpoint=str(expert_file), judge_checkpoint=str(renamed))
    assert "\n" not in str(error.value)


def test_a_judge_needs_no_expert(
    make_module: Make, judge_file: Path, generation_batch: GenerationBatch, make_trainer: Any, same_batch: Any
) -> None:
    module = make_module(judge_checkpoint=str(judge_file))
    trainer = make_trainer(1, limit_val_batches=1.0)
    trainer.validate(module, datamodule=same_batch(generation_batch), verbose=False)
    assert {"val/judge_own", "val/judge_own_real"} <= set(trainer.callback_metrics)
    assert "val/own" not in trainer.callback_metrics


def test_the_watch_reads_what_validation_logs(
    *,
    make_module: Make,
    expert_file: Path,
    judge_file: Path,
    generation_batch: GenerationBatch,
    make_trainer: Any,
    same_batch: Any,
) -> None:
    module = make_module(expert_checkpoint=str(expert_file), judge_checkpoint=str(judge_file))
    watch = JudgeWatch(l1_growth=-0.99, action="lower")  # alarmed by any L1 at all
    trainer = make_trainer(1, limit_val_batches=1.0, callbacks=[watch])
    data = same_batch(generation_batch)
    trainer.validate(module, datamodule=data, verbose=False)
    before = watch.before
    assert before is not None
    assert before.l1 == pytest.approx(float(trainer.callback_metrics["val/l1_lower"]))
    module.sync_weight.fill_(0.1)
    with pytest.warns(UserWarning, match="L1 of the lower half"):
        trainer.validate(module, datamodule=data, verbose=False)
    assert watch.before == before
    assert module.sync_factor == 0.5


def test_two_experts_are_averaged(
    make_module: Make, expert_file: Path, judge_file: Path, generation_batch: GenerationBatch
) -> None:
    files = [str(expert_file), str(judge_file)]
    fake = generation_batch.target * 0.5

    def sync(checkpoints: Any) -> float:
        module = make_module(expert_checkpoint=checkpoints)
        module.sync_weight.fill_(0.1)
        return float(module.losses(generation_batch, fake)["sync"])

    both = make_module(expert_checkpoint=files)
    assert sync(files) == pytest.approx((sync(files[0]) + sync(files[1])) / 2)
    assert both.hparams["expert_sha256"] == [sha256_of(file) for file in files]
    assert not any(expert.training for expert in both.train().experts)
    assert not any(p.requires_grad for expert in both.experts for p in expert.parameters())
    checkpoint = {"state_dict": both.state_dict()}
    both.on_save_checkpoint(checkpoint)
    assert {key.partition(".")[0] for key in checkpoint["state_dict"]} == {"generator", "sync_weight"}
    both.on_load_checkpoint(checkpoint)
    both.load_state_dict(checkpoint["state_dict"], strict=True)
    with pytest.raises(CheckpointError, match="is the expert itself"):
        make_module(expert_checkpoint=files, judge_checkpoint=str(judge_file))


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_the_generator(
    *,
    objective: Objective,
    jitter: bool,
    make_module: Make,
    expert_file: Path,
    generation_batch: GenerationBatch,
    make_trainer: Any,
    same_batch: Any,
) -> None:
    module = make_module(expert_checkpoint=str(expert_file), sync_objective=objective, expert_jitter=jitter)
    module.sync_weight.fill_(1.0)  # no L1
    batch = generation_batch._replace(other_mels=torch.randn(2, 3, 1, 80, 16))
    before = copied(module.generator)
    trainer = make_trainer(1)
    trainer.fit(module, datamodule=same_batch(batch))
    assert trainer.callback_metrics["train/sync"] > 0
    # Where the generated mouth happens to satisfy a bound there is nothing to learn from it.
    assert changed(module.generator, before) >= {key for key in before if key.endswith("weight")}


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "default"])
def test_the_truth_satisfies_the_bounded_objectives(
    *,
    objective: Objective,
    jitter: bool,
    make_module: Make,
    expert_file: Path,
    generation_batch: GenerationBatch,
    make_trainer: Any,
) -> None:
    module = make_module(expert_checkpoint=str(expert_file), sync_objective=objective, expert_jitter=jitter)
    module.sync_weight.fill_(0.1)
    module.trainer = make_trainer()
    terms = module.losses(generation_batch, generation_batch.target.clone())
    assert float(terms["sync"]) == 0


def test_settings_that_contradict_one_another_are_refused(make_module: Make, expert_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.sync_objective=best: choose from default"):
        make_module(sync_objective="best")
    with pytest.raises(ConfigError, match=r"model\.expert_mode=half: choose from train"):
        make_module(expert_mode="half")
    with pytest.raises(ConfigError, match=r"generator\.image_size=96 is not model\.image_size=192"):
        make_module(image_size=192)


def test_an_expert_of_another_size_is_refused(
    fill: Any, make_module: Make, expert_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "large.pth"
    torch.save({"state_dict": fill(SyncNet(width=0.125, image_size=192)).state_dict()}, path)
    for name in ("expert_checkpoint", "judge_checkpoint"):
        with pytest.raises(CheckpointError, match=r"large\.pth.* 192 pixels.* paints 96;") as error:
            make_module(**{name: str(path)})
        assert "\n" not in str(error.value)
    generator = Wav2Lip(width=0.125, image_size=192)
    with pytest.raises(CheckpointError, match=r"expert\.pth.* 96 pixels, the generator paints 192"):
        Wav2LipModule(generator, ADAM, image_size=192, expert_checkpoint=str(expert_file))
    with pytest.raises(ConfigError, match=r"critic\.image_size=96"):
        Wav2LipModule(generator, ADAM, image_size=192, critic=QualityDiscriminator(width=0.125))
