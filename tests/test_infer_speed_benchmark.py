"""The benchmark of inference runs and gives the figures it promises; how good they are is the machine's."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("infer_speed")


@pytest.mark.parametrize("shape", [(512, 512), (1920, 1080), (360, 640), (300, 1400)])
def test_the_canvas_is_720p_with_the_picture_in_its_middle(
    shape: tuple[int, int], benchmark: ModuleType
) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    image[shape[0] // 2 - 20 : shape[0] // 2 + 20, shape[1] // 2 - 20 : shape[1] // 2 + 20] = 255
    result = benchmark.canvas(image)
    assert result.shape == (720, 1280, 3)
    assert result[360, 640].min() == 255


@pytest.mark.slow  # a generator of full size and S3FD on a whole frame
def test_every_figure_is_there(
    benchmark: ModuleType, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(benchmark, "in_a_process", lambda script, job: benchmark.measure(job))
    data, figures = shared / "data" / "raw", tmp_path / "figures.json"
    arguments = [str(data / "grid_s1" / "briz6n.mpg"), str(data / "audio" / "speech_3.wav"), "--frames", "8"]
    arguments += ["--precision", "float32", "--original", "1", "--long", "12", "--json", str(figures)]
    assert benchmark.main(arguments) == 0
    result = json.loads(figures.read_text())
    (row,) = result["rows"]
    assert (row["frames"], result["long"]["frames"]) == (8, 12)
    assert min(row["fps"], row["cpu"], row["memory"], *result["original"].values()) > 0
    assert {name for name, _ in row["stages"]} == {"decode", "detect", "synthesize", "composite", "encode"}
    printed = capsys.readouterr().out
    for expected in ("original", "ours, float32, 8", "memory, long against short", "ms a frame: read"):
        assert expected in printed


def test_a_missing_video_is_one_line(benchmark: ModuleType, tmp_path: Path, capsys: Any) -> None:
    assert benchmark.main([str(tmp_path / "none.mp4"), str(tmp_path / "none.wav")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
