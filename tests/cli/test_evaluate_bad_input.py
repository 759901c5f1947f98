"""``evaluate.py`` on what users give it: odd and damaged videos become rows, wrong settings one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluation_clips import FRAMES, REPORT, clip, rows, run, summary
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lipsync.cli.app import config_dir
from lipsync.cli.evaluate import evaluate
from lipsync.cli.flags import quote
from lipsync.errors import UserError

__all__ = ["run"]  # a fixture


# Videos


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of every kind in ``videos``, the references that some have in ``references``."""
    root = tmp_path_factory.mktemp("zoo")
    videos, references = root / "videos", root / "references"
    clip(videos / "good.mp4")
    clip(videos / "long.mp4", 106, size=(128, 128))
    clip(videos / "no audio.mp4", sound=0)
    clip(videos / "no face.mp4", faces=0)
    clip(videos / "several faces.mp4", faces=3, size=(192, 96))
    clip(videos / "3 frames.mp4", 3)
    clip(videos / "60 fps.mp4", 96, fps=60)
    clip(videos / "short sound.mp4", 50, sound=1.4)
    clip(videos / "silence.mkv", loudness=0)
    clip(videos / "vertical.mkv", size=(54, 98))
    clip(videos / "odd.mkv", size=(97, 75))
    clip(videos / "größe, 1 (日本) 'x' & <b>.mp4")
    clip(videos / "longer.mp4", 50)
    clip(videos / "shorter.mp4", 35)
    clip(videos / "other size.mp4")
    clip(videos / "other rate.mp4")
    (videos / "text.mp4").write_text("Dear Sir or Madam,\n")
    (videos / "empty.mp4").touch()
    (videos / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (videos / "cut off.mp4").write_bytes((videos / "good.mp4").read_bytes()[:2000])
    (videos / "sound only.mp4").symlink_to("gone.mp4")
    for name in ("good.mp4", "no audio.mp4", "longer.mp4", "shorter.mp4"):
        clip(references / name)
    clip(references / "other size.mp4", size=(64, 64))
    clip(references / "other rate.mp4", 48, fps=30)
    (references / "60 fps.mp4").write_bytes(b"damaged")
    return root


BROKEN = {
    "text.mp4": "cannot be opened",
    "empty.mp4": "empty",
    "noise.mp4": "cannot be opened",
    "cut off.mp4": "damaged",
}
REASONS = {**BROKEN, "no audio.mp4": "no audio stream", "no face.mp4": "face", "3 frames.mp4": ""}


@pytest.mark.parametrize("protocol", ["lrs", pytest.param("strict", marks=pytest.mark.slow), "wild"])
def test_every_video_is_scored_or_listed_with_its_reason(protocol: str, zoo: Path, run: Any) -> None:
    settings = {"videos": zoo / "videos", "references": zoo / "references", "protocol": protocol}
    done = run("metrics.picture=true", "metrics.regions=[frame]", **settings)
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in Path("out").iterdir()) == REPORT
    found = rows(Path("out"))
    assert len(found) == 20, "the dangling link is no file"
    for name, words in REASONS.items():
        assert found[name]["status"] == "not scored"
        assert words in found[name]["reason"], found[name]["reason"]
    scored = {name for name, row in found.items() if row["status"] == "scored"}
    if protocol == "lrs":
        assert scored == set(found) - set(REASONS)
        assert "silence" in found["silence.mkv"]["notes"]
        assert "the sound ends 0.6 s before the picture" in found["short sound.mp4"]["notes"]
        assert found["good.mp4"]["notes"] == ""
    else:
        assert scored >= ({"good.mp4", "60 fps.mp4"} if protocol == "strict" else {"long.mp4"})
        assert not scored & set(REASONS)
    for name in scored:
        assert 0 < float(found[name]["expert_d"]) < 2
    for name in set(found) - scored:
        assert found[name]["reason"]
        assert found[name]["expert_d"] == found[name]["expert_c"] == ""
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "größe, 1 (日本) " in page
    assert "& <b>.mp4" not in page, "names are escaped"


