"""A generator's systems are generated with the real pipeline, without loss, and told by their files."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from lipsync.checkpoints.catalog import CATALOG
from lipsync.checkpoints.loading import sha256_of
from lipsync.checkpoints.origin import _RELEASED, generator_provenance
from lipsync.cli.app import config_dir
from lipsync.cli.generation import PipelineMaker, build_maker
from lipsync.cli.infer import main
from lipsync.data.synthetic import make_corpus
from lipsync.errors import CheckpointError, ConfigError
from lipsync.evaluation.making import Plan, generate
from lipsync.evaluation.pairs import read_clips
from lipsync.evaluation.systems import generators_of, plan_generator
from lipsync.media.probe import probe
from lipsync.media.provenance import Provenance, read_provenance
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip

EXPERTS = ["12" * 32, "34" * 32]
Made: TypeAlias = tuple[dict[str, Plan], dict[str, dict[str, str]], PipelineMaker]
GROUPS = ("synthesizer", "detector", "compositor", "enhancer", "interpolator")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn clips of 0.6 s with annotated faces; the last one without a face."""
    root = make_corpus(tmp_path_factory.mktemp("corpus"), clips=3, speakers=3, seconds=0.6, size=96)
    names = sorted(path.relative_to(root / "main").with_suffix("") for path in root.glob("main/*/*.mp4"))
    faceless = root / "main" / f"{names[-1]}.faces.json"
    content = json.loads(faceless.read_text())
    faceless.write_text(json.dumps({**content, "faces": [[] for _ in content["faces"]]}))
    (root / "filelists" / "all.txt").write_text("".join(f"{name}\n" for name in names))
    return root


