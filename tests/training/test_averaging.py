"""The moving average of the generator: its formula, when it moves, and that resuming changes no bit of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipsync.data.generation import GenerationBatch
from lipsync.errors import ConfigError
from lipsync.training.averaging import MovingAverage
from lipsync.training.wav2lip import Wav2LipModule

Make = Callable[..., Wav2LipModule]

# The average is in eval mode on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def by_hand(states: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """``min(decay, (1 + n) / (10 + n))`` from the second state on, in double precision."""
    average = {key: value.double() for key, value in states[0].items()}
    for n, state in enumerate(states[1:], start=1):
        share = min(decay, (1 + n) / (10 + n))
        average = {key: share * average[key] + (1 - share) * value.double() for key, value in state.items()}
    return average


@pytest.mark.parametrize("decay", [0.9999, 0.3])
def test_the_average_equals_the_formula(decay: float) -> None:
    model = network()
    average = MovingAverage(model, decay)
    states = []
    for step in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 1, 8, 8) + step)  # moves the batch-norm statistics
        average.update_parameters(model)
        states.append({key: value.clone() for key, value in model.state_dict().items()})
    assert int(average.n_averaged) == 6
    for key, value in by_hand(states, decay).items():
        found = average.module.state_dict()[key]
        if key.endswith("num_batches_tracked"):
            assert found == 6, "counters are copied"
        else:
            torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-6)
            assert not torch.equal(found, states[-1][key]), key


def test_it_is_a_bystander() -> None:
    model = network().train()
    average = MovingAverage(model, 0.9)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert average.train() is average
    assert not any(part.training for part in average.modules())
    assert set(average.state_dict()) == {"n_averaged"} | {f"module.{key}" for key in model.state_dict()}


@pytest.mark.parametrize("clone", ["load", "deepcopy", "pickle"])
def test_a_copy_goes_on_where_it_was(clone: str) -> None:
    model = network()
    average = MovingAverage(model, 0.999)
    for _ in range(3):
        model(torch.randn(4, 1, 8, 8))
        average.update_parameters(model)
    if clone == "load":
        other = MovingAverage(network(), 0.999)
        other.update_parameters(network())  # has counted already
        other.load_state_dict(average.state_dict())
    else:
        other = copy.deepcopy(average) if clone == "deepcopy" else pickle.loads(pickle.dumps(average))  # noqa: S301 (its own)
    model(torch.randn(4, 1, 8, 8))
    for each in (average, other):
        each.update_parameters(model)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in average.state_dict().items())


def test_the_memory_format_is_the_model_s() -> None:
    model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = MovingAverage(model, 0.9)
    average.update_parameters(model)
    assert average.module.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator]


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 2.0])
def test_an_impossible_decay_is_refused(decay: float, make_module: Make) -> None:
    with pytest.raises(ConfigError, match=r"model\.ema_decay=.*0\.999"):
        make_module(ema_decay=decay)


class Followed(Wav2LipModule):
    """Keeps the generator's state after every optimizer step."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.states = [*getattr(self, "states", []), copy.deepcopy(self.generator.state_dict())]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_module_s_average_follows_the_optimizer(
    accumulate: int, make_module: Make, generation_batch: GenerationBatch, make_trainer: Any, same_batch: Any
) -> None:
    module = make_module(ema_decay=0.25)
    module.__class__ = Followed
    trainer = make_trainer(3, accumulate_grad_batches=accumulate)
    trainer.fit(module, datamodule=same_batch(generation_batch, steps=3 * accumulate))
    assert module.generator_ema is not None
    assert int(module.generator_ema.n_averaged) == trainer.global_step == 3
    expected = by_hand(module.states, 0.25)  # type: ignore[attr-defined]
    for key, value in module.generator_ema.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-4, atol=1e-5)


def test_validation_and_samples_use_the_average(
    make_module: Make, generation_batch: GenerationBatch, make_trainer: Any, same_batch: Any
) -> None:
    plain, averaged = make_module(), make_module(ema_decay=0.999)
    assert plain.generator_ema is None
    assert plain.eval_generator is plain.generator
    trainer = make_trainer(2, limit_val_batches=1.0, val_check_interval=2)
    trainer.fit(averaged, datamodule=same_batch(generation_batch, steps=2))
    assert averaged.generator_ema is not None
    assert averaged.eval_generator is averaged.generator_ema.module
    with torch.inference_mode():
        fake = averaged.eval_generator(generation_batch.mels, generation_batch.faces)
        raw = averaged.eval().generator(generation_batch.mels, generation_batch.faces)
    expected = float((fake - generation_batch.target).abs().mean())
    assert float(trainer.callback_metrics["val/l1"]) == pytest.approx(expected)
    assert expected != pytest.approx(float((raw - generation_batch.target).abs().mean()))


def test_training_does_not_notice_the_average(
    make_module: Make, generation_batch: GenerationBatch, make_trainer: Any, same_batch: Any
) -> None:
    modules = [make_module(ema_decay=decay) for decay in (None, 0.9)]
    for module in modules:
        make_trainer(2).fit(module, datamodule=same_batch(generation_batch, steps=2))
    first, second = (module.generator.state_dict() for module in modules)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_resuming_changes_no_bit(
    make_module: Make, generation_batch: GenerationBatch, make_trainer: Any, same_batch: Any, tmp_path: Path
) -> None:
    whole = make_module(ema_decay=0.999)
    make_trainer(3).fit(whole, datamodule=same_batch(generation_batch, steps=1))

    half = make_module(ema_decay=0.999)
    trainer = make_trainer(2)
    trainer.fit(half, datamodule=same_batch(generation_batch, steps=1))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    keys = {key for key in saved["state_dict"] if key.startswith("generator_ema.")}
    assert keys == {"generator_ema.n_averaged"} | {
        f"generator_ema.module.{key}" for key in half.generator.state_dict()
    }
    assert saved["hyper_parameters"]["ema_decay"] == 0.999

    resumed = make_module(ema_decay=0.999)
    other = make_trainer(3)
    data = same_batch(generation_batch, steps=1)
    other.fit(resumed, datamodule=data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert other.global_step == 3
    expected = whole.state_dict()
    differ = {key for key, value in resumed.state_dict().items() if not torch.equal(value, expected[key])}
    assert differ == set()
