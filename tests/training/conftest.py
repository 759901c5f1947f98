"""Small batches of noise and a trainer that runs a module on them, nothing else switched on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lipsync.data.generation import GenerationBatch
from lipsync.data.sync_pairs import SyncBatch
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip
from lipsync.training.wav2lip import Wav2LipModule

WIDTH = 0.125
ADAM = partial(torch.optim.Adam, lr=1e-3)


class SameBatch(pl.LightningDataModule):
    """One batch, ``steps`` times an epoch and once for each validation list."""

    def __init__(self, batch: Any, steps: int = 1, val_splits: Sequence[str] = ("val",)) -> None:
        super().__init__()
        self.batch, self.steps, self.val_splits = batch, steps, list(val_splits)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.batch] * self.steps, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader([self.batch], batch_size=None) for _ in self.val_splits]  # type: ignore[arg-type]


@pytest.fixture
def same_batch() -> type[SameBatch]:
    return SameBatch


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """``make_trainer(steps, **settings)``: on the CPU, without logger, checkpoints and progress bar."""

    def make(steps: int = 1, **settings: Any) -> pl.Trainer:
        quiet: dict[str, Any] = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(accelerator="cpu", devices=1, max_steps=steps, **{**quiet, **settings})

    return make


@pytest.fixture
def generation_batch() -> GenerationBatch:
    """Two windows of noise, masked as the data set masks."""
    generator = torch.Generator().manual_seed(1)
    target, reference = (torch.rand(2, 3, 5, 96, 96, generator=generator) for _ in range(2))
    masked = target.clone()
    masked[..., 48:, :] = 0

    def mel(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, 80, 16, generator=generator) * 2).clamp(-4, 4)

    faces = torch.cat([masked, reference], dim=1)
    return GenerationBatch(faces, target, mel(2, 5, 1), mel(2, 1), mel(2, 1))


@pytest.fixture
def sync_batch() -> SyncBatch:
    """Twelve windows: two runs of six windows, four frames apart; every other pair is labelled a match."""
    generator = torch.Generator().manual_seed(2)
    n = 12
    return SyncBatch(
        face=torch.rand(n, 15, 48, 96, generator=generator),
        mel=(torch.randn(n, 1, 80, 16, generator=generator) * 2).clamp(-4, 4),
        clip=torch.arange(n) // 6,
        frame=4 * (torch.arange(n) % 6),
        match=(torch.arange(n) % 2).float(),
    )


@pytest.fixture
def expert_file(fill: Callable[..., Any], tmp_path: Path) -> Path:
    """A narrow expert of the original kind, as the reference saves it."""
    path = tmp_path / "expert.pth"
    torch.save({"state_dict": fill(SyncNet(width=WIDTH), gain=0.7).state_dict()}, path)
    return path


@pytest.fixture
def make_module(fill: Callable[..., Any]) -> Callable[..., Wav2LipModule]:
    """``make_module(critic=False, **arguments)``: a narrow generator, and a critic where asked for."""

    def make(*, critic: bool = False, **arguments: Any) -> Wav2LipModule:
        generator: Wav2Lip = fill(Wav2Lip(width=WIDTH), gain=0.7).train()
        judge = fill(QualityDiscriminator(width=WIDTH)).train() if critic else None
        return Wav2LipModule(generator, ADAM, critic=judge, **arguments)

    return make
