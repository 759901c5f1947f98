"""A run of ``evaluate.py`` that was stopped goes on where it stopped and ends as if it had not been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from evaluation_clips import REPORT, clip, rows, run, summary
from processes import environment

from lipsync.evaluation import runner

__all__ = ["run"]  # a fixture
COUNT = 6
JOURNAL = Path("out/.unfinished/videos.jsonl")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "videos"
    for number in range(COUNT):
        clip(folder / f"{number}.mp4", 32 + number)
    return folder


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names of the videos whose sync was measured; with ``stop`` set, Ctrl-C comes while that one is."""
    seen: dict[str, Any] = {"names": [], "stop": None}
    read_sync = runner.read_sync

    def watched(item: Any, *rest: Any) -> Any:
        if item.name == seen["stop"]:
            raise KeyboardInterrupt
        seen["names"].append(item.name)
        return read_sync(item, *rest)

    monkeypatch.setattr(runner, "read_sync", watched)
    return seen


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def uninterrupted(run: Any, videos: Path, scored: dict[str, Any]) -> dict[str, bytes]:
    """What the run writes that nobody stops."""
    assert run(videos=videos, max_shift=1).code == 0
    assert scored["names"] == [f"{number}.mp4" for number in range(COUNT)]
    scored["names"].clear()
    written = files(Path("out"))
    assert sorted(written) == REPORT
    Path("out").rename("whole")
    return written


def test_a_stopped_run_goes_on(
    run: Any, videos: Path, scored: dict[str, Any], uninterrupted: dict[str, bytes]
) -> None:
    scored["stop"] = "3.mp4"
    done = run(videos=videos, max_shift=1)
    assert done.code == 130
    assert done.err.splitlines() == [
        "lipsync: the same command with output=out goes on from here",
        "lipsync: interrupted; finished work is kept",
    ]
    assert len(JOURNAL.read_text().splitlines()) == 1 + 3
    assert files(Path("out")) == {}, "no report of half a run"
    scored["stop"] = None
    done = run(videos=videos, max_shift=1)
    assert (done.code, done.err) == (0, "lipsync: out: going on, 3 videos are scored already\n")
    assert scored["names"] == [f"{number}.mp4" for number in range(COUNT)], "each was scored once"
    assert files(Path("out")) == uninterrupted
    assert not JOURNAL.parent.exists()


def test_other_settings_start_anew(run: Any, videos: Path, scored: dict[str, Any]) -> None:
    scored["stop"] = "2.mp4"
    assert run(videos=videos).code == 130
    scored.update(stop="1.mp4", names=[])
    done = run(videos=videos, protocol="strict")
    assert done.code == 130
    assert "settings changed since it was stopped, starting anew" in done.err
    assert scored["names"] == ["0.mp4"]


def test_a_changed_video_is_scored_again(run: Any, tmp_path: Path, scored: dict[str, Any]) -> None:
    for name in "abc":
        clip(tmp_path / "videos" / f"{name}.mp4")
    scored["stop"] = "c.mp4"
    assert run(videos=tmp_path / "videos").code == 130
    scored.update(stop=None, names=[])
    clip(tmp_path / "videos" / "a.mp4", 45)
    assert run(videos=tmp_path / "videos").code == 0
    assert {"a.mp4", "c.mp4"} <= set(scored["names"])
    assert float(rows(Path("out"))["a.mp4"]["n_frames"]) == 45


@pytest.mark.parametrize(
    "damage",
    [
        b'{"key": "x", "results"',
        b"\xff\xfe\x00 no text \n",
        b"[1, 2]\n",
        b'{"key": "x", "results": {"videos": {"nonsense": 1}}}\n',
        b'{"key": "x", "results": 5}\n',
    ],
)
def test_a_damaged_journal_costs_only_what_is_damaged(
    damage: bytes, run: Any, videos: Path, scored: dict[str, Any]
) -> None:
    scored["stop"] = "3.mp4"
    assert run(videos=videos).code == 130
    whole = JOURNAL.read_bytes().splitlines(keepends=True)
    JOURNAL.write_bytes(
        b"".join([*whole[:2], damage, *whole[3:]] if damage.endswith(b"\n") else [*whole[:3], damage])
    )
    known = 2
    scored.update(stop=None, names=[])
    done = run(videos=videos)
    assert (done.code, done.err) == (0, f"lipsync: out: going on, {known} videos are scored already\n")
    assert len(scored["names"]) == COUNT - known
    assert summary(Path("out"))["n_failed"] == 0


def test_a_journal_that_cannot_be_written_is_one_line(run: Any, videos: Path) -> None:
    JOURNAL.parent.parent.mkdir()
    JOURNAL.parent.touch()
    assert "videos.jsonl: cannot be written" in run(videos=videos).line()


@pytest.mark.slow
def test_ctrl_c_of_a_process(run: Any, weights: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for number in range(COUNT):
        clip(folder / f"{number}.mp4", 120 + number)
    settings = (f"videos={folder}", f"judge={weights['cosine']}", "detector=annotated", "metrics=lse")
    code = "from lipsync.cli.evaluate import main; main()"
    arguments = [sys.executable, "-c", code, *settings, "protocol=lrs", "device=cpu", "output=out"]
    whole = subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, check=True, timeout=120
    )
    assert whole.stderr == ""
    expected = files(Path("out"))
    Path("out").rename("whole")
    with subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (JOURNAL.exists() and JOURNAL.read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("lipsync: interrupted; finished work is kept\n")
    assert "Traceback" not in err
    keys = [json.loads(line)["key"] for line in JOURNAL.read_text().splitlines()[1:]]
    assert 2 <= len(keys) < COUNT
    again = subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, check=True, timeout=120
    )
    assert f"going on, {len(keys)} videos are scored already" in again.stderr
    assert files(Path("out")) == expected
