"""Whatever a user gets wrong is one line on stderr and exit code 2, and leaves nothing half-made."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import wave
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipsync.media.writer import VideoWriter

REPOSITORY = Path(__file__).resolve().parents[2]
BOX = [30, 30, 80, 90]


class Payload:
    """Makes a file when a careless loader unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def video(path: Path, frames: int = 30, seconds: float | None = 1.2, faces: bool | None = True) -> Path:
    """A clip of noise with ``seconds`` of sound (None: no stream) and annotated faces (False: none found)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sound = None
    if seconds is not None:
        sound = (rng.standard_normal(round(16000 * seconds)) * 0.1).astype(np.float32)
    with VideoWriter(path, 128, 120, Fraction(25), sound, preset="ultrafast") as writer:
        for _ in range(frames):
            writer.write(rng.integers(0, 256, (120, 128, 3), dtype=np.uint8))
    if faces is not None:
        found = [[[*BOX, 0.9, None]]] if faces else [[]]
        path.with_suffix(".faces.json").write_text(json.dumps({"fps": "25/1", "faces": found * frames}))
    return path


def sound(path: Path, samples: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        noise = np.random.default_rng(1).integers(-9000, 9000, samples)
        file.writeframes(noise.astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good and bad media files by what they are."""
    folder = tmp_path_factory.mktemp("media")
    files = {
        "good": video(folder / "good.mp4"),
        "no sound": video(folder / "silent.mp4", seconds=None),
        "no face": video(folder / "landscape.mp4", faces=False),
        "speech": sound(folder / "speech.wav", 16000),
        "no samples": sound(folder / "empty.wav", 0),
        "folder": folder / "folder.mp4",
        "empty": folder / "nothing.mp4",
        "noise": folder / "noise.mp4",
        "cut off": folder / "cut.mp4",
        "text": folder / "text.wav",
        "missing": folder / "gone.mp4",
    }
    files["folder"].mkdir()
    files["empty"].touch()
    files["noise"].write_bytes(np.random.default_rng(0).bytes(5000))
    files["cut off"].write_bytes(files["good"].read_bytes()[:3000])
    files["text"].write_text("Dear Sir or Madam,\n")
    return files


