"""The command as users run it, in a process of its own, and its function in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from lipsync.checkpoints.catalog import CATALOG
from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import config_dir
from lipsync.cli.evaluate import evaluate
from lipsync.errors import CheckpointError, ConfigError, UserError
from lipsync.evaluation.protocols import LrsProtocol, WildProtocol
from lipsync.evaluation.scoring import score_clip
from lipsync.faces.detector import MtcnnDetector
from lipsync.metrics.judge_loading import load_judge
from lipsync.models.lse_syncnet import LSESyncNet
from lipsync.models.syncnet import SyncNet

GAIN = {"netcnnlip.0.weight": 0.0078125, "netcnnaud.0.weight": 0.125}


@pytest.fixture(scope="module")
def syncnet(fill, tmp_path_factory):
    path = tmp_path_factory.mktemp("judges") / "syncnet_v2.model"
    torch.save(fill(LSESyncNet(), 1.0, GAIN).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def expert(fill, tmp_path_factory):
    path = tmp_path_factory.mktemp("judges") / "expert.pth"
    torch.save({"state_dict": fill(SyncNet(width=0.125), 0.7).state_dict()}, path)
    return path


def _run(*overrides):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        evaluate(compose("evaluate", overrides=[*map(str, overrides), "device=cpu"]))


def _summary(folder: Path):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def videos(tmp_path, make_video):
    make_video(tmp_path / "videos" / "a.mp4", 20)
    make_video(tmp_path / "videos" / "b.mp4", 3)
    make_video(tmp_path / "references" / "a.mp4", 20, level=lambda i: 40 + i)
    return tmp_path / "videos"


def test_lse_with_references(videos, syncnet, tmp_path, capsys):
    out = tmp_path / "out"
    _run(
        f"videos={videos}",
        f"references={tmp_path / 'references'}",
        "protocol=lrs",
        f"judge={syncnet}",
        f"output={out}",
    )
    summary = _summary(out)
    assert (summary["n_videos"], summary["n_failed"], summary["protocol"]) == (2, 1, "lrs")
    assert summary["judge"]["kind"] == "lse"
    assert summary["expert_d"] is None
    own = score_clip(videos / "a.mp4", load_judge(syncnet), LrsProtocol())
    assert own.windows == 15
    assert summary["lse_d"] == pytest.approx(own.distance)
    assert summary["lse_c"] == pytest.approx(own.confidence)
    assert summary["psnr"] == pytest.approx(20 * np.log10(255 / 20), abs=1)
    written = ["report.html", "report.md", "scores.csv", "summary.json"]
    assert sorted(path.name for path in out.iterdir()) == written, "the journal is gone"
    assert str(out / "report.html") in capsys.readouterr().out


def test_nothing_scored_is_an_error_but_leaves_the_report(videos, syncnet, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"none of 1 videos could be scored \(b.mp4: .* at least 6"):
        _run(f"videos={videos / 'b.mp4'}", "protocol=lrs", f"judge={syncnet}", f"output={out}")
    assert _summary(out)["lse_d"] is None


def test_without_the_released_judge(videos, tmp_path, monkeypatch):
    def offline(source, progress=None):
        raise CheckpointError(f"{CATALOG['syncnet_v2'].filename}: not found and cannot be fetched")

    monkeypatch.setattr("lipsync.metrics.judge_loading.locate", offline)
    with pytest.raises(CheckpointError, match=r"judge=PATH/last\.ckpt") as error:
        _run(f"videos={videos}", "protocol=lrs", f"output={tmp_path / 'no'}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "no").exists(), "no empty folder is left behind"
    out = tmp_path / "out"
    _run(f"videos={videos}", f"references={tmp_path / 'references'}", "protocol=lrs", f"output={out}")
    summary = _summary(out)
    assert summary["judge"] is None
    assert summary["lse_d"] is None
    assert summary["ssim"] > 0
    assert "cannot be fetched" in summary["notes"][0]


def test_downloads_show_their_progress(videos, syncnet, tmp_path, monkeypatch):
    shown = {}

    def fetch(spec, path, progress):
        shown[spec.name] = progress
        raise CheckpointError("offline")

    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lipsync.checkpoints.download.fetch", fetch)
    for settings in (["protocol=lrs"], [f"judge={syncnet}", "detector=s3fd"]):
        with pytest.raises(CheckpointError, match="offline"):
            _run(f"videos={videos}", f"output={tmp_path / 'out'}", *settings)
    assert list(shown) == ["syncnet_v2", "s3fd"]
    assert all(isinstance(progress, DownloadBar) for progress in shown.values())
    assert not (tmp_path / "out").exists()


def test_contradictions_are_named(videos, tmp_path):
    with pytest.raises(ConfigError, match="judge=null"):
        _run(f"videos={videos}", "judge=null", f"output={tmp_path / 'out'}")


def test_real_clip_with_an_expert(shared, expert, tmp_path):
    clip = shared / "data/corpus/main/grid_s1/bbaf2n.mp4"
    _run(f"videos={clip}", "protocol=lrs", f"judge={expert}", f"output={tmp_path}")
    summary = _summary(tmp_path)
    assert summary["judge"]["kind"] == "expert"
    assert summary["lse_d"] is None
    assert 0 < summary["expert_d"] < np.sqrt(2)
    assert "not LSE" in summary["protocol_description"]


@pytest.mark.slow
def test_real_clip_in_the_wild(shared, syncnet):
    clip = shared / "data/corpus/main/AOC/vr_face3.mp4"
    judge = load_judge(syncnet)
    score = score_clip(clip, judge, WildProtocol(MtcnnDetector()))
    assert score.windows > 90
    other = WildProtocol(MtcnnDetector(), batch=3)
    again = score_clip(clip, judge, other, waveform=other.load_sound(clip, judge))
    assert again == score, "the sound apart, as the protocol hears it, and batches of another size"


@pytest.mark.slow
def test_the_process_and_its_exit_codes(videos, syncnet, tmp_path):
    def command(*arguments):
        code = "from lipsync.cli.evaluate import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    good = command(f"videos={videos}", "protocol=lrs", f"judge={syncnet}")
    assert good.returncode == 0, good.stderr
    assert len(list(tmp_path.glob("evaluation/lrs/*/summary.json"))) == 1
    for bad, start in ((["videos=nowhere", f"judge={syncnet}"], "nowhere: "), ([], "missing: videos; ")):
        done = command(*bad)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"lipsync: {start}")
