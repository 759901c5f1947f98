"""``evaluate.py compare=...`` as users type it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from lipsync.cli.evaluate import main
from lipsync.models.syncnet import SyncNet

WRITTEN = ["compare.html", "compare.json", "compare.md"]
SETTINGS = ("references=references", "judge=null", "metrics.regions=[frame]", "metrics.sharpness=false")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """``run(*arguments)`` -> exit code, output, errors; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments, "device=cpu"])
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(code or 0), captured.out, captured.err

    return call


@pytest.fixture
def runs(run: Any, make_video: Any) -> tuple[str, str]:
    """Two finished runs whose names hold spaces and commas, without a judge."""
    for name, level in (("a", 100), ("b", 104)):
        for number in range(2):
            make_video(Path(name) / f"{number}.mp4", 8, level=lambda i, level=level: level + i % 2)
            make_video(Path("references") / f"{number}.mp4", 8, level=lambda i: 90)
    names = ("run a (1)", "run b, second")
    for videos, output in zip("ab", names, strict=True):
        code, _, err = run(*SETTINGS, f"videos={videos}", f"output={output}")
        assert (code, err) == (0, "")
    return names


def content(folder: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "compare.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    "form", ["compare=['{0}','{1}']", 'compare=["{0}","{1}"]', "compare=['{0}',copy]", "compare={0},copy"]
)
def test_runs_are_compared_however_they_are_written(form: str, run: Any, runs: tuple[str, str]) -> None:
    Path(runs[1]).rename("copy")
    Path("copy").joinpath("unused").touch()
    Path(runs[1]).symlink_to("copy")
    code, out, err = run(form.format(*runs), "output=out")
    assert (code, err) == (0, "")
    assert out.endswith("out/compare.html\n")
    assert sorted(path.name for path in Path("out").iterdir()) == WRITTEN
    found = content()
    assert found["n_common"] == 2
    assert [one["name"] for one in found["runs"]] == ["run a (1)", "copy"]
    assert found["differences"]["copy"]["values"]["psnr"]["mean"] < 0, "b is further from the references"


def test_folders_of_videos_are_scored_first(run: Any, runs: tuple[str, str]) -> None:
    code, _, err = run(f"compare={runs[0]},b", "output=out", *SETTINGS)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in Path("out").iterdir()) == ["2_b", *WRITTEN]
    assert (Path("out") / "2_b" / "report.html").is_file()
    assert [one["n_videos"] for one in content()["runs"]] == [2, 2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("compare=A", "compare=A: give two runs or more, compare=RUN_A,RUN_B"),
        ("compare=[]", "compare=[]: give two runs or more"),
        ("compare=A,gone", "gone: no such folder; compare takes runs"),
        ("compare=gone,A", "gone: no such folder; compare takes runs"),
        ("compare=A,A", "A: is given twice; give different runs"),
        ("compare=A,empty", "empty: no video found"),
        ("compare=A,notes.txt", "notes.txt: no such folder; compare takes runs"),
        (
            "compare=A,stopped",
            "stopped: is a run that did not end; give its command again with output=stopped",
        ),
        ("compare=A,damaged", "damaged/summary.json: is damaged"),
        ("compare=A,old", "old/summary.json: lacks main"),
        ("compare=A,other", "other: no video has the same name"),
    ],
)
def test_what_cannot_be_compared(given: str, words: str, run: Any, runs: tuple[str, str]) -> None:
    Path(runs[0]).rename("A")
    Path("empty").mkdir()
    Path("notes.txt").touch()
    for name in ("stopped/.unfinished", "stopped/videos", "damaged", "old", "other"):
        Path(name).mkdir(parents=True)
    Path("damaged/summary.json").write_text("{")
    Path("old/summary.json").write_text("{}")
    for path in Path(runs[1]).iterdir():
        Path("other", path.name).write_text(path.read_text().replace(".mp4", ".mkv"))
    code, out, err = run(given, "output=out")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("lipsync: ")
    assert words in line


def test_runs_with_other_judges_are_not_ranked(fill: Any, run: Any, make_video: Any) -> None:
    boxes = [(8, 4, 56, 44)]
    for number in range(2):
        make_video(Path("a") / f"{number}.mp4", 40, faces=lambda i: boxes)
    for seed in (1, 2):
        network = fill(SyncNet(width=0.125), 0.6 + seed / 10)
        torch.save({"state_dict": network.state_dict()}, f"{seed}.pth")
        given = ("detector=annotated", "metrics=lse", "protocol=lrs", f"judge={seed}.pth")
        code, _, err = run("videos=a", f"output=r{seed}", *given)
        assert (code, err) == (0, "")
    code, _, err = run("compare=r1,r2", "output=out")
    assert code == 2
    assert "different judges" in err
