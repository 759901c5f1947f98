"""Offset repair with an expert that reads time off pictures and mels, so that every answer is known."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from lipsync.data.base_clip import BaseClip
from lipsync.data.sync_pairs import SyncPairDataset
from lipsync.errors import ConfigError
from lipsync.training.offset_repair import OffsetEstimate, OffsetRepair, estimate, repairs, similarity_curves

FRAMES = 60


class CodedClip(BaseClip):
    """Picture ``f`` is of grey ``4 f``; a mel column holds its time; the sound is ``late`` frames late."""

    def __init__(self, name: str, late: int = 0, missing: int | None = None) -> None:
        super().__init__(name)
        self.late, self.missing = late, missing

    @property
    def length(self) -> int:
        return FRAMES

    @property
    def present(self) -> npt.NDArray[np.int64]:
        return np.array([f for f in range(FRAMES) if f != self.missing])

    @property
    def mel_steps(self) -> int:
        return int(FRAMES * 3.2) + 1

    def frames(self, indices: Any, size: int) -> npt.NDArray[np.uint8]:
        greys = (4 * np.asarray(indices)).astype(np.uint8)
        return np.broadcast_to(greys[:, None, None, None], (len(greys), size, size, 3)).copy()

    def mel(self) -> npt.NDArray[np.float32]:
        time = np.arange(self.mel_steps) / 3.2 - self.late
        return np.broadcast_to(time.astype(np.float32), (80, self.mel_steps)).copy()


class Reader(nn.Module):
    """Embeds the time in frames that it reads; nearer times are more alike."""

    image_size = 96

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.weight, self.blind = nn.Parameter(torch.zeros(1)), blind

    def encode_face(self, window: Tensor) -> Tensor:
        assert not self.training
        return self._code(window[:, 0].mean((1, 2)) * 255 / 4)

    def encode_audio(self, mel: Tensor) -> Tensor:
        return self._code(mel[:, 0, :, 0].mean(1))

    def _code(self, time: Tensor) -> Tensor:
        if self.blind:
            time = torch.randn(time.shape, generator=torch.Generator().manual_seed(len(time)))
        phases = time[:, None] * torch.tensor([0.05, 0.1, 0.17, 0.29])
        return torch.cat([phases.cos(), phases.sin()], dim=1) / 2


def setting(clips: list[BaseClip], step: int = 40) -> tuple[Any, SyncPairDataset]:
    dataset = SyncPairDataset(clips, True, windows_per_clip=4)
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(train_set=dataset),
        precision_plugin=SimpleNamespace(forward_context=contextlib.nullcontext),
        global_step=step,
        max_steps=100,
        global_rank=0,
        world_size=1,
        is_global_zero=True,
    )
    return trainer, dataset


@pytest.mark.parametrize("late", [-9, -1, 0, 3, 10])
@pytest.mark.parametrize("missing", [None, 30])
def test_the_offset_is_found(late: int, missing: int | None) -> None:
    clips: list[BaseClip] = [CodedClip("a/0", late, missing), CodedClip("a/1")]
    first, second = similarity_curves(Reader().eval(), clips, windows=12, max_offset=15)  # type: ignore[arg-type]
    assert first.shape == (12, 31)
    assert estimate(first).offset == late
    assert estimate(second) == OffsetEstimate(0, 0.0)
    assert late == 0 or estimate(first).confidence > 2


def test_windows_without_speech_at_an_offset_do_not_count() -> None:
    curve = next(iter(similarity_curves(Reader().eval(), [CodedClip("a/0")], windows=4, max_offset=15)))  # type: ignore[arg-type]
    assert np.isnan(curve[0, :15]).all()  # before the clip begins
    assert np.isfinite(curve[:, 15]).all()


def test_noise_is_not_confident() -> None:
    rng = np.random.default_rng(0)
    sure = [estimate(rng.standard_normal((32, 31))).confidence >= 4 for _ in range(300)]
    assert np.mean(sure) < 0.1
    assert estimate(np.full((12, 31), np.nan)) == OffsetEstimate(0, 0.0)


def test_confident_clips_are_moved_or_left_out() -> None:
    estimates = {
        "b": OffsetEstimate(4, 9.0),
        "a": OffsetEstimate(-15, 9.0),
        "doubtful": OffsetEstimate(6, 1.0),
        "good": OffsetEstimate(0, 0.0),
        "near": OffsetEstimate(1, 9.0),
    }
    assert repairs(estimates, 15, 2.0) == {"a": None, "b": 4}


def test_the_callback_moves_the_clips_once_it_is_due(tmp_path: Path) -> None:
    clips: list[BaseClip] = [CodedClip(f"s/{i}", late) for i, late in enumerate([0, 5, 0, -7, 0])]
    trainer, dataset = setting(clips, step=10)
    module = SimpleNamespace(expert=Reader().train())
    repair = OffsetRepair(str(tmp_path), at=[0.4, 0.2], clips_at_once=2)
    repair.on_train_epoch_start(trainer, module)
    assert dataset.offsets == {}
    trainer.global_step = 20
    repair.on_train_epoch_start(trainer, module)
    assert dataset.offsets == {"s/1": 5, "s/3": -7}
    assert json.loads((tmp_path / "offsets.json").read_text()) == dataset.offsets
    assert module.expert.training
    assert not list(tmp_path.glob("*.part"))

    # Estimates do not build on earlier ones, and nothing happens before the next one is due.
    dataset.set_offsets({"s/1": 2})
    trainer.global_step = 30
    repair.on_train_epoch_start(trainer, module)
    assert dataset.offsets == {"s/1": 2}
    trainer.global_step = 40
    repair.on_train_epoch_start(trainer, module)
    assert dataset.offsets == {"s/1": 5, "s/3": -7}


def test_a_resumed_run_goes_on_with_the_table(tmp_path: Path) -> None:
    clips: list[BaseClip] = [CodedClip(f"s/{i}", late) for i, late in enumerate([0, 5])]
    trainer, _ = setting(clips)
    first = OffsetRepair(str(tmp_path), at=[0.4])
    first.on_train_epoch_start(trainer, SimpleNamespace(expert=Reader()))
    trainer, dataset = setting(clips)
    second = OffsetRepair(str(tmp_path), at=[0.4])
    second.load_state_dict(first.state_dict())
    second.on_fit_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert dataset.offsets == {"s/1": 5}
    second.on_train_epoch_start(trainer, SimpleNamespace(expert=None))  # not due: the expert is not asked


def test_shares_must_lie_inside_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"offset_repair\.at=\[1\.5\]"):
        OffsetRepair(str(tmp_path), at=[1.5])


def test_a_run_of_unknown_length_is_refused(tmp_path: Path) -> None:
    trainer, _ = setting([CodedClip("s/0"), CodedClip("s/1")])
    trainer.max_steps, trainer.estimated_stepping_batches = -1, float("inf")
    repair = OffsetRepair(str(tmp_path))
    with pytest.raises(ConfigError, match=r"give trainer\.max_steps=N"):
        repair.on_train_epoch_start(trainer, SimpleNamespace(expert=Reader()))
    trainer.estimated_stepping_batches = 100  # from a number of epochs
    repair.on_train_epoch_start(trainer, SimpleNamespace(expert=Reader()))
    assert repair.done == 1


def test_a_run_without_repair_says_so(tmp_path: Path) -> None:
    trainer, _ = setting([CodedClip("s/0"), CodedClip("s/1")])
    repair = OffsetRepair(str(tmp_path))
    with pytest.warns(
        UserWarning, match=r"never ran: no epoch began after 40% of the run.*data\.epoch_draws"
    ):
        repair.on_train_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    repair.done = 1
    repair.on_train_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
