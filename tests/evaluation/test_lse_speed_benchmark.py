"""The speed comparison runs both sides and gives the same scores; how fast depends on the machine."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("lse_speed")


def test_both_sides_score_alike_and_every_figure_is_there(
    benchmark: ModuleType, make_video: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(benchmark, "in_a_process", lambda script, job: benchmark.measure(job))
    monkeypatch.setattr(benchmark, "WINDOWS", 20)
    monkeypatch.setattr(benchmark, "network_alone", lambda threads: [{"form": "literal", "ms": 1.0}])
    video, figures = make_video(tmp_path / "a.mp4", frames=14, size=(64, 64)), tmp_path / "figures.json"
    arguments = [str(video), "--seconds", "0.48", "--longer", "2", "--json", str(figures)]
    assert benchmark.main(arguments) == 0
    rows = json.loads(figures.read_text())["videos"]
    literal, ours, half, literal_many, ours_many, half_many = rows
    assert [row["sounds"] for row in rows] == [1, 1, 1, 23, 23, 23]
    assert (literal["side"], ours["precision"], half["precision"]) == ("literal", "float32", "bfloat16")
    assert literal["frames"] == 12
    assert ours["distance"] == pytest.approx(literal["distance"], abs=0.01)
    assert ours["confidence"] == pytest.approx(literal["confidence"], abs=0.01)
    assert literal["ratio"] == 1
    assert literal_many["cpu"] == 23 * literal["cpu"]
    assert literal_many["ratio"] == 1
    for one, many in ((ours, ours_many), (half, half_many)):
        assert many["distance"] == pytest.approx(one["distance"], abs=1e-5)
        assert many["confidence"] == pytest.approx(one["confidence"], abs=1e-5)
    for row in rows:
        assert min(row["cpu"], row["wall"], row["ratio"]) > 0
        assert {"memory", "memory_longer"} <= set(row)
    printed = capsys.readouterr().out
    assert printed.count("ours, ") == 4
    assert printed.count(", 23 sounds") == 3


def test_the_network_is_measured_in_both_precisions(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "WINDOWS", 20)
    rows = benchmark.network_alone(threads=1, rounds=1)
    assert [row["form"] for row in rows] == ["literal, float32", "ours, float32", "ours, bfloat16"]
    assert all(row["ms"] > 0 for row in rows)


def test_a_missing_video_is_one_line(benchmark: ModuleType, tmp_path: Path, capsys: Any) -> None:
    assert benchmark.main([str(tmp_path / "none.mp4")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
