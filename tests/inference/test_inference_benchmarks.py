"""The benchmarks of inference give the figures they promise, and find what was put in."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from inference_stubs import StubDetector
from torch import nn

from lipsync.data.synthetic import make_corpus
from lipsync.metrics.judges import ExpertJudge
from lipsync.models.syncnet import SyncNet
from lipsync.types import Box, Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
VSHIFT = 15


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two drawn clips of 1.6 s with sound."""
    root = make_corpus(tmp_path_factory.mktemp("drawn"), clips=2, speakers=2, seconds=1.6, size=96)
    return sorted(root.glob("main/*/*.mp4"))


@pytest.fixture
def detector() -> StubDetector:
    return StubDetector(box=Box(8.0, 8.0, 88.0, 88.0))


def valley(lag: int, depth: float = 0.2) -> np.ndarray:
    """Distances by lag with their least at ``lag``."""
    lags = VSHIFT - np.arange(2 * VSHIFT + 1)
    return 1.2 - depth * np.exp(-(((lags - lag) / 2.0) ** 2))


def clips_with(right: int, scatter: float = 0.0, real: int = 0) -> dict[int, np.ndarray]:
    """Curves of twenty clips of a generator that is in sync at shift ``right``."""
    rng = np.random.default_rng(0)
    return {
        shift: np.stack([valley(right - shift + real) + scatter * rng.standard_normal(31) for _ in range(20)])
        for shift in range(-3, 4)
    }


@pytest.mark.parametrize("real", [0, 1])
@pytest.mark.parametrize("right", [-2, -1, 0, 3])
def test_the_right_shift_is_recommended(load: Callable[[str], ModuleType], right: int, real: int) -> None:
    shifts = load("audio_shift")
    verdict = shifts.recommend(clips_with(right, 0.02, real), real)
    assert verdict.shift == right
    assert verdict.chosen > 0.95
    assert set(verdict.votes) == {right}
    assert verdict.settled
    rows = {row.shift: row for row in shifts.tabulate(clips_with(right, 0.0, real), real)}
    assert rows[right].agreeing == 1
    assert rows[right].at_real == pytest.approx(rows[right].least)
    assert all(row.agreeing == 0 for shift, row in rows.items() if shift != right)


def test_a_judge_that_sees_nothing_settles_nothing(load: Callable[[str], ModuleType]) -> None:
    shifts = load("audio_shift")
    rng = np.random.default_rng(1)
    curves = {shift: 1.2 + 0.1 * rng.standard_normal((12, 31)) for shift in range(-3, 4)}
    assert not shifts.recommend(curves, 0).settled