def test_references_that_do_not_fit(zoo: Path, run: Any) -> None:
    settings = {"videos": zoo / "videos", "references": zoo / "references", "judge": "null"}
    assert run("metrics.picture=true", "metrics.regions=[frame]", **settings).code == 0
    found = rows(Path("out"))
    assert found["good.mp4"]["n_frames_compared"] == str(FRAMES)
    assert found["longer.mp4"]["n_frames_compared"] == str(FRAMES)
    assert found["shorter.mp4"]["n_frames_compared"] == "35"
    assert summary(Path("out"))["lengths_differ"] == ["longer.mp4", "shorter.mp4"]
    for name, words in {
        "odd.mkv": "no reference of this name",
        "other size.mp4": "size 96 x 96 differs from the reference's 64 x 64",
        "other rate.mp4": "25.000 fps differ from the reference's 30.000 fps",
        "60 fps.mp4": "references/60 fps.mp4: cannot be opened",
    }.items():
        assert words in found[name]["image_reason"], found[name]["image_reason"]
        assert found[name]["psnr"] == ""
    real = rows(Path("out"), "real")
    assert len(real) == 7
    assert real["60 fps.mp4"]["status"] == "not scored"


def test_a_list_with_repeated_and_missing_lines(zoo: Path, run: Any, tmp_path: Path) -> None:
    good = zoo / "videos" / "good.mp4"
    lines = ["# a list", str(good), "", f"{zoo}/references/../videos/good.mp4", "gone.mp4", str(good)]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert run(videos=tmp_path / "list.txt").code == 0
    found = rows(Path("out"))
    assert len(found) == 2
    (missing,) = (row for row in found.values() if row["status"] == "not scored")
    assert "gone.mp4: no such file" in missing["reason"]
    (note, *_) = summary(Path("out"))["notes"]
    assert note.startswith("list.txt: 2 of 4 lines repeat another one and count once (")
    assert note in Path("out/report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "names", [["no audio.mp4"], ["3 frames.mp4", "text.mp4"], ["no audio.mp4", "good.mp4"]]
)
def test_only_nothing_scored_is_a_failure(names: list[str], zoo: Path, run: Any, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{zoo}/videos/{name}\n" for name in names))
    done = run(videos=tmp_path / "list.txt")
    assert sorted(path.name for path in Path("out").iterdir()) == REPORT
    if "good.mp4" in names:
        assert done.code == 0
    else:
        line = done.line()
        assert line.startswith(f"none of {len(names)} videos could be scored ({names[0]}: ")
        assert line.endswith(f"all reasons are in {Path('out/scores.csv')}")


def test_references_alone_do_not_make_a_success(run: Any, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_text("damaged")
    clip(tmp_path / "references" / "a.mp4")
    done = run(videos=tmp_path / "videos", references=tmp_path / "references")
    assert "none of 1 videos could be scored (a.mp4: " in done.line()
    assert rows(Path("out"), "real")["a.mp4"]["status"] == "scored"


def test_a_name_that_is_no_text_is_still_reported(run: Any, tmp_path: Path) -> None:
    good = clip(tmp_path / "videos" / "good.mp4")
    odd = Path(str(good.with_name("caf")) + "\udce9.mp4")
    try:
        odd.write_bytes(b"damaged")
    except OSError:
        pytest.skip("this file system has no such names")
    assert run(videos=tmp_path / "videos").code == 0
    assert set(rows(Path("out"))) == {"good.mp4", "caf\\xe9.mp4"}


# Settings


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("good") / "good.mp4")


def symlink(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.fixture(scope="module")
def composed(weights: Mapping[str, Path]) -> DictConfig:
    """The configuration of the command, composed once: Hydra takes most of the time of a refusal."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        judge = f"judge={quote(str(weights['cosine']))}"
        return compose("evaluate", [judge, "detector=annotated", "metrics=lse", "protocol=lrs", "output=out"])


@pytest.fixture
def refused(composed: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``refused(setting=value)`` -> the line of the error that the command ends with."""
    monkeypatch.chdir(tmp_path)

    def call(**changes: object) -> str:
        cfg = composed.copy()
        for key, value in changes.items():
            given = str(value)
            OmegaConf.update(cfg, key, yaml.safe_load(given) if given[:1] != "*" else given)
        with pytest.raises(UserError) as error:
            evaluate(cfg)
        assert "\n" not in str(error.value)
        return str(error.value)

    return call


def corpus(root: Path, clip: Path) -> Path:
    symlink(root / "main" / "s1" / "a.mp4", clip)
    (root / "filelists").mkdir()
    (root / "filelists" / "test.txt").write_text("s1/a\n")
    return root


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"videos": "null"}, "missing: videos; "),
        ({"videos": "nowhere"}, "nowhere: no such folder"),
        ({"videos": "nothing"}, "nothing: no video found"),
        ({"videos": "no*where"}, "no*where: no video found"),
        ({"videos": "text.txt"}, "text.txt:1: is no path"),
        ({"videos": "binary.dat"}, "binary.dat: is neither"),
        ({"generator": "GENERATOR"}, "videos and generator do not go together"),
        ({"compare": "a,b"}, "videos and compare do not go together"),
        ({"references": "nowhere"}, "nowhere: no such folder; give references=DIR"),
        ({"references": "others"}, "others: holds no video named like one of the 1 to score (such as a.mp4)"),
        ({"filelist": "list.txt"}, "filelist goes with generator=..., not with videos=..."),
        ({"systems": "[real]"}, "systems goes with generator=..."),
        ({"output": "null"}, "output"),
        ({"output": "text.txt"}, "text.txt: cannot be written"),
        ({"output": "text.txt/below"}, "text.txt/below: cannot be written"),
        ({"max_shift": "-1"}, "max_shift=-1: give 0 to 15 frames"),
        ({"max_shift": "two"}, "max_shift=two: give a whole number"),
        ({"seed": "-1"}, "seed=-1: give a whole number from 0"),
        ({"protocol.pads": "[1,2]"}, "pads=[1, 2]: give four whole numbers"),
        ({"device": "tpu"}, "device=tpu"),
        ({"judge": "GENERATOR"}, "holds"),
        ({"judge": "text.txt"}, "text.txt"),
        ({"judge": "gone.ckpt"}, "gone.ckpt"),
        ({"judge": "null"}, "judge=null leaves nothing to compute"),
        (
            {"metrics.regions": "[mouth,nose]"},
            "metrics.regions=['mouth', 'nose']: give one or more of [frame,",
        ),
        ({"metrics.regions": "nose"}, "metrics.regions=nose: give one or more of [frame,face,mouth]"),
        ({"metrics.regions": "[]"}, "metrics.regions=[]: give one or more of [frame,face,mouth]"),
        ({"metrics.fid_regions": "5"}, "metrics.fid_regions=5: give one or more of"),
        ({"metrics.every": "0"}, "metrics.every=0: give a whole number from 1 on"),
        ({"metrics.every": "1.5"}, "metrics.every=1.5: give a whole number from 1 on"),
        ({"metrics.fid_every": "0"}, "metrics.fid_every=0: give a whole number from 1 on"),
        ({"metrics.picture": "maybe"}, "metrics.picture=maybe: give true or false"),
        ({"metrics.sharpness": "2"}, "metrics.sharpness=2: give true or false"),
        ({"metrics.lpips": "text.txt"}, "metrics.lpips is measured with the pictures; give metrics.picture"),
        ({"metrics.lpips": "text.txt", "metrics.picture": "true"}, "text.txt"),
        ({"metrics.lpips": "gone.pth", "metrics.picture": "true"}, "gone.pth"),
        ({"metrics.lpips": "GENERATOR", "metrics.picture": "true"}, "generator.pth"),
        *(
            ({f"metrics.{key}": value}, value if value != "GENERATOR" else "generator.pth")
            for key in ("landmarks", "identity", "fid", "fvd")
            for value in ("text.txt", "gone.onnx", "GENERATOR")
        ),
    ],
)
def test_settings_that_cannot_be(
    settings: dict[str, str], words: str, refused: Any, good: Path, weights: Mapping[str, Path]
) -> None:
    symlink(Path("videos/a.mp4"), good)
    symlink(Path("others/b.mp4"), good)
    Path("nothing").mkdir()
    Path("text.txt").write_text("so " * 200)
    Path("list.txt").write_text("s1/a\n")
    Path("binary.dat").write_bytes(bytes(range(128, 256)))
    given = {key: value.replace("GENERATOR", str(weights["generator"])) for key, value in settings.items()}
    assert words in refused(**{"videos": "videos", **given})
    assert not Path("out").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"filelist": "null"}, "filelist=null: give filelist=..."),
        ({"filelist": "gone.txt"}, "gone.txt: cannot read this file list"),
        ({"filelist": "empty.txt"}, "empty.txt: lists no clip"),
        ({"filelist": "odd.txt"}, "odd.txt:2: "),
        ({"filelist": "absolute.txt"}, "absolute.txt:2: '/etc/passwd' is no folder/id"),
        ({"data_root": "nowhere"}, "nowhere: no such folder; give data_root=DIR"),
        ({"data_root": "."}, "none of its 1 clips is below ."),
        ({"systems": "[real,lipsing]"}, "systems=['real', 'lipsing']: give one or more of [real,shuffled,"),
        ({"systems": "lipsing"}, "systems=lipsing: give one or more of"),
        ({"systems": "[]"}, "systems=[]: give one or more of"),
        ({"systems": "[shifted]"}, "systems=[shifted] needs the shifts to try; give max_shift=N"),
        ({"systems": "cross"}, "systems=[cross] needs two clips"),
        ({"references": "corpus"}, "references goes with videos=..., not with generator=..."),
        ({"generator": "gone.ckpt"}, "gone.ckpt"),
        ({"generator": "EXPERT"}, "cosine.pth"),
        ({"generation.pads": "[1,2]"}, "pads=[1, 2]: give four whole numbers"),
        ({"generation.every": "many"}, "every=many: give a whole number"),
    ],
)
def test_settings_of_a_generator_that_cannot_be(
    settings: dict[str, str], words: str, refused: Any, good: Path, weights: Mapping[str, Path]
) -> None:
    root = corpus(Path("corpus"), good)
    Path("empty.txt").touch()
    Path("odd.txt").write_text("s1/a\ns1/a s2/b\n")
    Path("absolute.txt").write_text("s1/a\n/etc/passwd\n")
    given_rightly = {
        "generator": weights["generator"],
        "filelist": root / "filelists" / "test.txt",
        "data_root": root,
    }
    given = {key: value.replace("EXPERT", str(weights["cosine"])) for key, value in settings.items()}
    assert words in refused(**{**given_rightly, **given})
    assert not Path("out").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"videos": ""}, "videos=: is empty"),
        ({"videos": "nowhere"}, "nowhere: no such folder"),
        ({"compare": "a,b"}, "videos and compare do not go together"),
        ({"generator": "g.ckpt", "videos": "null"}, "filelist=null: give filelist=..."),
        ({"protocol": "lsr"}, "lsr"),
        ({"metrics": "everything"}, "everything"),
        ({"metrics": "identity"}, "missing: metrics.identity; give metrics.identity=..."),
        ({"metrics.nothing": "1"}, "nothing"),
    ],
)
def test_the_command_ends_with_one_line(settings: dict[str, str], words: str, run: Any, good: Path) -> None:
    symlink(Path("videos/a.mp4"), good)
    assert words in run(**{"videos": "videos", **settings}).line()
    assert not Path("out").exists()


def test_one_name_instead_of_a_list_is_enough(run: Any) -> None:
    clip(Path("videos/a.mp4"))
    done = run("metrics.picture=true", "metrics.regions=frame", videos="videos", references="videos")
    assert (done.code, done.err) == (0, "")
    assert rows(Path("out"))["a.mp4"]["n_frames_identical"] == str(FRAMES)


def test_a_video_named_like_an_override(run: Any) -> None:
    clip(Path("a, b=c (1) ${x}.mp4"))
    done = run(videos="a, b=c (1) ${x}.mp4")
    assert (done.code, done.err) == (0, "")
    assert list(rows(Path("out"))) == ["a, b=c (1) ${x}.mp4"]
