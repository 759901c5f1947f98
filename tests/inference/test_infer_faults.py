"""``infer.py`` as a process: interrupted, on a full disk, killed; and the example of the documentation."""

from __future__ import annotations

import contextlib
import csv
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lipsync.media.reader import VideoReader

Make = Callable[..., Path]
REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(REPOSITORY / "infer.py"), "box=[20,100,30,90]"]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``started(*arguments, **kwargs)``: the command, running in ``tmp_path``; ended with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **kwargs: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **kwargs,  # type: ignore[call-overload]
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_ends_the_run_and_leaves_nothing(
    started: Callable[..., subprocess.Popen[str]],
    make_video: Make,
    make_speech: Make,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "out.mp4").write_bytes(b"older")
    process = started(
        f"face={make_video(20)}",
        f"audio={make_speech(16000 * 600)}",
        f"checkpoint={checkpoint}",
        "outfile=out.mp4",
    )
    wait_for(tmp_path / "out.mp4.part", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert (tmp_path / "out.mp4").read_bytes() == b"older"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.slow
def test_a_full_disk_is_one_line(
    started: Callable[..., subprocess.Popen[str]],
    make_video: Make,
    make_speech: Make,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    process = started(
        f"face={make_video(20)}",
        f"audio={make_speech(16000 * 20)}",
        f"checkpoint={checkpoint}",
        "outfile=out.mp4",
        "encoder.crf=1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    (line,) = err.splitlines()
    assert "out.mp4" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_list_goes_on_after_it_was_killed(
    started: Callable[..., subprocess.Popen[str]],
    make_video: Make,
    make_speech: Make,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    video, short, long = make_video(20), make_speech(8000), make_speech(16000 * 600)
    text = f"face,audio,outfile\n{video},{short},a.mp4\n{video},{long},b.mp4\n"
    (tmp_path / "list.csv").write_text(text)
    process = started("jobs=list.csv", f"checkpoint={checkpoint}")
    wait_for(tmp_path / "b.mp4.part", process)
    process.kill()
    process.communicate()
    made = (tmp_path / "a.mp4").stat().st_mtime_ns
    (tmp_path / "list.csv").write_text(text.replace(str(long), str(short)))
    out, err = started("jobs=list.csv", f"checkpoint={checkpoint}").communicate(timeout=120)
    assert err == ""
    assert "1/2 a.mp4: already there" in out
    assert (tmp_path / "a.mp4").stat().st_mtime_ns == made
    assert len(list(VideoReader(tmp_path / "b.mp4"))) == 13
    with (tmp_path / "list.results.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["done", "done"]
    assert not list(tmp_path.glob("*.part"))


def test_the_example_of_the_documentation_runs(
    make_speech: Make,
    checkpoint: Path,
    shared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (REPOSITORY / "docs" / "inference.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copy(shared / "data/raw/grid_s1/briz6n.mpg", tmp_path / "talk.mp4")  # told apart by content
    shutil.copy(make_speech(6400), tmp_path / "speech.wav")
    shutil.copy(checkpoint, tmp_path / "last.ckpt")
    with contextlib.chdir(tmp_path):
        exec(compile(example, "docs/inference.md", "exec"), {})  # noqa: S102 - our own documentation
    assert capsys.readouterr().out.startswith("out.mp4: 10 frames at 25 fps; ")