@pytest.fixture(scope="module")
def checkpoint(fill: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow generator as ``train.py`` keeps it, trained with two experts."""
    path = tmp_path_factory.mktemp("weights") / "narrow.ckpt"
    generator = fill(Wav2Lip(width=0.125))
    state = {f"generator.{key}": value for key, value in generator.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"mel_shift": 0, "expert_sha256": EXPERTS}}, path)
    return path


def settings(**changes: object) -> DictConfig:
    """The node ``generation`` of the configuration, with annotated faces."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("infer", ["detector=annotated", "face=f", "audio=a", "checkpoint=c", "device=cpu"])
    keys = (*GROUPS, "pads", "every", "nosmooth", "batch_size", "device", "precision")
    node = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(node, DictConfig)
    node = OmegaConf.masked_copy(node, list(keys))
    with open_dict(node):
        node.update(changes)
    return node


@pytest.fixture(scope="module")
def made(corpus: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All systems of the corpus, generated: plans, failures by system, and the maker."""
    maker, _ = build_maker(settings(), str(checkpoint))
    listed = read_clips(corpus / "filelists" / "all.txt")
    plans = plan_generator(listed, tmp_path_factory.mktemp("out") / "videos")
    failed = {plan.name: generate(plan, maker) for plan in plans}
    return {plan.name: plan for plan in plans}, failed, maker


def pictures(path: Path) -> np.ndarray:
    return np.stack([frame.image for frame in VideoReader(path)])


def test_every_clip_with_a_face_is_made(made: Made) -> None:
    plans, failed, _ = made
    for name in ("reconstruction", "cross", "static", "silence"):
        *good, faceless = plans[name].items
        assert all(item.path.is_file() for item in good)
        assert list(failed[name]) == [faceless.name]
        assert "no face" in failed[name][faceless.name]
        assert not faceless.path.exists()
        folder = faceless.path.parents[1]
        assert sorted(path for path in folder.rglob("*") if path.is_file()) == [item.path for item in good]


def test_reconstruction_is_the_clip_but_for_the_mouth(made: Made) -> None:
    item = made[0]["reconstruction"].items[0]
    ours, clip = pictures(item.path), pictures(item.reference)
    assert ours.shape == clip.shape
    assert probe(item.path).fps == probe(item.reference).fps
    changed = (ours != clip).any(axis=(0, 3))
    assert changed.any()
    assert not changed[:20].any(), "above the face every bit is that of the clip"
    own, other = load_waveform(item.path), load_waveform(item.reference)
    np.testing.assert_allclose(own, other[: own.size], atol=2**-15)


def test_cross_says_something_else(made: Made) -> None:
    plan = made[0]["cross"]
    item, job = plan.items[0], plan.jobs[0]
    ours = load_waveform(item.path)
    np.testing.assert_allclose(ours, load_waveform(job.audio)[: ours.size], atol=2**-15)
    same = made[0]["reconstruction"].items[0].path
    assert (pictures(item.path) != pictures(same)).any()
    assert len(pictures(item.path)) <= probe(job.face).frame_count


def test_static_moves_the_mouth_alone(made: Made) -> None:
    item = made[0]["static"].items[0]
    ours, clip = pictures(item.path), pictures(item.reference)
    moving = (ours != ours[0]).any(axis=(0, 3))
    assert moving.any()
    assert (clip[:, :20] != clip[0, :20]).any(), "the clip itself moves there"
    assert (ours[:, :20] == clip[0, :20]).all(), "its first frame throughout"
    assert abs(len(ours) - len(clip)) <= 1


def test_silence_lasts_as_long_as_the_clip(made: Made) -> None:
    item = made[0]["silence"].items[0]
    clip = pictures(item.reference)
    ours, sound = pictures(item.path), load_waveform(item.path)
    assert ours.shape == clip.shape
    assert not sound.any()
    assert sound.size == len(clip) * 640
    assert item.sound.path == item.reference


def test_files_tell_who_made_them(made: Made, checkpoint: Path) -> None:
    plans, _, _ = made
    items = [item for plan in plans.values() for item in plan.items]
    (generator,) = generators_of(items)
    assert generator.sha256 == sha256_of(checkpoint)
    assert list(generator.trained_with) == EXPERTS
    assert read_provenance(plans["real"].items[0].path) is None


def test_a_second_run_makes_nothing_and_another_setting_everything(
    made: Made, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    plans, _, maker = made
    path = plans["silence"].items[0].path
    before = path.stat().st_mtime_ns
    generate(plans["silence"], maker)
    assert path.stat().st_mtime_ns == before
    quicker, _ = build_maker(settings(batch_size=2), str(checkpoint))
    assert quicker.fingerprint == maker.fingerprint, "how fast is not what"
    other, _ = build_maker(settings(pads=[0, 8, 0, 0]), str(checkpoint))
    assert other.fingerprint != maker.fingerprint


def test_the_same_job_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    plans, _, maker = made
    job = plans["reconstruction"].jobs[0]
    key = read_provenance(job.outfile).job
    maker(replace(job, outfile=tmp_path / "again.mp4"), key)
    assert (tmp_path / "again.mp4").read_bytes() == job.outfile.read_bytes()


def test_the_generator_is_described(checkpoint: Path) -> None:
    _, info = build_maker(settings(), str(checkpoint))
    assert (info.name, info.sha256) == ("narrow.ckpt", sha256_of(checkpoint))
    assert list(info.trained_with) == EXPERTS


def test_wrong_settings_are_told_before_weights_are_read(tmp_path: Path) -> None:
    for change, message in (
        ({"pads": [1, 2]}, "pads="),
        ({"every": 0.5}, "every=0.5"),
        ({"nosmooth": 3}, "nosmooth=3"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_maker(settings(**change), "gone.pth")
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        build_maker(settings(), "gone.pth")
    expert = tmp_path / "expert.pth"
    torch.save(SyncNet(width=0.125).state_dict(), expert)
    with pytest.raises(CheckpointError, match="Wav2Lip generator is needed"):
        build_maker(settings(), str(expert))


@pytest.mark.parametrize(
    ("hparams", "experts"),
    [({}, ()), ({"expert_sha256": "a" * 64}, ("a" * 64,)), ({"expert_sha256": EXPERTS}, tuple(EXPERTS))],
)
def test_experts_of_a_checkpoint(
    fill: Callable[..., nn.Module], tmp_path: Path, hparams: dict[str, object], experts: tuple[str, ...]
) -> None:
    path = tmp_path / "g.ckpt"
    state = {f"generator.{key}": value for key, value in fill(Wav2Lip(width=0.125)).state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": hparams}, path)
    assert generator_provenance(path) == Provenance(sha256_of(path), experts)


def test_released_generators_are_known_to_come_from_the_released_expert() -> None:
    expert = CATALOG["lipsync_expert"].sha256
    assert {CATALOG["wav2lip"].sha256: expert, CATALOG["wav2lip_gan"].sha256: expert} == _RELEASED


def test_infer_leaves_the_origin_in_its_file(
    corpus: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = next(corpus.glob("main/*/*.mp4"))
    for name in ("out.mp4", "out.mkv"):
        given = {"face": clip, "audio": clip, "checkpoint": checkpoint, "outfile": tmp_path / name}
        arguments = [f"{key}={value}" for key, value in given.items()]
        monkeypatch.setattr(sys, "argv", ["infer.py", *arguments, "detector=annotated", "device=cpu"])
        main()
        expected = Provenance(sha256_of(checkpoint), tuple(EXPERTS))
        assert read_provenance(tmp_path / name) == expected
    shutil.copy(tmp_path / "out.mp4", tmp_path / "copy.mp4")
    assert read_provenance(tmp_path / "copy.mp4") == expected
