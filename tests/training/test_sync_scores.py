"""Scores of whole validation clips: what is judged, what is logged, the same with two processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipsync.data.base_clip import BaseClip
from lipsync.data.clip import Clip
from lipsync.data.clip_writer import ClipWriter
from lipsync.errors import ConfigError, NotScorableError
from lipsync.metrics.judge_loading import load_judge
from lipsync.metrics.stretches import sync_score
from lipsync.models.lse_syncnet import LSESyncNet
from lipsync.models.syncnet import SyncNet
from lipsync.training.sync_scores import SyncScores, longest_run, score_pictures

SIZE = 96
NAMES = ("d", "c", "offset", "within_1", "clips")
FRAMES = {"s0/a": 36, "s0/b": 40, "s1/c": 12, "s1/d": 33, "s1/e": 30}


class Inverter(nn.Module):
    """Stands for a generator: paints the reference, inverted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
        return 1 - faces[:, 3:]


class Module:
    """As much of a LightningModule as the callback looks at."""

    def __init__(self, **hparams: Any) -> None:
        self.generator, self.hparams = Inverter(), hparams
        self.logged: list[dict[str, float]] = []

    def log_dict(self, values: dict[str, float], sync_dist: bool) -> None:
        assert sync_dist
        self.logged.append(values)


def trainer_of(clips: list[Any], rank: int = 0, world: int = 1, **changes: Any) -> Any:
    data = SimpleNamespace(clips=clips, mel_shift=-1, image_size=SIZE, reference="random")
    base = {
        "global_step": 0,
        "max_steps": -1,
        "sanity_checking": False,
        "global_rank": rank,
        "world_size": world,
        "strategy": SimpleNamespace(root_device=torch.device("cpu")),
        "precision_plugin": SimpleNamespace(forward_context=nullcontext),
        "datamodule": SimpleNamespace(val_splits=["val"], val_sets={"val": data}),
    }
    return SimpleNamespace(**{**base, **changes})


def validated(scores: SyncScores, trainer: Any, module: Any, steps: tuple[int, ...] = (1,)) -> Any:
    scores.setup(trainer, module, "fit")
    for step in steps:
        trainer.global_step = step
        scores.on_validation_epoch_end(trainer, module)
    return module.logged


class Soundless(BaseClip):
    """A clip whose mel was kept but not its sound, as packs that stand alone."""

    def __init__(self, clip: Clip) -> None:
        super().__init__(clip.name)
        self._clip = clip

    @property
    def length(self) -> int:
        return self._clip.length

    @property
    def present(self) -> np.ndarray:
        return self._clip.present

    @property
    def mel_steps(self) -> int:
        return self._clip.mel_steps

    def frames(self, indices: Any, size: int) -> np.ndarray:
        return self._clip.frames(indices, size)

    def mel(self) -> np.ndarray:
        return self._clip.mel()


def clips_in(folder: Path) -> list[Any]:
    clips = [Clip(folder / name, name) for name in FRAMES]
    return [*clips[:-1], Soundless(clips[-1])]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of noise: one is too short for an expert, one has a gap, one keeps no sound."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for name, frames in FRAMES.items():
        with ClipWriter(folder / f"{name}.part") as writer:
            for frame in range(frames):
                if (name, frame) != ("s0/b", 5):
                    image = cv2.resize(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8), (40, 48))
                    writer.write(frame, np.asarray(image, dtype=np.uint8), (0, 0, 40, 48))
            sound = (rng.standard_normal(frames * 640) * 0.1).astype(np.float32)
            writer.commit(folder / name, sound, frames, {})
    return folder


