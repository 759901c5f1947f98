from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from inference_stubs import BOX

from lipsync.checkpoints.catalog import CheckpointSpec
from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import config_dir
from lipsync.cli.inference_parts import build_parts, build_pipeline, pipeline_settings
from lipsync.errors import CheckpointError, ConfigError
from lipsync.inference.composite import BoxCompositor
from lipsync.inference.detect import FixedBox, FollowFace
from lipsync.inference.pipeline import LipSyncPipeline
from lipsync.media.reader import VideoReader
from lipsync.models.syncnet import SyncNet

Make = Callable[..., Path]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def inputs(make_video: Make, make_speech: Make, checkpoint: Path) -> dict[str, Path]:
    """A clip with annotated boxes, speech and weights."""
    face = make_video(20)
    boxes = [[[BOX.x1, BOX.y1, BOX.x2, BOX.y2, 0.9, None]]]
    face.with_name(f"{face.stem}.faces.json").write_text(json.dumps({"fps": "25/1", "faces": boxes}))
    return {"face": face, "audio": make_speech(8000), "checkpoint": checkpoint}


def overrides(inputs: dict[str, Path], **changes: object) -> list[str]:
    return [f"{key}={value}" for key, value in {**inputs, **changes}.items()]


def built(**changes: object) -> LipSyncPipeline:
    given = {"face": "f.mp4", "audio": "a.wav", **changes}
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("infer", [f"{key}={value}" for key, value in given.items()])
    settings = pipeline_settings(cfg)
    with DownloadBar() as bar:
        return build_pipeline(cfg, build_parts(cfg, cfg.checkpoint, bar), settings)


def follow_of(pipeline: LipSyncPipeline) -> FollowFace:
    stage = pipeline._face_stage(False, pipeline.face_select)
    assert isinstance(stage, FollowFace)
    return stage


