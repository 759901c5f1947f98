"""The generator's module: its loss is the papers', the expert stays frozen, checkpoints come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync.checkpoints.formats import sha256_of
from lipsync.checkpoints.networks import load_generator
from lipsync.data.generation import GenerationBatch
from lipsync.losses.sync import cosine_bce
from lipsync.models.syncnet import lower_half_windows
from lipsync.training.judging import expert_scores
from lipsync.training.wav2lip import Wav2LipModule

Make = Callable[..., Wav2LipModule]

# The frozen expert is in eval mode on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}


def test_weights_are_those_of_the_papers(make_module: Make, expert_file: Path) -> None:
    plain = make_module(expert_checkpoint=str(expert_file))
    assert float(plain.weights()["l1"]) == 1, "no sync loss before the gate opens"
    plain.sync_weight.fill_(0.03)
    weights = {name: float(value) for name, value in plain.weights().items()}
    assert weights["sync"] == pytest.approx(0.03)
    assert weights["adversarial"] == 0
    assert weights["l1"] + weights["sync"] == pytest.approx(1)

    hq = make_module(critic=True, adversarial_weight=0.07)
    hq.sync_weight.fill_(0.03)
    weights = {name: float(value) for name, value in hq.weights().items()}
    assert weights == pytest.approx({"l1": 0.9, "sync": 0.03, "adversarial": 0.07, "critic": 1.0})


def test_terms_follow_what_the_module_was_given(
    make_module: Make, expert_file: Path, generation_batch: GenerationBatch
) -> None:
    fake = generation_batch.target * 0.5
    assert set(make_module().losses(generation_batch, fake)) == {"l1"}
    with_expert = make_module(expert_checkpoint=str(expert_file))
    assert set(with_expert.losses(generation_batch, fake)) == {"l1"}, "weight 0 costs no forward pass"
    with_expert.sync_weight.fill_(0.01)
    assert set(with_expert.losses(generation_batch, fake)) == {"l1", "sync"}
    hq = make_module(critic=True, expert_checkpoint=str(expert_file))
    hq.sync_weight.fill_(0.01)
    assert set(hq.losses(generation_batch, fake)) == {"l1", "sync", "adversarial", "critic"}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_expert_keeps_its_mode(mode: Any, make_module: Make, expert_file: Path) -> None:
    module = make_module(expert_checkpoint=str(expert_file), expert_mode=mode)
    for training in (True, False, True):
        assert module.train(training) is module
        assert module.generator.training is training
        assert module.expert is not None
        assert module.expert.training is (mode == "train")
    module.eval()
    assert module.expert.training is (mode == "train")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_training_leaves_the_expert_alone(
    *,
    mode: Any,
    make_module: Make,
    expert_file: Path,
    generation_batch: GenerationBatch,
    make_trainer: Any,
    same_batch: Any,
) -> None:
    module = make_module(expert_checkpoint=str(expert_file), expert_mode=mode)
    module.sync_weight.fill_(0.5)
    assert module.expert is not None
    expert, generator = copied(module.expert), copied(module.generator)
    trainer = make_trainer(2)
    trainer.fit(module, datamodule=same_batch(generation_batch, steps=2))
    assert all(parameter.grad is None for parameter in module.expert.parameters())
    assert not any(parameter.requires_grad for parameter in module.expert.parameters())
    learned = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert learned == {id(p) for p in module.generator.parameters()}
    assert changed(module.generator, generator) >= {key for key in generator if key.endswith("weight")}
    statistics = {key for key in expert if key.endswith(("running_mean", "running_var", "batches_tracked"))}
    # Batch statistics are what "train" means: the reference never switches its expert to eval.
    moved = changed(module.expert, expert)
    assert moved == (statistics if mode == "train" else set())


def reference_terms(module: Wav2LipModule, batch: GenerationBatch, fake: Tensor) -> dict[str, Tensor]:
    """The terms of Wav2Lip-HQ written out from the reference, with probabilities instead of logits."""
    assert module.expert is not None
    assert module.critic is not None
    audio, face = module.expert(batch.mel, lower_half_windows(fake))
    ones, zeros = torch.ones(10, 1), torch.zeros(10, 1)
    real, judged = torch.sigmoid(module.critic(batch.target)), torch.sigmoid(module.critic(fake.detach()))
    return {
        "l1": (fake - batch.target).abs().mean(),
        "sync": cosine_bce(audio, face, torch.ones(2)),
        "adversarial": functional.binary_cross_entropy(torch.sigmoid(module.critic(fake)), ones),
        "critic": functional.binary_cross_entropy(real, ones)
        + functional.binary_cross_entropy(judged, zeros),
    }


def test_the_step_of_hq_is_the_reference_s_two(
    make_module: Make, expert_file: Path, generation_batch: GenerationBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(critic=True, expert_checkpoint=str(expert_file))
    module.sync_weight.fill_(0.03)
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    total = module.training_step(generation_batch, 0)
    total.backward()
    ours = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

    again = make_module(critic=True, expert_checkpoint=str(expert_file))
    assert again.critic is not None
    fake = again.generator(generation_batch.mels, generation_batch.faces)
    terms = reference_terms(again, generation_batch, fake)
    for name, value in terms.items():
        assert logged[f"train/{name}"].item() == pytest.approx(value.item(), rel=1e-5), name
    generated = 0.03 * terms["sync"] + 0.07 * terms["adversarial"] + 0.9 * terms["l1"]
    assert total.item() == pytest.approx((generated + terms["critic"]).item(), rel=1e-5)
    # Two optimizers, two backward passes: the generator's loss must leave the critic's gradient alone.
    generator = list(again.generator.named_parameters(prefix="generator"))
    critic = list(again.critic.named_parameters(prefix="critic"))
    expected: dict[str, Tensor] = {}
    for loss, group in ((generated, generator), (terms["critic"], critic)):
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in group], retain_graph=True)
        expected |= {name: gradient for (name, _), gradient in zip(group, gradients, strict=True)}
    assert set(ours) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            ours[name], gradient, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_checkpoint_holds_no_expert_and_resumes_strictly(
    *,
    make_module: Make,
    expert_file: Path,
    generation_batch: GenerationBatch,
    make_trainer: Any,
    same_batch: Any,
    tmp_path: Path,
) -> None:
    module = make_module(critic=True, expert_checkpoint=str(expert_file))
    module.sync_weight.fill_(0.02)
    trainer = make_trainer(1)
    trainer.fit(module, datamodule=same_batch(generation_batch))
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    assert any(key.startswith("expert.") for key in module.state_dict()), "the module itself keeps it"

    saved = torch.load(path, weights_only=True)
    parts = {key.partition(".")[0] for key in saved["state_dict"]}
    assert parts == {"generator", "critic", "sync_weight"}
    assert saved["hyper_parameters"]["expert_sha256"] == sha256_of(expert_file)
    assert saved["hyper_parameters"]["mel_shift"] == -1

    resumed = make_module(critic=True, expert_checkpoint=str(expert_file))
    other = make_trainer(1)  # has done its one step already: only loads
    other.fit(resumed, datamodule=same_batch(generation_batch), ckpt_path=path, weights_only=True)
    assert other.global_step == 1
    assert float(resumed.sync_weight) == pytest.approx(0.02), "the gate's weight survives"
    assert not changed(resumed, copied(module))

    generator, loaded = load_generator(path)
    assert not changed(generator, copied(module.generator))
    assert loaded.hparams["expert_checkpoint"] == str(expert_file)


def test_a_checkpoint_of_another_size_is_not_resumed(
    make_module: Make, generation_batch: GenerationBatch, make_trainer: Any, same_batch: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(1)
    trainer.fit(make_module(), datamodule=same_batch(generation_batch))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(RuntimeError, match=r"Missing key.*critic"):
        make_trainer(2).fit(
            make_module(critic=True),
            datamodule=same_batch(generation_batch),
            ckpt_path=tmp_path / "last.ckpt",
            weights_only=True,
        )


def test_validation_compares_with_copying(
    make_module: Make,
    expert_file: Path,
    generation_batch: GenerationBatch,
    make_trainer: Any,
    same_batch: Any,
) -> None:
    module = make_module(expert_checkpoint=str(expert_file))
    trainer = make_trainer(limit_val_batches=1.0)
    data = same_batch(generation_batch, val_splits=["val", "seen"])
    trainer.validate(module, datamodule=data, verbose=False)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    names = ("l1", "l1_lower", "l1_copy", "sharpness", "pattern", "sync", "own", "own_real")
    assert set(metrics) == {f"{split}/{name}" for split in ("val", "seen") for name in names}
    target, reference = generation_batch.target, generation_batch.faces[:, 3:]
    with torch.inference_mode():
        fake = module.eval().generator(generation_batch.mels, generation_batch.faces)
    lower = slice(48, None)
    assert metrics["val/l1"] == pytest.approx(float((fake - target).abs().mean()))
    assert metrics["val/l1_lower"] == pytest.approx(float((fake - target)[..., lower, :].abs().mean()))
    assert metrics["val/l1_copy"] == pytest.approx(float((reference - target)[..., lower, :].abs().mean()))
    assert metrics["seen/sync"] == metrics["val/sync"] > 0


def test_own_speech_is_preferred_or_not(
    make_module: Make, expert_file: Path, generation_batch: GenerationBatch
) -> None:
    module = make_module(expert_checkpoint=str(expert_file)).eval()
    assert module.expert is not None
    swapped = generation_batch._replace(
        mel=generation_batch.reference_mel, reference_mel=generation_batch.mel
    )
    with torch.inference_mode():
        own = expert_scores(module.expert, generation_batch, generation_batch.target)["own"]
        other = expert_scores(module.expert, swapped, generation_batch.target)["own"]
    assert float(own + other) == 1


def test_a_lowered_sync_weight_goes_to_l1(make_module: Make, expert_file: Path) -> None:
    module = make_module(expert_checkpoint=str(expert_file))
    module.sync_weight.fill_(0.04)
    module.sync_factor = 0.25
    weights = {name: float(value) for name, value in module.weights().items()}
    assert weights["sync"] == pytest.approx(0.01)
    assert weights["l1"] == pytest.approx(0.99)


def test_a_tiny_batch_is_learned(
    make_module: Make, generation_batch: GenerationBatch, make_trainer: Any, same_batch: Any
) -> None:
    smooth = functional.avg_pool3d(generation_batch.target, (5, 31, 31), stride=1, padding=(2, 15, 15))
    batch = generation_batch._replace(target=smooth)
    module = make_module()

    def l1() -> float:
        with torch.inference_mode():
            return float((module.generator(batch.mels, batch.faces) - batch.target).abs().mean())

    before = l1()
    make_trainer(15).fit(module, datamodule=same_batch(batch, steps=15))
    assert l1() < 0.75 * before
