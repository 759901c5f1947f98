"""Memory format and compilation change how networks are computed, not what."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipsync.checkpoints.networks import load_generator
from lipsync.data.generation import GenerationBatch
from lipsync.data.sync_pairs import SyncBatch
from lipsync.errors import ConfigError
from lipsync.models.syncnet import SyncNet
from lipsync.training.acceleration import Acceleration, align_state, compiled_parts
from lipsync.training.syncnet import SyncNetModule

ADAM = partial(torch.optim.Adam, lr=1e-3)


def fit(make_trainer: Any, module: Any, data: Any, steps: int = 2, **arguments: Any) -> Any:
    trainer = make_trainer(steps, callbacks=[Acceleration(**arguments)])
    trainer.fit(module, datamodule=data)
    return trainer


def is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "last"),
    [({}, True), ({"channels_last": False}, False), ({"channels_last": True}, True)],
)
def test_weights_gradients_and_optimizer_state_share_the_format(
    make_trainer: Any, same_batch: Any, sync_batch: SyncBatch, arguments: dict[str, Any], last: bool
) -> None:
    module = SyncNetModule(ADAM, width=0.125)
    keys = list(module.state_dict())
    trainer = fit(make_trainer, module, same_batch(sync_batch, steps=2), **arguments)
    assert list(module.state_dict()) == keys
    weight = module.expert.face_encoder[0].conv_block[0].weight  # (8, 15, 7, 7): the formats differ
    moments = trainer.optimizers[0].state[weight]
    for tensor in (weight, weight.grad, moments["exp_avg"], moments["exp_avg_sq"]):
        assert is_channels_last(tensor) == last
    seen: list[torch.Tensor] = []
    module.expert.face_encoder[2].register_forward_hook(lambda _m, _i, out: seen.append(out))
    module.expert(sync_batch.mel, sync_batch.face)
    assert is_channels_last(seen[0]) == last, "activations follow the weights"


def learned(module: Any, before: dict[str, torch.Tensor]) -> torch.Tensor:
    """What training added to the parameters, as one vector."""
    return torch.cat([(p.detach() - before[name]).flatten() for name, p in module.named_parameters()])


def assert_same(fast: torch.Tensor, plain: torch.Tensor) -> None:
    """Equal up to the rounding of sums in another order."""
    assert plain.norm() > 1e-3
    assert (fast - plain).norm() < 1e-2 * plain.norm()


FASTER = [{"channels_last": True}, {"compile_mode": "default", "backend": "eager"}]


@pytest.mark.parametrize("arguments", FASTER)
def test_the_same_is_learned(
    make_trainer: Any, same_batch: Any, sync_batch: SyncBatch, arguments: dict[str, Any]
) -> None:
    def trained(**settings: Any) -> torch.Tensor:
        torch.manual_seed(1)
        module = SyncNetModule(partial(torch.optim.SGD, lr=0.1), width=0.125)
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        fit(make_trainer, module, same_batch(sync_batch), steps=1, **settings)
        return learned(module, before)

    assert_same(trained(**arguments), trained(channels_last=False))


def test_auto_leaves_compiled_networks_on_a_cpu_alone() -> None:
    assert Acceleration()._use_channels_last("cpu")
    assert Acceleration()._use_channels_last("cuda")
    assert Acceleration(compile_mode="default")._use_channels_last("cuda")
    assert not Acceleration(compile_mode="default")._use_channels_last("cpu")
    assert not Acceleration()._use_channels_last("mps")


def test_compiled_parts_of_the_modules(make_module: Any, expert_file: Path) -> None:
    module = make_module(critic=True, expert_checkpoint=str(expert_file), ema_decay=0.9)
    parts = list(compiled_parts(module))
    wanted = [module.generator, module.critic, module.expert.face_encoder, module.expert.audio_encoder]
    assert {id(part) for part in parts} == {id(part) for part in wanted}
    assert len(parts) == len(wanted)
    expert: SyncNet = SyncNetModule(ADAM, width=0.125).expert
    holder = nn.Module()
    holder.add_module("expert", expert)
    assert list(compiled_parts(holder)) == [expert.face_encoder, expert.audio_encoder]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")
def test_a_compiled_gan_step_learns_and_its_checkpoint_is_a_plain_one(
    make_trainer: Any, same_batch: Any, make_module: Any, generation_batch: GenerationBatch, expert_file: Path
) -> None:
    """Without a code generator: the swapped parameters of the frozen critic are what could break."""

    def trained(**settings: Any) -> tuple[Any, Any, torch.Tensor]:
        module = make_module(critic=True, expert_checkpoint=str(expert_file))
        module.sync_weight.fill_(0.03)
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        module.optimizer = partial(torch.optim.SGD, lr=0.1)
        trainer = fit(make_trainer, module, same_batch(generation_batch), channels_last=False, **settings)
        return module, trainer, learned(module, before)

    _, _, plain = trained()
    module, trainer, fast = trained(compile_mode="default", backend="eager")
    assert_same(fast, plain)
    path = expert_file.with_name("last.ckpt")
    trainer.save_checkpoint(path)
    generator, _ = load_generator(path)
    assert generator.state_dict().keys() == module.generator.state_dict().keys()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
def test_a_run_resumes_in_another_format(
    make_trainer: Any, same_batch: Any, sync_batch: SyncBatch, tmp_path: Path, first: bool
) -> None:
    data = same_batch(sync_batch, steps=4)
    trainer = fit(make_trainer, SyncNetModule(ADAM, width=0.125), data, channels_last=first)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = trainer.optimizers[0].state_dict()["state"]

    resumed = SyncNetModule(ADAM, width=0.125)
    watcher = _StateAtStart()
    trainer = make_trainer(3, callbacks=[Acceleration(channels_last=not first), watcher])
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    for number, (parameter, exp_avg) in enumerate(watcher.state):
        assert exp_avg.stride() == parameter.stride()
        assert torch.equal(exp_avg, saved[number]["exp_avg"])


class _StateAtStart(Acceleration):
    """Keeps the parameters and first moments with which training starts; does nothing itself."""

    def __init__(self) -> None:
        super().__init__(channels_last=False)
        self.state: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        state = trainer.optimizers[0].state
        self.state = [(p.detach().clone(), s["exp_avg"].clone()) for p, s in state.items()]


def test_aligned_state_keeps_its_values() -> None:
    weight = nn.Parameter(torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight])
    average = torch.randn(4, 3, 3, 3)
    optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": average, "note": "kept"}
    align_state(optimizer)
    state = optimizer.state[weight]
    assert is_channels_last(state["exp_avg"])
    assert torch.equal(state["exp_avg"], average)
    assert state["note"] == "kept"
    assert float(state["step"]) == 3


def test_the_process_is_left_as_it_was(make_trainer: Any, same_batch: Any, sync_batch: SyncBatch) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    fit(make_trainer, SyncNetModule(ADAM, width=0.125), same_batch(sync_batch), steps=1)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels_last": "yes"}, "channels_last=yes: choose auto, true, false"),
        ({"matmul_precision": "low"}, "matmul_precision=low: choose highest, high, medium"),
    ],
)
def test_unknown_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Acceleration(**arguments)