def test_a_run_writes_the_file_and_says_so(run: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    code, out, err = run(*overrides(inputs, detector="annotated", outfile="out.mp4"))
    assert (code, err) == (0, "")
    assert out.startswith("out.mp4: 13 frames at 25 fps; ")
    assert len(list(VideoReader(tmp_path / "out.mp4"))) == 13
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"], "no log or run folder"


def test_the_flags_of_the_wav2lip_family_work(run: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    flags = ["--checkpoint_path", inputs["checkpoint"], "--face", inputs["face"], "--audio", inputs["audio"]]
    flags += [
        "--pads",
        "0",
        "20",
        "0",
        "0",
        "--nosmooth",
        "--resize_factor",
        "1",
        "--wav2lip_batch_size",
        "4",
        "--fps",
        "25",
    ]
    flags += ["--crop", "0", "-1", "0", "-1", "--box", "-1", "-1", "-1", "-1"]
    code, _, err = run(*flags, "detector=annotated")
    assert (code, err) == (0, "")
    assert (tmp_path / "results" / "result_voice.mp4").is_file()


@pytest.mark.parametrize("name", ["my clip; rm, a=b (1).mp4", 'it\'s "ours" & 人ö.mp4', "$(x) [y] {z}.mp4"])
def test_any_file_name_works(name: str, run: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    face = tmp_path / f"in {name}"
    face.write_bytes(inputs["face"].read_bytes())
    code, _, err = run(*overrides(inputs, face=face, box="[20,100,30,90]", outfile=tmp_path / name))
    assert (code, err) == (0, "")
    assert (tmp_path / name).is_file()


def test_the_users_mistakes_are_one_line_and_exit_code_2(
    run: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    expert, broken = tmp_path / "expert.pth", tmp_path / "broken.pth"
    torch.save(SyncNet(width=0.125).state_dict(), expert)
    broken.write_bytes(inputs["checkpoint"].read_bytes()[:2000])
    cases: list[tuple[dict[str, object], str]] = [
        ({"face": "gone.mp4"}, "gone.mp4"),
        ({"audio": "gone.wav"}, "gone.wav"),
        ({"audio": inputs["face"]}, "audio"),
        ({"checkpoint": "gone.pth"}, "gone.pth"),
        ({"checkpoint": expert}, "SyncNet"),
        ({"checkpoint": broken}, "broken.pth"),
        ({"outfile": expert / "out.mp4"}, "cannot be written"),
        ({"outfile": inputs["face"]}, "also an input"),
        ({"pads": "[1,2,3]"}, "pads=[1, 2, 3]"),
        ({"pads": "no"}, "pads=no"),
        ({"box": "[500,600,500,600]"}, "outside the picture"),
        ({"fps": "fast"}, "fps=fast"),
        ({"nosmooth": "maybe"}, "nosmooth=maybe"),
        ({"every": "0.5"}, "every=0.5"),
        ({"audio_shift": "later"}, "audio_shift=later"),
        ({"no_face": "skip"}, "no_face=skip"),
        ({"extend": "back"}, "extend=back"),
        ({"remainder": "all"}, "remainder=all"),
        ({"silence": "hush"}, "silence=hush"),
        ({"face_select": "me"}, "me"),
        ({"face_select": "index", "face_index": -1}, "face index -1"),
        ({"face_select": "speaking"}, "expert=FILE"),
        ({"timing": "perhaps"}, "timing=perhaps"),
        ({"jobs": "gone.csv"}, "jobs= and face="),
        ({"compile": "banana"}, "compile=banana"),
        ({"extend": "bouncy", "checkpoint": "gone.pth"}, "extend=bouncy"),
        ({"device": "tpu9"}, "device=tpu9"),
        ({"precision": "int8"}, "precision=int8"),
        ({"enhancer": "nonesuch"}, "enhancer/nonesuch"),
        ({"interpolator": "nonesuch"}, "interpolator/nonesuch"),
        ({"detector": "nonesuch"}, "detector/nonesuch"),
        ({"padz": "3"}, "padz"),
        ({"compositor.feather": "0.9"}, "feather=0.9"),
    ]
    for changes, message in cases:
        given = {"box": "[20,100,30,90]", "outfile": "out.mp4", **changes}
        code, out, err = run(*overrides(inputs, **given))
        assert (code, out) == (2, ""), (changes, err)
        (line,) = err.splitlines()
        assert line.startswith("lipsync: ")
        assert message in line
        assert not (tmp_path / "out.mp4").exists()


def test_missing_settings_are_all_named(run: Any) -> None:
    code, out, err = run("outfile=out.mp4")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("lipsync: missing: audio, checkpoint, face; ")


def test_settings_reach_the_pipeline(checkpoint: Path) -> None:
    pipeline = built(
        checkpoint=checkpoint,
        pads="[1,2,3,4]",
        nosmooth="true",
        every=3,
        static="true",
        fps="30000/1001",
        extend="freeze",
        no_face="error",
        audio_shift=-1,
        compositor="box",
        resize_factor=2,
        rotate="true",
        crop="[0,10,0,20]",
    )
    follow = follow_of(pipeline)
    assert (follow.pads, follow.smooth, follow.every, follow.must_have_face) == ((1, 2, 3, 4), False, 3, True)
    assert pipeline.still_fps == Fraction(30000, 1001)
    assert (pipeline.static, pipeline.extend, pipeline.audio_shift) == (True, "freeze", -1)
    assert isinstance(pipeline.compositor, BoxCompositor)
    assert pipeline.transform.crop == (0, 10, 0, 20)
    assert (pipeline.transform.resize_factor, pipeline.transform.rotate) == (2, True)
    assert pipeline.stages == ()


def test_the_defaults_are_the_references(checkpoint: Path) -> None:
    pipeline = built(checkpoint=checkpoint, enhancer="none", interpolator="none")
    follow = follow_of(pipeline)
    assert (follow.pads, follow.smooth) == ((0, 10, 0, 0), True)
    assert (pipeline.extend, pipeline.still_fps, pipeline.stages) == ("loop", 25, ())
    assert pipeline.audio_shift == 0


def test_a_box_of_minus_ones_means_none(checkpoint: Path) -> None:
    assert built(checkpoint=checkpoint, box="[-1,-1,-1,-1]").box is None
    assert isinstance(built(checkpoint=checkpoint, box="[1,20,1,20]").box, FixedBox)


@pytest.mark.parametrize("detector", ["default", "annotated"])
def test_detectors_can_be_chosen(detector: str, checkpoint: Path) -> None:
    follow = follow_of(built(checkpoint=checkpoint, detector=detector))
    expected = {"default": "MtcnnDetector", "annotated": "AnnotatedDetector"}
    assert type(follow.detector).__name__ == expected[detector]


def test_detectors_with_weights_take_a_file(checkpoint: Path, shared: Path, tmp_path: Path) -> None:
    from lipsync.models.s3fd import S3FD

    yunet = shared / "weights" / "face_detection_yunet_2023mar.onnx"
    follow = follow_of(built(checkpoint=checkpoint, detector="yunet", **{"detector.weights": yunet}))
    assert type(follow.detector).__name__ == "YunetDetector"
    s3fd = tmp_path / "s3fd.pth"
    torch.save(S3FD().state_dict(), s3fd)
    follow = follow_of(
        built(checkpoint=checkpoint, detector="s3fd", device="cpu", **{"detector.weights": s3fd})
    )
    assert type(follow.detector).__name__ == "S3FDDetector"


def test_downloads_show_their_progress(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: dict[str, object] = {}

    def fetch(spec: CheckpointSpec, path: Path, progress: object) -> None:
        shown[spec.name] = progress
        raise CheckpointError("offline")

    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path))
    monkeypatch.setattr("lipsync.checkpoints.download.fetch", fetch)
    for weights in ({"checkpoint": "wav2lip_gan"}, {"detector": "s3fd"}, {"detector": "yunet"}):
        with pytest.raises((CheckpointError, InstantiationException), match="offline"):
            built(**{"checkpoint": checkpoint, **weights})
    assert list(shown) == ["wav2lip_gan", "s3fd", "yunet"]
    assert all(isinstance(progress, DownloadBar) for progress in shown.values())


def test_a_setting_is_checked_before_weights_are_loaded() -> None:
    with pytest.raises(ConfigError, match="every=no"):
        built(checkpoint="gone.pth", every="no")
    with pytest.raises(InstantiationException, match="device=tpu9"):
        built(checkpoint="gone.pth", device="tpu9")


@pytest.mark.slow
def test_the_script_runs_from_anywhere(inputs: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "infer.py"), *overrides(inputs, outfile="out.mp4")]
    done = subprocess.run(
        [*command, "detector=annotated"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