@pytest.fixture(scope="module")
def expert(fill: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("expert") / "expert.pth"
    torch.save({"state_dict": fill(SyncNet(0.05, head="contrastive", embedding=16), 0.7).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def syncnet(fill: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("syncnet") / "syncnet.model"
    gain = {"netcnnlip.0.weight": 0.0078125, "netcnnaud.0.weight": 0.125}
    torch.save(fill(LSESyncNet(), 1.0, gain).state_dict(), path)
    return path


def test_the_generator_and_the_truth_are_scored(corpus: Path, expert: Path) -> None:
    (logged,) = validated(SyncScores(str(expert)), trainer_of(clips_in(corpus)), Module())
    assert set(logged) == {f"val/expert_{name}{end}" for name in NAMES for end in ("", "_real")}
    assert logged["val/expert_clips"] == logged["val/expert_clips_real"] == 3
    judge, found = load_judge(expert), []
    for name, start in (("s0/a", 0), ("s0/b", 6), ("s1/d", 0)):
        clip = Clip(corpus / name, name)
        truth = clip.frames(np.arange(start, FRAMES[name]), SIZE)
        found.append(sync_score(judge, truth, clip.waveform()[start * 640 :]))
    assert logged["val/expert_d_real"] == pytest.approx(np.mean([s.distance for s in found]), rel=1e-5)
    assert logged["val/expert_c_real"] == pytest.approx(np.mean([s.confidence for s in found]), rel=1e-4)
    assert logged["val/expert_offset_real"] == pytest.approx(np.mean([s.offset for s in found]))
    assert abs(logged["val/expert_d"] - logged["val/expert_d_real"]) > 1e-4


def test_syncnet_sees_the_crop_at_its_own_size(corpus: Path, syncnet: Path) -> None:
    trainer = trainer_of(clips_in(corpus)[2:3])
    (logged,) = validated(SyncScores(str(syncnet), seconds=0.4), trainer, Module())
    assert set(logged) == {f"val/lse_{name}{end}" for name in NAMES for end in ("", "_real")}
    clip = clips_in(corpus)[2]
    truth = [cv2.resize(picture, (224, 224)) for picture in clip.frames(np.arange(10), SIZE)]
    expected = sync_score(load_judge(syncnet), truth, clip.waveform()[: 10 * 640])
    assert logged["val/lse_d_real"] == pytest.approx(expected.distance, rel=1e-5)


def test_the_truth_is_scored_once_and_validations_are_skipped(
    corpus: Path, expert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def count(judge: Any, pictures: Any, *rest: Any) -> Any:
        asked.append(len(pictures))
        return score_pictures(judge, pictures, *rest)

    monkeypatch.setattr("lipsync.training.sync_scores.score_pictures", count)
    scores = SyncScores(str(expert), clips=1, every_n_steps=20)
    logged = validated(scores, trainer_of(clips_in(corpus)), Module(), steps=(10, 20, 30))
    assert len(asked) == 3
    assert logged[0] == logged[1]
    assert scores.state_dict() == {"last_step": 30}


def test_without_a_clip_there_is_no_score(corpus: Path, expert: Path) -> None:
    clips = [clip for clip in clips_in(corpus) if clip.name in ("s1/c", "s1/e")]
    (logged,) = validated(SyncScores(str(expert)), trainer_of(clips), Module())
    assert logged == {"val/expert_clips": 0, "val/expert_clips_real": 0}


def test_nothing_happens_without_judge_or_generator_and_in_the_sanity_check(
    corpus: Path, expert: Path
) -> None:
    clips = clips_in(corpus)
    assert validated(SyncScores(), trainer_of(clips), Module()) == []
    assert validated(SyncScores(str(expert)), trainer_of(clips, sanity_checking=True), Module()) == []
    networks = SimpleNamespace(expert=Inverter(), logged=[])
    assert validated(SyncScores("missing.pth"), trainer_of(clips), networks) == []


def test_the_training_expert_is_no_judge(corpus: Path, expert: Path) -> None:
    trainer, digest = trainer_of(clips_in(corpus)), load_judge(expert).sha256
    for known in (digest, ["other", digest]):
        with pytest.warns(UserWarning, match="is the expert that the generator trains with"):
            SyncScores(str(expert)).setup(trainer, Module(expert_sha256=known), "fit")  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SyncScores(str(expert)).setup(trainer, Module(expert_sha256="other"), "fit")  # type: ignore[arg-type]


def test_settings_are_checked_before_training(corpus: Path, expert: Path) -> None:
    trainer, module = trainer_of(clips_in(corpus)), Module()
    trainer.datamodule.val_sets["val"].image_size = 192
    with pytest.raises(ConfigError, match=r"expert for faces of 96 pixels, the generator paints 192"):
        validated(SyncScores(str(expert)), trainer, module)
    with pytest.raises(ConfigError, match=r"sync_scores\.split=gone: .*val"):
        validated(SyncScores(str(expert), split="gone"), trainer, module)
    with pytest.raises(ConfigError, match=r"callbacks\.sync_scores\.clips=0"):
        SyncScores(str(expert), clips=0)


def test_the_longest_run() -> None:
    assert longest_run(np.array([0, 1, 4, 5, 6, 9])) == (4, 7)
    assert longest_run(np.array([3])) == (3, 4)
    assert longest_run(np.array([], dtype=np.int64)) == (0, 0)


def test_a_clip_without_a_face_cannot_be_scored(expert: Path) -> None:
    pictures = np.zeros((40, SIZE, SIZE, 3), np.uint8)
    with pytest.raises(NotScorableError, match="at least 29 are needed"):
        score_pictures(load_judge(expert), pictures, np.array([], np.int64), np.zeros(40 * 640, np.float32))


def score_in_a_process(rank: int, folder: str, corpus: str, expert: str) -> None:
    torch.set_num_threads(1)
    path = Path(folder)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path / 'rendezvous'}", rank=rank, world_size=2
    )
    trainer = trainer_of(clips_in(Path(corpus)), rank, 2)
    torch.save(validated(SyncScores(expert), trainer, Module()), path / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_log_what_one_logs(corpus: Path, expert: Path, tmp_path: Path) -> None:
    (alone,) = validated(SyncScores(str(expert)), trainer_of(clips_in(corpus)), Module())
    torch.multiprocessing.spawn(score_in_a_process, (str(tmp_path), str(corpus), str(expert)), nprocs=2)
    for rank in (0, 1):
        (logged,) = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert logged == pytest.approx(alone, rel=1e-9), rank


def test_a_real_run_logs_the_scores_and_leaves_the_network_as_it_was(
    *, make_module: Any, make_trainer: Any, same_batch: Any, generation_batch: Any, corpus: Path, expert: Path
) -> None:
    data = same_batch(generation_batch)
    data.val_sets = {"val": SimpleNamespace(clips=clips_in(corpus)[:1], mel_shift=-1, image_size=SIZE)}

    def run(callbacks: list[Any]) -> tuple[dict[str, Tensor], Any]:
        module = make_module()
        torch.manual_seed(0)
        trainer = make_trainer(2, callbacks=callbacks, limit_val_batches=1.0, val_check_interval=1)
        trainer.fit(module, data)
        assert module.training
        return dict(module.state_dict()), trainer.callback_metrics

    without, _ = run([])
    weights, metrics = run([SyncScores(str(expert))])
    assert float(metrics["val/expert_clips"]) == 1
    assert 0 < float(metrics["val/expert_d"]) < 2
    for key, value in without.items():
        assert torch.equal(value, weights[key]), key