@pytest.fixture(scope="module")
def bad_weights(weights: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weight files that must not be accepted as a generator or an expert."""
    folder = tmp_path_factory.mktemp("bad weights")
    files = {
        "missing": folder / "gone.pth",
        "folder": folder,
        "damaged": folder / "damaged.pth",
        "empty": folder / "empty.pth",
        "code": folder / "code.pth",
        "web page": folder / "page.pth",
        "no weights": folder / "list.pth",
    }
    files["damaged"].write_bytes(weights["generator"].read_bytes()[:-5000])
    files["empty"].touch()
    files["code"].write_bytes(pickle.dumps({"state_dict": Payload(folder / "it ran".replace(" ", "_"))}))
    files["web page"].write_text("<!DOCTYPE html><html>sign in</html>")
    torch.save([1, 2, 3], files["no weights"])
    return files


MEDIA_OF_FACE = ["folder", "empty", "noise", "cut off", "speech", "no face"]
MEDIA_OF_AUDIO = ["folder", "empty", "noise", "no samples", "no sound", "text"]
WEIGHTS = ["missing", "folder", "damaged", "empty", "code", "web page", "no weights"]


def assert_nothing_ran(bad_weights: Mapping[str, Path]) -> None:
    assert not (bad_weights["code"].parent / "it_ran").exists(), "the pickle's code ran"


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
    infer(**{setting: value}).line()


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


# train


@pytest.fixture
def train(command: Any, tiny: Any, tmp_path: Path) -> Callable[..., Any]:
    """A training run that must be refused; nothing may look like a result."""

    def call(*overrides: object, model: str = "wav2lip") -> str:
        done = command("train", *tiny(model, tmp_path / "run", *map(str, overrides)))
        line: str = done.line()
        assert not list(tmp_path.rglob("*.ckpt"))
        assert not list(tmp_path.rglob("metrics.csv"))
        return line

    return call


def test_train_with_bad_data(train: Any, corpus: Path, tmp_path: Path) -> None:
    assert "gone" in train("data.root=gone")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "preprocess" in train(f"data.root={empty}")
    assert str(corpus / "filelists" / "dev.txt") in train("data.val_splits=[dev]")
    lists = empty / "filelists"
    lists.mkdir()
    (lists / "train.txt").write_text("s0/gone\n")
    assert "s0/gone" in train(f"data.root={empty}").replace(os.sep, "/")
    (lists / "train.txt").write_text("\n")
    assert "train.txt" in train(f"data.root={empty}")
    (lists / "train.txt").write_text("../../etc\n")
    assert "../../etc" in train(f"data.root={empty}")
    (empty / "s0" / "bare").mkdir(parents=True)
    (lists / "train.txt").write_text("s0/bare\n")
    assert "bare" in train(f"data.root={empty}")


@pytest.mark.parametrize("kind", [*WEIGHTS, "generator"])
def test_train_with_a_bad_expert(
    kind: str, train: Any, bad_weights: Mapping[str, Path], weights: Mapping[str, Path]
) -> None:
    path = {**bad_weights, **weights}[kind]
    assert str(path) in train(f"model.expert_checkpoint={path}")
    assert_nothing_ran(bad_weights)


@pytest.mark.parametrize("kind", [*WEIGHTS, "generator"])
def test_train_with_a_bad_checkpoint_to_resume(
    kind: str, train: Any, bad_weights: Mapping[str, Path], weights: Mapping[str, Path]
) -> None:
    path = {**bad_weights, **weights}[kind]
    line = train(f"ckpt_path={path}")
    assert str(path) in line
    assert_nothing_ran(bad_weights)


def test_train_resuming_another_model(command: Any, tiny: Any, train: Any, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert command("train", *tiny("wav2lip", first)).code == 0
    other = (first / "checkpoints" / "last.ckpt").rename(tmp_path / "other.bin")
    for path in first.rglob("*.csv"):
        path.unlink()
    for model in ("syncnet", "wav2lip_hq"):
        assert str(other) in train(f"ckpt_path={other}", model=model)
    assert str(other) in train(f"ckpt_path={other}", "model.generator.width=0.25")


@pytest.mark.parametrize(
    "override",
    [
        "model=nonesuch",
        "data=nonesuch",
        "logger=nonesuch",
        "experiment=nonesuch",
        "modle=wav2lip",
        "model.generator.widht=1",
        "data.batch_size=0",
        "data.batch_size=many",
        "data.num_workers=-1",
        "trainer.val_check_interval=0",
        "data.root=null",
        "trainer.max_steps=many",
        "trainer.max_steps=-5",
        "trainer.precision=13",
        "trainer.accelerator=nonesuch",
        "trainer.devices=0",
        "trainer.nonesuch=1",
        "seed=-1",
        "seed=x",
        "model.expert_mode=half",
        "model.optimizer.lr=fast",
        "model.optimizer.lr=-1",
        "ckpt_path=last",
    ],
)
def test_train_with_bad_settings(override: str, train: Any) -> None:
    train(override)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_train_on_a_gpu_that_is_not_there(train: Any) -> None:
    assert "gpu" in train("trainer=gpu").lower()


def test_train_the_expert_with_bad_settings(train: Any) -> None:
    assert "nonsense" in train("model.objective=nonsense", model="syncnet")
    assert "data.batch_size=7" in train("data.batch_size=7", model="syncnet")


def test_train_into_a_file(train: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert str(tmp_path / "mine") in train(f"hydra.run.dir={tmp_path / 'mine' / 'run'}")
    assert (tmp_path / "mine").read_text() == "mine"


# evaluate


@pytest.fixture
def evaluate(command: Any, media: Mapping[str, Path], weights: Mapping[str, Path]) -> Callable[..., Any]:
    def call(**changes: object) -> Any:
        given: dict[str, object] = {
            "videos": media["good"],
            "judge": weights["cosine"],
            "output": "out",
            "protocol": "lrs",
            "detector": "annotated",
            "device": "cpu",
        }
        return command("evaluate", *(f"{key}={value}" for key, value in {**given, **changes}.items()))

    return call


@pytest.mark.parametrize("kind", ["empty", "noise", "cut off", "no sound", "no face"])
def test_evaluate_with_a_bad_video(kind: str, evaluate: Any, media: Mapping[str, Path]) -> None:
    """It is reported, in the tables too, and the exit code says that nothing was scored."""
    protocol = "wild" if kind == "no face" else "lrs"
    line = evaluate(videos=media[kind], protocol=protocol).line()
    assert media[kind].name in line
    assert json.loads(Path("out/summary.json").read_text())["n_failed"] == 1
    assert not list(Path("out").glob("*.part"))


def test_evaluate_with_short_sound(evaluate: Any, tmp_path: Path) -> None:
    line = evaluate(videos=video(tmp_path / "short.mp4", frames=4, seconds=0.15)).line()
    assert "short.mp4" in line


@pytest.mark.parametrize("kind", [*WEIGHTS, "generator"])
def test_evaluate_with_a_bad_judge(
    kind: str, evaluate: Any, bad_weights: Mapping[str, Path], weights: Mapping[str, Path]
) -> None:
    path = {**bad_weights, **weights}[kind]
    assert str(path) in evaluate(judge=path).line()
    assert not Path("out/summary.json").exists()
    assert_nothing_ran(bad_weights)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("videos", "gone*.mp4"),
        ("references", "gone"),
        ("protocol", "nonesuch"),
        ("detector", "nonesuch"),
        ("device", "nonesuch"),
        ("vidoes", "x"),
    ],
)
def test_evaluate_with_bad_settings(setting: str, value: str, evaluate: Any) -> None:
    evaluate(**{setting: value}).line()
    assert not Path("out/summary.json").exists()


def test_evaluate_into_a_file(evaluate: Any) -> None:
    Path("mine").write_text("mine")
    assert "mine" in evaluate(output="mine").line()
    assert Path("mine").read_text() == "mine"


def test_evaluate_any_name(evaluate: Any, media: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "it's; a=b, [c] ö"
    folder.mkdir()
    for name in ('say "x".mp4', "видео; rm.mp4"):
        (folder / name).write_bytes(media["good"].read_bytes())
        annotation = media["good"].with_suffix(".faces.json").read_text()
        (folder / name).with_suffix(".faces.json").write_text(annotation)
    done = evaluate(videos=folder, output=tmp_path / "re, port=1")
    assert (done.code, done.err) == (0, "")
    summary = json.loads((tmp_path / "re, port=1" / "summary.json").read_text())
    assert (summary["n_videos"], summary["n_failed"]) == (2, 0)
    assert not list(Path.cwd().iterdir()), "no log or run folder"


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
