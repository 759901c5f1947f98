"""``evaluate.py generator=...`` from a checkpoint to the report, on a drawn corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_clips import REPORT, rows, run, summary
from torch import nn

from lipsync.checkpoints.loading import sha256_of
from lipsync.cli import evaluate
from lipsync.data.synthetic import make_corpus
from lipsync.models.wav2lip import Wav2Lip

__all__ = ["run"]  # a fixture
MADE = ("reconstruction", "cross", "static", "silence")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 1.6 s, and a third line in the list without a file."""
    root = make_corpus(tmp_path_factory.mktemp("drawn"), clips=2, speakers=2, seconds=1.6, size=96)
    names = sorted(path.relative_to(root / "main").with_suffix("") for path in root.glob("main/*/*.mp4"))
    (root / "filelists" / "all.txt").write_text("".join(f"{name}\n" for name in (*names, "speaker09/gone")))
    return root


@pytest.fixture(scope="module")
def checkpoint(
    fill: Callable[..., nn.Module], weights: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A narrow generator as ``train.py`` keeps it, trained with the expert that will judge it."""
    state = {f"generator.{key}": value for key, value in fill(Wav2Lip(width=0.125)).state_dict().items()}
    facts = {"mel_shift": 0, "expert_sha256": [sha256_of(weights["cosine"])]}
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": facts}, path)
    return path


@pytest.fixture
def settings(drawn: Path, checkpoint: Path) -> dict[str, object]:
    return {"generator": checkpoint, "filelist": drawn / "filelists" / "all.txt", "metrics": "image"}


def test_all_systems_are_made_and_scored(
    run: Any, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int | None]] = []

    class Hook(evaluate.ProgressHook):
        def __call__(self, step: str, completed: int, total: int | None) -> None:
            told.append((step, completed, total))
            super().__call__(step, completed, total)

    monkeypatch.setattr(evaluate, "ProgressHook", Hook)
    done = run("max_shift=1", **settings)
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in Path("out").iterdir()) == [*REPORT, "videos"]
    found = summary(Path("out"))
    assert set(found["systems"]) == {"real", "shuffled", "shifted", *MADE}
    assert found["main"] == "reconstruction"
    for name in MADE:
        system = found["systems"][name]
        assert (system["n_videos"], system["n_failed"]) == (3, 1), system["failures"]
        (failure,) = system["failures"]
        assert failure["name"] == "speaker09/gone"
        assert failure["reason"].startswith("not generated: ")
        assert system["values"]["expert_d"]["n"] == 2
        assert [(f"generate {name}", n, 3) for n in (1, 2, 3)] == [
            t for t in told if t[0] == f"generate {name}"
        ]
        assert [(f"score {name}", n, 3) for n in (1, 2, 3)] == [t for t in told if t[0] == f"score {name}"]
    assert {"psnr", "psnr_mouth"} <= set(found["systems"]["reconstruction"]["values"])
    assert "psnr" not in found["systems"]["cross"]["values"], "there is no right frame"
    assert found["judge_trained_generator"] is True
    assert "trained" in Path("out/report.md").read_text(encoding="utf-8")
    assert any("1 of 3 clips have no file" in note for note in found["systems"]["real"]["notes"])


def test_what_was_made_is_not_made_again(run: Any, settings: dict[str, object]) -> None:
    small = {**settings, "systems": "[reconstruction,static]", "metrics": "lse"}
    assert run(**small).code == 0
    made = {path: path.stat().st_mtime_ns for path in Path("out/videos").rglob("*.mp4")}
    assert len(made) == 4
    first = rows(Path("out"), "reconstruction")
    next(iter(made)).unlink()
    assert run(**small).code == 0
    again = {path: path.stat().st_mtime_ns for path in Path("out/videos").rglob("*.mp4")}
    assert sorted(path for path in made if again[path] != made[path]) == [next(iter(made))]
    assert rows(Path("out"), "reconstruction") == first
    assert run(**small, **{"generation.pads": "[0,4,0,0]"}).code == 0
    other = {path: path.stat().st_mtime_ns for path in Path("out/videos").rglob("*.mp4")}
    assert all(other[path] != again[path] for path in made), "other settings, other videos"


def test_annotated_faces_go_along(run: Any, settings: dict[str, object], drawn: Path) -> None:
    """Without them an annotated detector finds nothing in what was made."""
    assert run(**{**settings, "systems": "[reconstruction]", "metrics": "lse"}).code == 0
    (first, _) = sorted(Path("out/videos/reconstruction").rglob("*.faces.json"))
    assert first.read_text() == (drawn / "main" / Path(*first.parts[-2:])).read_text()


def test_a_clip_without_annotation_is_one_row(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    root = make_corpus(tmp_path / "drawn", clips=2, speakers=2, seconds=1.6, size=96)
    names = sorted(path.relative_to(root / "main").with_suffix("") for path in root.glob("main/*/*.mp4"))
    (root / "filelists" / "all.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "main" / f"{names[0]}.faces.json").unlink()
    listed = root / "filelists" / "all.txt"
    assert run(generator=checkpoint, filelist=listed, systems="[reconstruction]").code == 0
    system = summary(Path("out"))["systems"]["reconstruction"]
    (failure,) = system["failures"]
    assert failure["name"] == str(names[0])
    assert "faces.json" in failure["reason"]


def test_nothing_made_is_a_failure_with_a_report(run: Any, settings: dict[str, object], drawn: Path) -> None:
    lost = drawn / "filelists" / "lost.txt"
    (name, *_) = (drawn / "filelists" / "all.txt").read_text().split()
    lost.write_text(f"{name}\n")
    # A face outside of the picture: nothing can be made of it.
    given = {**settings, "filelist": lost, "systems": "[reconstruction]", "metrics": "lse"}
    line = run(**given, **{"generation.pads": "[-200,-200,-200,-200]"}).line()
    assert line.startswith(f"none of 1 videos could be scored ({name}: not generated: ")
    assert (Path("out") / "report.html").is_file()
