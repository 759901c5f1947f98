"""Frame counts and lengths of sound, to the frame and to the sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from inference_stubs import StubDetector, picture

from lipsync.data.synthetic_speech import Voice, synthesize_speech
from lipsync.errors import ConfigError, NoFaceError
from lipsync.inference.composite import FeatherCompositor
from lipsync.inference.pipeline import LipSyncPipeline
from lipsync.inference.synthesize import Wav2LipSynthesizer
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform, save_wav
from lipsync.media.writer import LOSSLESS, VideoWriter
from lipsync.models.wav2lip import Wav2Lip
from lipsync.types import Image

Make = Callable[..., Path]
RATES = [
    *(Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001)),
    *(Fraction(30), Fraction(50), Fraction(60000, 1001)),
]
exact = partial(VideoWriter, **LOSSLESS)


@pytest.fixture
def build(generator: Wav2Lip) -> Callable[..., LipSyncPipeline]:
    def make(detector: Any = None, **settings: Any) -> LipSyncPipeline:
        synthesizer = Wav2LipSynthesizer(generator, pads=(0, 0, 0, 0), batch_size=4)
        return LipSyncPipeline(
            synthesizer,
            detector or StubDetector(),
            FeatherCompositor(),
            **{"writer": exact, "every": 1, **settings},
        )

    return make


def images(path: Path) -> list[Image]:
    return [frame.image for frame in VideoReader(path)]


def sound(path: Path) -> np.ndarray:
    return load_waveform(path, 16000)


@pytest.mark.parametrize(
    "video",
    [(fps, frames) for fps in RATES for frames in (20, 90)],
    ids=lambda video: f"{video[1]} frames at {video[0]}",
)
def test_the_output_lasts_as_long_as_the_sound(
    video: tuple[Fraction, int], build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    fps, frames = video
    outfile, samples = tmp_path / "out.mp4", 16777
    report = build(extend="loop").run(make_video(frames, fps), make_speech(samples), outfile)
    expected = math.ceil(Fraction(samples, 16000) * fps)
    assert report.frames == len(images(outfile)) == expected
    assert probe(outfile).fps == report.fps == fps
    assert len(sound(outfile)) == samples


@pytest.mark.parametrize("fps", RATES, ids=str)
def test_cut_ends_picture_and_sound_together(
    fps: Fraction, build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    outfile = tmp_path / "out.mp4"
    report = build(extend="cut").run(make_video(20, fps), make_speech(30000), outfile)
    assert report.frames == len(images(outfile)) == 20
    assert len(sound(outfile)) == math.floor(20 / fps * 16000)


def test_a_file_of_variable_rate_keeps_its_timing(build: Any, make_speech: Make, tmp_path: Path) -> None:
    """Pictures 0.04 and 0.12 s apart: their average rate, each at its own time."""
    source, outfile = tmp_path / "vfr.mkv", tmp_path / "out.mp4"
    times = [0, 40, 160, 200, 320, 360, 480, 520, 640, 680, 800, 840]
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264rgb", rate=25, options={"crf": "0", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 128, 120, "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(number)), format="bgr24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    info = probe(source)
    speech = make_speech(12000)
    report = build(extend="cut").run(source, speech, outfile)
    assert report.frames == math.ceil(Fraction(12000, 16000) * info.fps)
    tops = [int(image[0, 0, 0]) for image in images(outfile)]
    shown = [int(picture(number)[0, 0, 0]) for number in range(len(times))]
    for index, top in enumerate(tops):
        due = float(index / info.fps) * 1000
        expected = max(number for number, time in enumerate(times) if time <= due + 0.5)
        assert top == shown[expected], index


def test_the_rest_of_a_longer_video_is_kept_as_it_is(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    source, outfile = make_video(40), tmp_path / "out.mp4"
    report = build(remainder="keep").run(source, make_speech(16000), outfile)
    before, after = images(source), images(outfile)
    assert (report.frames, report.with_face, report.repainted) == (40, 40, 29), "25 and a fade"
    assert len(sound(outfile)) == 16000, "the sound is not padded"
    changed = [bool((a != b).any()) for a, b in zip(after, before, strict=True)]
    assert changed[:27] == [True] * 27
    assert changed[29:] == [False] * 11
    assert "11 with the mouth of the source" in report.summary


def test_trimmed_frames_take_their_sound_with_them(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    outfile, speech = tmp_path / "out.mp4", make_speech(16000)
    detector = StubDetector(lambda time: not 0.19 < time < 0.81)  # frames 5 to 20 of 25: no gap to bridge
    report = build(detector, no_face="trim", smooth=False).run(make_video(25), speech, outfile)
    lost = report.without_face
    assert lost == 16
    assert report.frames == len(images(outfile)) == 25 - lost
    assert f"{lost} without a face left out, with their sound" in report.summary
    kept, whole = sound(outfile), sound(speech)
    assert len(kept) == (25 - lost) * 640
    np.testing.assert_allclose(kept[: 4 * 640], whole[: 4 * 640], atol=1e-4)
    np.testing.assert_allclose(kept[-3 * 640 :], whole[-3 * 640 :], atol=1e-4)


def test_trimming_all_is_an_error_and_leaves_nothing(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    with pytest.raises(NoFaceError, match="no face in any of 25 frames"):
        build(StubDetector(lambda time: False), no_face="trim").run(
            make_video(25), make_speech(16000), tmp_path / "out.mp4"
        )
    assert list(tmp_path.iterdir()) == []


def test_in_silence_the_mouth_of_the_source_stays(build: Any, make_video: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    speech = synthesize_speech(2.0, Voice.draw(rng), rng).waveform.astype(np.float32)
    speech[8000:24000] = 0  # frames 12.5 to 37.5
    save_wav(tmp_path / "a.wav", speech, 16000)
    source = make_video(50)
    changed = {}
    for mode in ("speak", "source"):
        build(silence=mode).run(source, tmp_path / "a.wav", tmp_path / f"{mode}.mp4")
        pairs = zip(images(tmp_path / f"{mode}.mp4"), images(source), strict=True)
        changed[mode] = [bool((a != b).any()) for a, b in pairs]
    assert all(changed["speak"])
    assert not any(changed["source"][20:32])
    assert all(changed["source"][:12])
    assert all(changed["source"][38:])


def test_a_folder_of_pictures_is_a_video(build: Any, make_speech: Make, tmp_path: Path) -> None:
    folder, outfile = tmp_path / "frames", tmp_path / "out.mp4"
    folder.mkdir()
    for number in range(30):
        (folder / f"f{number}.png").write_bytes(cv2.imencode(".png", picture(number))[1].tobytes())
    report = build(still_fps=Fraction(30000, 1001)).run(folder, make_speech(8000), outfile)
    assert (report.frames, report.fps) == (15, Fraction(30000, 1001))
    for number, image in enumerate(images(outfile)):
        np.testing.assert_array_equal(image[:20], picture(number)[:20])


def test_damage_of_the_source_is_in_the_summary(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    whole = make_video(60, name="whole.mkv")
    part = tmp_path / "part.mkv"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    report = build(extend="freeze").run(part, make_speech(38400), tmp_path / "out.mp4")
    assert report.frames == 60
    assert report.missing_frames > 0
    assert f"the video ends {report.missing_frames} frames early" in report.summary


def test_two_runs_give_the_same_frames(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    for name in ("a.mp4", "b.mp4"):
        build(extend="bounce", silence="source").run(make_video(20), make_speech(24000), tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_encoder_that_stands_in_is_named(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipsync.media.encoders.HARDWARE", ())  # whatever this machine has
    hardware = partial(VideoWriter, codec="hardware")
    report = build(writer=hardware).run(make_video(20), make_speech(3200), tmp_path / "out.mp4")
    assert report.notes == ["encoder hardware: libx264 is used"]


def test_unknown_settings_are_refused(build: Any) -> None:
    for setting in ("remainder", "no_face", "silence", "extend"):
        with pytest.raises(ConfigError, match=f"{setting}=nonsense is unknown: use "):
            build(**{setting: "nonsense"})