def test_shifts_are_measured_from_files_to_the_table(
    load: Callable[[str], ModuleType],
    *,
    clips: list[Path],
    checkpoint: Path,
    detector: StubDetector,
    fill: Callable[..., nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    shifts = load("audio_shift")
    monkeypatch.setattr(shifts, "YunetDetector", lambda weights: detector)
    monkeypatch.setattr(shifts, "load_judge", lambda source: ExpertJudge(fill(SyncNet(width=0.125)), "an"))
    figures = tmp_path / "figures.json"
    arguments = [str(checkpoint), *map(str, clips), "--shifts", "-1", "0", "--json", str(figures)]
    assert shifts.main([*arguments, "--device", "cpu"]) == 0
    result = json.loads(figures.read_text())
    assert (result["clips"], result["own_shift"], result["judge"]) == (2, 0, "an")
    assert [row["shift"] for row in result["rows"]] == [-1, 0]
    assert all(0 < row["least"] <= row["at_zero"] < 2 for row in result["rows"])
    # One frame earlier is another video, so the mouths differ and with them the judge's distances.
    assert result["rows"][0]["at_zero"] != result["rows"][1]["at_zero"]
    printed = capsys.readouterr().out
    assert f"recommended: audio_shift={result['verdict']['shift']}" in printed


def test_clips_speak_the_words_of_the_next_one_at_their_own_length(
    load: Callable[[str], ModuleType], clips: list[Path]
) -> None:
    shifts = load("audio_shift")
    first, second = shifts.foreign_sounds(clips)
    assert first.size == pytest.approx(1.6 * 16000, abs=640)
    own = shifts.load_waveform(clips[1], 16000)
    np.testing.assert_array_equal(first[:16000], own[:16000])
    assert not np.array_equal(second[:16000], own[:16000])


class Mouth:
    """Landmarks whose inner lips open with the brightness below the middle of the face."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def points(self, image: Image, box: Box) -> np.ndarray:
        points = np.zeros((98, 2), np.float32)
        points[72] = [100, 0]
        points[92] = [40, 0]
        x1, y1, x2, y2 = box.rounded()
        opened = float(image[(y1 + y2) // 2 : y2, x1:x2].mean()) / 10
        points[[93, 94, 95]] = [0, opened]
        return points


def test_silence_is_measured_from_files_to_the_table(
    load: Callable[[str], ModuleType],
    *,
    clips: list[Path],
    checkpoint: Path,
    detector: StubDetector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    gate = load("silence_gate")
    monkeypatch.setattr(gate, "YunetDetector", lambda weights: detector)
    monkeypatch.setattr(gate, "LandmarkNet", Mouth)
    monkeypatch.setattr(gate, "PAUSES", (0.8,))
    figures = tmp_path / "figures.json"
    arguments = [str(checkpoint), str(clips[0]), "--landmarks", "none.onnx", "--snr", "20"]
    assert gate.main([*arguments, "--device", "cpu", "--seconds", "0.4", "--json", str(figures)]) == 0
    result = json.loads(figures.read_text())
    keys = [(row["picture"], row["sound"], row["mode"]) for row in result["rows"]]
    sounds = ("digital silence", "noise at 20 dB")
    assert keys == [(p, s, m) for p in gate.PICTURES for s in sounds for m in gate.MODES]
    rows = dict(zip(keys, result["rows"], strict=True))
    for sound in sounds:
        assert result["heard_silent"][sound][0] == 1
        picture, source = (rows["still", sound, mode] for mode in ("picture", "source"))
        assert picture["silence_motion"] == picture["silence_change"] == picture["step"] == 0
        assert source["silence_motion"] < 1e-3
        assert source["silence_aperture"] == pytest.approx(picture["silence_aperture"], rel=0.01)
        assert rows["still", sound, "speak"]["ratio"] == 1
        assert rows["still", sound, "speak"]["speech_change"] > 0
    noisy, gated = (rows["still", sounds[1], mode] for mode in ("speak", "close"))
    assert gated["silence_change"] < noisy["silence_change"]
    assert capsys.readouterr().out.count("source") == 4


def test_pauses_are_put_where_it_is_quiet(load: Callable[[str], ModuleType]) -> None:
    gate = load("silence_gate")
    frames = np.full((100, 640), 0.5, np.float32)
    frames[[40, 60]] = 0.01
    sound, silent = gate.paused(frames.reshape(-1), (1.4, 1.4))
    assert silent.sum() == 70
    assert np.flatnonzero(np.diff(silent.astype(int))).tolist() == [39, 74, 94, 129]
    assert (sound.reshape(-1, 640)[silent] == 0).all()
    np.testing.assert_array_equal(sound.reshape(-1, 640)[~silent], frames)
    noisy = gate.with_noise(sound, 20)
    assert 20 * np.log10(0.5 / np.std(noisy[np.repeat(silent, 640)])) == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize("name", ["audio_shift", "silence_gate"])
def test_a_missing_video_is_one_line(
    load: Callable[[str], ModuleType],
    *,
    name: str,
    checkpoint: Path,
    detector: StubDetector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    module = load(name)
    monkeypatch.setattr(module, "YunetDetector", lambda weights: detector)
    monkeypatch.setattr(module, "LandmarkNet" if name == "silence_gate" else "load_judge", Mouth)
    missing = [str(tmp_path / "none.mp4"), str(tmp_path / "none.mp4")]
    more = ["--landmarks", "none.onnx"] if name == "silence_gate" else []
    assert module.main([str(checkpoint), *missing, *more, "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
