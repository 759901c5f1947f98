"""A tiny preprocessed corpus, tiny experts, and the commands run in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from lipsync.data.clip_writer import ClipWriter
from lipsync.data.filelist import write_filelist
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip

WIDTH = 0.125
CLIPS, FRAMES = 6, 40


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def line(self) -> str:
        """The one line that a user's mistake must give."""
        assert self.code == 2, self
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("lipsync: "), self.err
        return lines[0].removeprefix("lipsync: ")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preprocessed root: six clips of noise, 1.6 s each, of two speakers."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    names = [f"s{number % 2}/c{number}" for number in range(CLIPS)]
    for name in names:
        with ClipWriter(root / f"{name}.part") as writer:
            for frame in range(FRAMES):
                image = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
                writer.write(frame, image, (0, 0, 20, 24))
            sound = (rng.standard_normal(FRAMES * 640) * 0.1).astype(np.float32)
            writer.commit(root / name, sound, FRAMES, {})
    write_filelist(root / "filelists" / "train.txt", names[:4])
    write_filelist(root / "filelists" / "val.txt", names[4:])
    return root


@pytest.fixture(scope="session")
def weights(fill: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Narrow networks as files: ``cosine`` and ``contrastive`` experts, a ``generator``."""
    folder = tmp_path_factory.mktemp("weights")
    networks = {
        "cosine": fill(SyncNet(width=WIDTH), gain=0.7),
        "contrastive": fill(SyncNet(width=WIDTH, head="contrastive"), gain=0.7),
        "generator": fill(Wav2Lip(width=WIDTH), gain=0.7),
    }
    paths = {name: folder / f"{name}.pth" for name in networks}
    for name, network in networks.items():
        torch.save({"state_dict": network.state_dict()}, paths[name])
    return paths


@pytest.fixture
def tiny(corpus: Path) -> Callable[..., list[str]]:
    """``tiny(model, folder, *overrides)``: arguments of ``train.py`` for a run of a second."""

    def arguments(model: str, folder: Path, *overrides: str) -> list[str]:
        sizes = {
            "syncnet": [f"model.width={WIDTH}", "data.windows.windows_per_clip=4", "data.batch_size=8"],
            "wav2lip": [f"model.generator.width={WIDTH}", "data.batch_size=2"],
        }
        sizes["wav2lip_hq"] = [*sizes["wav2lip"], f"model.critic.width={WIDTH}"]
        return [
            f"model={model}",
            f"data.root={corpus}",
            f"hydra.run.dir={folder}",
            *sizes[model],
            "data.num_workers=0",
            "data.val_batch_size=2",
            "trainer=cpu",
            "trainer.max_steps=2",
            "trainer.val_check_interval=2",
            "trainer.log_every_n_steps=1",
            "trainer.enable_progress_bar=false",
            "callbacks.progress=null",
            *overrides,
        ]

    return arguments


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Outcome]]:
    """``command(name, *arguments)``: ``name.py`` in this process, in an empty working directory."""
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def call(name: str, *arguments: object) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        code: Any = 0
        try:
            import_module(f"lipsync.cli.{name}").main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return Outcome(int(code or 0), captured.out, captured.err)

    yield call
    # Hydra's handlers hold the captured streams of this test.
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
