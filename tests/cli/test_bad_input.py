"""Whatever a user gets wrong is one line on stderr and exit code 2, and leaves nothing half-made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from bad_files import (
    MEDIA_OF_AUDIO,
    MEDIA_OF_FACE,
    WEIGHTS,
    assert_nothing_ran,
    bad_weights,
    media,
    sound,
    video,
)

REPOSITORY = Path(__file__).resolve().parents[2]

__all__ = ["bad_weights", "media"]  # fixtures


# infer


@pytest.fixture
def infer(command: Any, media: Mapping[str, Path], weights: Mapping[str, Path]) -> Callable[..., Any]:
    def call(**changes: object) -> Any:
        given: dict[str, object] = {
            "face": media["good"],
            "audio": media["speech"],
            "checkpoint": weights["generator"],
            "outfile": "out.mp4",
            "detector": "annotated",
        }
        done = command("infer", *(f"{key}={value}" for key, value in {**given, **changes}.items()))
        if done.code:
            assert not list(Path.cwd().rglob("*")), "nothing is left behind"
        return done

    return call


@pytest.mark.parametrize("kind", MEDIA_OF_FACE)
def test_infer_with_a_bad_face(kind: str, infer: Any, media: Mapping[str, Path]) -> None:
    line = infer(face=media[kind]).line()
    assert str(media[kind]) in line
    if kind == "no face":
        assert "face" in line.replace(str(media[kind]), "")


@pytest.mark.parametrize("kind", MEDIA_OF_AUDIO)
def test_infer_with_bad_audio(kind: str, infer: Any, media: Mapping[str, Path]) -> None:
    assert str(media[kind]) in infer(audio=media[kind]).line()


@pytest.mark.parametrize("samples", [1, 200, 1600, 3199])
def test_infer_with_very_short_speech_works(samples: int, infer: Any, tmp_path: Path) -> None:
    """Less than the 0.2 s of a mel window is padded, not refused."""
    done = infer(audio=sound(tmp_path / "short.wav", samples))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"out.mp4: {-(-samples // 640)} frame")


@pytest.mark.parametrize("kind", WEIGHTS)
def test_infer_with_bad_weights(kind: str, infer: Any, bad_weights: Mapping[str, Path]) -> None:
    assert str(bad_weights[kind]) in infer(checkpoint=bad_weights[kind]).line()
    assert_nothing_ran(bad_weights)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", "0"),
        ("batch_size", "many"),
        ("every", "0"),
        ("fps", "0"),
        ("fps", "-25"),
        ("resize_factor", "0"),
        ("crop", "[0,0,0,0]"),
        ("box", "[1,2]"),
        ("encoder.codec", "nonesuch"),
        ("outfile", "out.xyz"),
        ("outfile", "."),
        ("face", "null"),
        ("encoder.crf", "99"),
    ],
)
def test_infer_with_bad_settings(setting: str, value: str, infer: Any) -> None:
    assert infer(**{setting: value}).line()


# preprocess


@pytest.fixture
def preprocess(command: Any, tmp_path: Path) -> Callable[..., Any]:
    def call(root: object = None, *overrides: str) -> Any:
        given = [f"data_root={root or tmp_path / 'raw'}", f"preprocessed_root={tmp_path / 'out'}"]
        return command("preprocess", *given, "detector=annotated", *overrides)

    return call


def test_preprocess_without_usable_videos(preprocess: Any, media: Mapping[str, Path], tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    assert "no such folder" in preprocess().line()
    raw.mkdir()
    assert "no video file" in preprocess().line()
    assert str(media["good"]) in preprocess(media["good"]).line()
    for kind in ("no sound", "no face", "empty", "noise", "cut off"):
        source = media[kind]
        (raw / f"{kind}.mp4").write_bytes(source.read_bytes())
        if source.with_suffix(".faces.json").exists():
            annotation = source.with_suffix(".faces.json").read_text()
            (raw / f"{kind}.faces.json").write_text(annotation)
    video(raw / "short.mp4", frames=10, seconds=0.4)
    line = preprocess().line()
    assert "none of its 6 videos can be used" in line
    report = json.loads((out / "report.json").read_text())
    reasons = {Path(item["source"]).stem: item["reason"] for item in report["dropped"]}
    assert set(reasons) == {"no sound", "no face", "empty", "noise", "cut off", "short"}
    assert "sound" in reasons["no sound"]
    assert "face" in reasons["no face"]
    assert all("\n" not in reason for reason in reasons.values())
    assert not (out / "filelists").exists()
    assert not list(out.rglob("*.jpg"))
    assert not list(out.rglob("*.part"))


def test_preprocess_keeps_the_good_and_any_name(preprocess: Any, tmp_path: Path) -> None:
    names = ["it's; rm -rf x.mp4", "a, b=c.mp4", "видео [1] {2}.MP4", 'say "cheese".mp4']
    root = tmp_path / "raw; odd=name, 人"
    for name in names:
        video(root / "main" / "s p" / name)
    (root / "main" / "s p" / "broken.mp4").write_bytes(b"no video")
    done = preprocess(root)
    assert (done.code, done.err) == (0, ""), done
    assert done.out.startswith("4 of 5 videos kept as 4 clips")
    clips = {
        path.parent.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/*/*/audio.wav")
    }
    listed = [path.read_text().split("\n") for path in (tmp_path / "out" / "filelists").glob("*.txt")]
    assert {name for lines in listed for name in lines if name} == clips
    assert len(clips) == 4


@pytest.mark.parametrize(
    "override",
    [
        "workers=-1",
        "workers=many",
        "every=0",
        "every=often",
        "min_frames=1",
        "min_frames=few",
        "pads=[1,2,3]",
        "pads=3",
        "pads=[a,b,c,d]",
        "preprocessed_root=null",
        "detector=nonesuch",
        "engine=nonesuch",
        "wrokers=2",
    ],
)
def test_preprocess_with_bad_settings(override: str, preprocess: Any, tmp_path: Path) -> None:
    video(tmp_path / "raw" / "a.mp4", frames=26)
    line = preprocess(None, override).line()
    name, _, value = override.partition("=")
    assert name in line or value in line
    assert not list(tmp_path.glob("out/**/*.jpg"))


def test_preprocess_into_a_file(preprocess: Any, tmp_path: Path) -> None:
    video(tmp_path / "raw" / "a.mp4", frames=26)
    (tmp_path / "out").write_text("mine")
    assert str(tmp_path / "out") in preprocess().line()
    assert (tmp_path / "out").read_text() == "mine"


# whole processes


@pytest.mark.parametrize(
    "arguments",
    [["train", "data.root=x", "model.generator.width=[1"], pytest.param(["train"], marks=pytest.mark.slow)],
)
def test_a_process_of_its_own(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lipsync", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("lipsync: ")
    assert not list(tmp_path.rglob("*.ckpt"))
