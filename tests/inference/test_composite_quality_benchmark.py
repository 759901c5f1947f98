"""The benchmark of compositors runs and gives the figures it promises; how good those are is its business."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from lipsync.inference.composite import BoxCompositor, FeatherCompositor
from lipsync.types import Box, Face, Frame, Patch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BOX = Box(30, 20, 90, 100)
BOX_ONLY = ("--infer", "detector=annotated", "--setting", "compositor=box")


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("composite_quality")


def patches(offset: float, count: int = 3) -> list[Patch]:
    """A smooth picture whose repainted box is ``offset`` grey levels lighter."""
    y, x = np.mgrid[0:120, 0:128]
    image = np.repeat((80 + 20 * np.sin(x / 9) + 20 * np.cos(y / 7))[:, :, None], 3, axis=2)
    new = cv2.resize(image[20:100, 30:90] + offset, (96, 96)).astype(np.uint8)
    return [Patch(Frame(i, i / 25, image.astype(np.uint8)), BOX, new, Face(BOX, 1.0)) for i in range(count)]


def figures(quality: ModuleType, compositor: Any, offset: float) -> dict[str, float]:
    kept = list(compositor(patches(offset)))
    found: dict[str, float] = quality.figures(kept, [item.frame for item in kept], 0.001)
    return found


def test_seams_and_tones_are_told_apart(quality: ModuleType) -> None:
    same = figures(quality, BoxCompositor(), 0)
    pasted = figures(quality, BoxCompositor(), 40)
    feathered = figures(quality, FeatherCompositor(tone=False), 40)
    toned = figures(quality, FeatherCompositor(), 40)
    assert same["seam"] == pytest.approx(1, abs=0.1)
    assert pasted["seam"] > 1.5 * feathered["seam"]
    assert feathered["seam"] > 1.3 * toned["seam"]
    assert pasted["halo"] > 1.5
    assert feathered["tone"] > 5 * toned["tone"]
    assert pasted["flicker"] < 0.1
    assert all(found["outside"] == float("inf") for found in (same, pasted, feathered, toned))
    assert same["ms"] == 1


def test_a_changed_byte_outside_the_mask_is_found(quality: ModuleType) -> None:
    (item,) = FeatherCompositor()(patches(10, 1))
    item.frame.image[0, 0] ^= 255
    assert quality.outside(item) < 60


@pytest.fixture
def inputs(
    make_video: Callable[..., Path], make_speech: Callable[..., Path], checkpoint: Path, tmp_path: Path
) -> list[str]:
    """Checkpoint, video with annotated faces, and sound."""
    video = tmp_path / "clip.mp4"
    video.write_bytes(make_video(8).read_bytes())
    faces = [[[30.0, 20.0, 90.0, 100.0, 0.9, None]]] * 8
    video.with_suffix(".faces.json").write_text(json.dumps({"fps": "25/1", "faces": faces}))
    return [str(checkpoint), str(video), "--audio", str(make_speech(16000))]


def test_it_runs_from_the_command_line(
    quality: ModuleType, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*inputs, "--frames", "4", "--each", "--infer", "detector=annotated"]
    arguments += ["--setting", "compositor=box", "--setting", "compositor=feather", "mask.top=0.4"]
    arguments += ["--pictures", str(tmp_path / "pictures"), "--json", str(tmp_path / "figures.json")]
    assert quality.main(arguments) == 0
    rows = json.loads((tmp_path / "figures.json").read_text())
    assert [row["setting"] for row in rows] == ["compositor=box", "compositor=feather mask.top=0.4"]
    assert all(set(quality.COLUMNS) <= set(row) for row in rows)
    assert rows[0]["to box"] == 1
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    assert capsys.readouterr().out.count("clip.mp4") == 2


def test_bad_input_is_one_line(
    quality: ModuleType, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality.main([str(checkpoint), str(tmp_path / "none.mp4"), "--audio", "none.wav", *BOX_ONLY]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
