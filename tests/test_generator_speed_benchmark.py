"""The comparison of generators runs every form; how fast they are depends on the machine."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FORMS = ["plain", "folded", "folded, lower rows"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("generator_speed")


def test_every_form_is_timed(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["--width", "0.05", "--batch", "1", "2", "--precision", "float32", "bfloat16"]
    assert benchmark.main([*arguments, "--rounds", "1", "--json", str(figures)]) == 0
    rows = json.loads(figures.read_text())["rows"]
    assert [(row["precision"], row["batch"], row["form"]) for row in rows] == [
        (precision, batch, form)
        for precision in ("float32", "bfloat16")
        for batch in (1, 2)
        for form in FORMS
    ]
    assert all(row["ms"] > 0 and row["ratio"] > 0 for row in rows)
    assert all(row["ratio_of_precision"] == 1 for row in rows if row["form"] == "plain")
    assert capsys.readouterr().out.count("lower rows") == 4


def test_a_device_that_is_not_there_is_one_line(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["--device", "tpu"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
