"""``infer.py`` with lists of jobs and with an enhancer, in this process."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inference_stubs import BOX

from lipsync.faces.detector import MtcnnDetector
from lipsync.media.provenance import is_synthetic, read_provenance
from lipsync.media.reader import VideoReader
from lipsync.models.gfpgan import GFPGANv1Clean
from lipsync.types import Frame

Make = Callable[..., Path]
POINTS = [[45, 45], [75, 45], [60, 60], [48, 78], [72, 78]]


@pytest.fixture
def face(make_video: Make) -> Path:
    """A clip whose face and landmarks are annotated."""
    path = make_video(12, name="annotated.mp4")
    faces = [[[BOX.x1, BOX.y1, BOX.x2, BOX.y2, 0.9, POINTS]]]
    path.with_name("annotated.faces.json").write_text(json.dumps({"fps": "25/1", "faces": faces}))
    return path


@pytest.fixture
def run_annotated(run: Any, checkpoint: Path) -> Callable[..., tuple[int, str, str]]:
    """``run`` with a generator and annotated faces."""
    return lambda *arguments: run(f"checkpoint={checkpoint}", "detector=annotated", *arguments)


def results(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_list_runs_goes_on_and_names_what_failed(
    run_annotated: Any, face: Path, make_speech: Make, tmp_path: Path
) -> None:
    speech = make_speech(6400)
    rows = [
        f"{face},{speech},a.mp4,",
        f"gone.mp4,{speech},b.mp4,",
        f'{face},{speech},out/c.mp4,"[10,100,20,100]"',
    ]
    (tmp_path / "list.csv").write_text("face,audio,outfile,box\n" + "\n".join(rows) + "\n")
    code, out, err = run_annotated("jobs=list.csv")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "1 of 3 jobs failed (line 3: gone.mp4: no such file)" in err
    assert [line[:4] for line in out.splitlines()] == ["1/3 ", "2/3 ", "3/3 "]
    assert [row["status"] for row in results(tmp_path / "list.results.csv")] == ["done", "failed", "done"]
    assert not (tmp_path / "b.mp4").exists()
    stamp = (tmp_path / "a.mp4").stat().st_mtime_ns

    (tmp_path / "gone.mp4").write_bytes(face.read_bytes())
    (tmp_path / "gone.faces.json").write_text(face.with_name("annotated.faces.json").read_text())
    code, out, err = run_annotated("jobs=list.csv")
    assert (code, err) == (0, "")
    assert out.count("already there") == 2
    assert (tmp_path / "a.mp4").stat().st_mtime_ns == stamp
    assert len(list(VideoReader(tmp_path / "b.mp4"))) == 10

    code, out, _ = run_annotated("jobs=list.csv", "extend=cut")
    assert (code, out.count("already there")) == (0, 0), "another setting makes another video"


def test_a_wrong_cell_shows_before_anything_is_made(
    run_annotated: Any, face: Path, make_speech: Make, tmp_path: Path
) -> None:
    speech = make_speech(6400)
    for cell, message in (("[1,2", "line 3: pads=[1,2 cannot"), ("[1,2]", "line 3: pads=[1, 2]")):
        text = f'face,audio,outfile,pads\n{face},{speech},a.mp4,\n{face},{speech},b.mp4,"{cell}"\n'
        (tmp_path / "list.csv").write_text(text)
        code, out, err = run_annotated("jobs=list.csv")
        assert (code, out) == (2, "")
        assert message in err
        assert not (tmp_path / "a.mp4").exists()


def test_the_stages_are_timed_where_asked_for(run_annotated: Any, face: Path, make_speech: Make) -> None:
    code, out, _ = run_annotated(f"face={face}", f"audio={make_speech(6400)}", "outfile=a.mp4", "timing=true")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert names == ["stage", "decode", "detect", "synthesize", "composite", "encode", "wall"]


@pytest.mark.parametrize("marked", [True, False])
def test_the_file_says_that_it_is_generated(
    marked: bool, run_annotated: Any, face: Path, make_speech: Make, tmp_path: Path
) -> None:
    speech = make_speech(6400)
    code, _, _ = run_annotated(
        f"face={face}", f"audio={speech}", "outfile=a.mp4", f"provenance={str(marked).lower()}"
    )
    assert code == 0
    assert is_synthetic(tmp_path / "a.mp4") is marked
    assert (read_provenance(tmp_path / "a.mp4") is not None) is marked


def test_faces_are_enhanced_inside_their_region(
    run_annotated: Any, make_speech: Make, shared: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save({"params_ema": GFPGANv1Clean(out_size=64, narrow=0.25).state_dict()}, tmp_path / "gfpgan.pth")
    face, parser = shared / "data/raw/grid_s1/briz6n.mpg", "bisenet_face_parsing_19.pth"
    pictures = {}
    for name in ("none", "lip", "face"):
        code, _, err = run_annotated(
            *(f"face={face}", f"audio={make_speech(1900)}", f"outfile={name}.mkv", "encoder=lossless"),
            *(f"enhancer={name}", "restorer.weights=gfpgan.pth", "detector=default"),
            *([] if name == "none" else [f"enhancer.parser.weights={shared / 'weights' / parser}"]),
        )
        assert (code, err) == (0, ""), name
        pictures[name] = [frame.image for frame in VideoReader(tmp_path / f"{name}.mkv")]
    (found,) = MtcnnDetector().detect([Frame(0, 0.0, pictures["none"][0])])[0]
    x1, y1, x2, y2 = found.box.rounded()
    spread = {}
    for name in ("lip", "face"):
        changed = [(a != b).any(axis=2) for a, b in zip(pictures["none"], pictures[name], strict=True)]
        assert len(changed) == 3
        rows, columns = np.nonzero(np.any(changed, axis=0))
        assert x1 - 15 < columns.min() < columns.max() < x2 + 15
        assert y1 - 15 < rows.min() < rows.max() < y2 + 15
        spread[name] = rows.min()
    assert spread["face"] < (y1 + y2) / 2 < spread["lip"] + 20, "the lips lie below the middle"


def test_weights_of_another_network_are_one_line(
    run_annotated: Any, face: Path, make_speech: Make, checkpoint: Path
) -> None:
    code, out, err = run_annotated(
        *(f"face={face}", f"audio={make_speech(3200)}", "outfile=a.mp4", "enhancer=lip"),
        f"restorer.weights={checkpoint}",
        f"enhancer.parser.weights={checkpoint}",
    )
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert checkpoint.name in err
