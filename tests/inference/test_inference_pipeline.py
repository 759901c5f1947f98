from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from inference_stubs import BOX, StubDetector, picture

from lipsync.errors import ConfigError, MediaError, NoFaceError
from lipsync.inference.composite import BoxCompositor, FeatherCompositor
from lipsync.inference.pipeline import LipSyncPipeline
from lipsync.inference.source import FrameTransform
from lipsync.inference.synthesize import Wav2LipSynthesizer
from lipsync.media.probe import has_audio, probe
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.models.wav2lip import Wav2Lip
from lipsync.types import Frame, Image

Make = Callable[..., Path]
NTSC = Fraction(30000, 1001)


@pytest.fixture
def build(generator: Wav2Lip) -> Callable[..., LipSyncPipeline]:
    """``build(detector, compositor=..., **settings)``: a pipeline with the narrow generator."""

    def make(detector: Any = None, compositor: Any = None, **settings: Any) -> LipSyncPipeline:
        synthesizer = Wav2LipSynthesizer(generator, pads=(0, 0, 0, 0), batch_size=4)
        return LipSyncPipeline(
            synthesizer, detector or StubDetector(), compositor or FeatherCompositor(), **settings
        )

    return make


def images(path: Path) -> list[Image]:
    return [frame.image for frame in VideoReader(path)]


def checksum(frames: Iterator[Frame]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.image.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), NTSC, Fraction(30)])
def test_the_output_covers_the_sound_at_the_exact_rate(
    fps: Fraction, build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    speech = make_speech(20000)  # 1.25 s
    outfile = tmp_path / "out.mp4"
    report = build().run(make_video(50, fps), speech, outfile)
    expected = math.ceil(Fraction(20000, 16000) * fps)
    assert len(images(outfile)) == report.frames == report.with_face == expected
    assert probe(outfile).fps == report.fps == fps
    assert 1.25 <= expected / fps < 1.25 + 1 / fps
    assert has_audio(outfile)
    assert abs(len(load_waveform(outfile)) - 20000) <= 160
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_two_runs_give_the_same_bytes(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    video, speech = make_video(30), make_speech(16000)
    sound = load_waveform(speech)
    sums = {checksum(build().frames(VideoReader(video, fps=Fraction(25)), sound)) for _ in range(2)}
    assert len(sums) == 1
    for name in ("a.mp4", "b.mp4"):
        build().run(video, speech, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_only_the_lower_face_changes(build: Any, make_video: Make, make_speech: Make) -> None:
    video = make_video(30)
    sound = load_waveform(make_speech(16000))
    reader = VideoReader(video, fps=Fraction(25))
    source = [frame.image for frame in reader]
    done = [frame.image for frame in build().frames(reader, sound)]
    assert len(done) == 25
    x1, y1, x2, y2 = BOX.rounded()
    lower = np.zeros(source[0].shape[:2], bool)
    lower[(y1 + y2) // 2 : y2, x1:x2] = True
    for before, after in zip(source, done, strict=False):
        np.testing.assert_array_equal(after[~lower], before[~lower])
        assert (after[lower] != before[lower]).any()


def test_the_mouth_follows_the_speech(build: Any, make_video: Make, make_speech: Make) -> None:
    reader = VideoReader(make_video(30), fps=Fraction(25))
    wave = load_waveform(make_speech(16000))
    silent = np.zeros_like(wave)
    assert checksum(build().frames(reader, wave)) != checksum(build().frames(reader, silent))


@pytest.mark.parametrize("case", [("loop", 25), ("freeze", 25), ("cut", 10)])
def test_sound_longer_than_the_video(
    case: tuple[str, int], build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    extend, frames = case
    outfile = tmp_path / "out.mp4"
    report = build(extend=extend).run(make_video(10), make_speech(16000), outfile)
    assert report.frames == len(images(outfile)) == frames
    assert len(load_waveform(outfile)) == frames * 640, "the sound ends with the picture"


def test_looping_repeats_the_video_from_its_start(build: Any, make_video: Make, make_speech: Make) -> None:
    reader = VideoReader(make_video(10), fps=Fraction(25))
    sound = load_waveform(make_speech(16000))
    source = [frame.image[:20] for frame in reader]
    for index, frame in enumerate(build().frames(reader, sound)):
        assert frame.index == index
        np.testing.assert_array_equal(frame.image[:20], source[index % 10])


def test_frames_without_a_face_are_kept_and_counted(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    detector = StubDetector(lambda time: time < 0.39)
    report = build(detector, every=1).run(make_video(30), make_speech(16000), tmp_path / "out.mp4")
    assert (report.frames, report.with_face, report.without_face) == (25, 10, 15)


def test_no_face_at_all_leaves_nothing_behind(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    outfile = tmp_path / "out.mp4"
    video = make_video(30)
    with pytest.raises(NoFaceError, match=f"{video.name}: no face in any of 25 frames.*box=") as caught:
        build(StubDetector(lambda time: False)).run(video, make_speech(16000), outfile)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_older_result_survives_a_failed_run(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    outfile = tmp_path / "out.mp4"
    outfile.write_bytes(b"older")
    with pytest.raises(NoFaceError):
        build(StubDetector(lambda time: False)).run(make_video(30), make_speech(16000), outfile)
    assert outfile.read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_face_can_stop_the_run(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    pipeline = build(StubDetector(lambda time: time < 0.39), every=1, no_face="error")
    with pytest.raises(NoFaceError, match="no face in frame 10"):
        pipeline.run(make_video(30), make_speech(16000), tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".JPG"])
def test_a_picture_becomes_a_video(suffix: str, build: Any, make_speech: Make, tmp_path: Path) -> None:
    face = tmp_path / f"v1.0 face{suffix}"
    face.write_bytes(cv2.imencode(suffix, picture(0))[1].tobytes())
    detector = StubDetector()
    outfile = tmp_path / "out.mp4"
    report = build(detector, still_fps=NTSC).run(face, make_speech(16000), outfile)
    assert report.frames == len(images(outfile)) == 30
    assert probe(outfile).fps == NTSC
    assert detector.seen == [0]


def test_static_uses_the_first_frame_throughout(build: Any, make_video: Make, make_speech: Make) -> None:
    detector = StubDetector()
    reader = VideoReader(make_video(30), fps=Fraction(25))
    sound = load_waveform(make_speech(16000))
    first = next(iter(reader)).image
    done = list(build(detector, static=True).frames(reader, sound))
    assert len(done) == 25
    assert detector.seen == [0]
    for frame in done:
        np.testing.assert_array_equal(frame.image[:20], first[:20])


def test_a_given_box_needs_no_detector(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    detector = StubDetector(lambda time: False)
    report = build(detector, box=(20, 100, 30, 90)).run(
        make_video(30), make_speech(16000), tmp_path / "out.mp4"
    )
    assert report.with_face == 25
    assert detector.seen == []


def test_resize_rotate_and_crop_shape_the_output(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    outfile = tmp_path / "out.mp4"
    transform = FrameTransform(resize_factor=2, rotate=True, crop=(0, 60, 0, -1))
    build(transform=transform, box=(5, 40, 5, 40)).run(make_video(30), make_speech(8000), outfile)
    assert images(outfile)[0].shape == (60, 60, 3)


@pytest.mark.parametrize("samples", [1, 300, 3100])
def test_sound_shorter_than_a_mel_window_works(
    samples: int, build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    report = build().run(make_video(30), make_speech(samples), tmp_path / "out.mp4")
    assert report.frames == max(1, math.ceil(samples / 640))


def test_a_hook_hears_of_every_frame(build: Any, make_video: Make, make_speech: Make, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int | None]] = []
    build().run(
        make_video(30),
        make_speech(16000),
        tmp_path / "out.mp4",
        hook=lambda step, completed, total: heard.append((step, completed, total)),
    )
    assert heard == [("lip-sync", done, 25) for done in range(1, 26)]


def test_further_stages_see_finished_frames_in_order(build: Any, make_video: Make, make_speech: Make) -> None:
    def negative(frames: Any) -> Iterator[Frame]:
        for frame in frames:
            yield Frame(frame.index, frame.time, 255 - frame.image)

    reader = VideoReader(make_video(30), fps=Fraction(25))
    sound = load_waveform(make_speech(8000))
    plain = [frame.image for frame in build().frames(reader, sound)]
    staged = [frame.image for frame in build(stages=[negative]).frames(reader, sound)]
    assert len(plain) == len(staged)
    for before, after in zip(plain, staged, strict=True):
        np.testing.assert_array_equal(after, 255 - before)


class CountingReader(VideoReader):
    """Counts the frames that were asked for."""

    def __iter__(self) -> Iterator[Frame]:
        self.given = 0
        for frame in super().__iter__():
            self.given += 1
            yield frame


def test_the_source_is_read_a_bounded_number_of_frames_ahead(
    build: Any, make_video: Make, make_speech: Make
) -> None:
    reader = CountingReader(make_video(300), fps=Fraction(25))
    sound = load_waveform(make_speech(16000 * 12))
    before = threading.active_count()
    frames = build(every=5).frames(reader, sound)
    ahead = []
    for done, _ in enumerate(frames, start=1):
        ahead.append(reader.given - done)
        if done == 150:
            break
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    # Two buffers and two batches of 4, the tracker's block of 5 with its gap of 12, smoothing of 2.
    assert 0 < max(ahead) <= 45


def test_leaving_a_run_early_removes_the_part_and_the_threads(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    def interrupt(step: str, completed: int, total: int | None) -> None:
        if completed == 5:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        build().run(make_video(30), make_speech(16000), tmp_path / "out.mp4", hook=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_unusable_inputs_are_named_in_one_line(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    video, speech, out = make_video(30), make_speech(16000), tmp_path / "out.mp4"
    text = tmp_path / "text.mp4"
    text.write_text("no video in here")
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    cases = [
        (tmp_path / "gone.mp4", speech, out, "gone.mp4"),
        (video, tmp_path / "gone.wav", out, "gone.wav"),
        (text, speech, out, "text.mp4"),
        (video, text, out, "text.mp4"),
        (video, video, out, f"{video.name}.*audio"),
        (speech, speech, out, f"{speech.name}.*video"),
        (video, speech, tmp_path, "cannot write this kind"),
        (video, speech, folder, "is a folder"),
        (video, speech, text / "out.mp4", "cannot be written"),
        (video, speech, video, "also an input"),
        (video, speech, tmp_path / "out.xyz", "out.xyz"),
    ]
    for face, audio, outfile, message in cases:
        with pytest.raises(MediaError, match=message) as caught:
            build().run(face, audio, outfile)
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.mp4", "text.mp4"]


def test_a_bad_outfile_is_found_before_any_work(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    for outfile in (tmp_path, make_speech(16000) / "out.mp4", tmp_path / "out.xyz"):
        detector = StubDetector()
        with pytest.raises(MediaError):
            build(detector).run(make_video(30), make_speech(16000), outfile)
        assert detector.seen == []


def test_folders_of_the_outfile_are_made(
    build: Any, make_video: Make, make_speech: Make, tmp_path: Path
) -> None:
    outfile = tmp_path / "neu ö" / "it's; $(out), a=b.mp4"
    build().run(make_video(30), make_speech(8000), outfile)
    assert outfile.is_file()


def test_settings_out_of_range_are_refused(build: Any) -> None:
    with pytest.raises(ConfigError, match="extend=back"):
        build(extend="back")
    with pytest.raises(ConfigError, match="fps=0"):
        build(still_fps=Fraction(0))
    with pytest.raises(ConfigError, match="every=0"):
        build(every=0)


def test_pads_come_from_the_synthesizer_unless_given(
    generator: Wav2Lip, build: Any, make_video: Make, make_speech: Make
) -> None:
    reader = VideoReader(make_video(30), fps=Fraction(25))
    sound = load_waveform(make_speech(3200))
    source = next(iter(reader)).image
    x1, y1, x2, y2 = BOX.rounded()
    for pads, bottom in ((None, y2 + 10), ((0, 15, 0, 0), y2 + 15)):
        synthesizer = Wav2LipSynthesizer(generator, pads=(0, 10, 0, 0), batch_size=4)
        pipeline = LipSyncPipeline(synthesizer, StubDetector(), BoxCompositor(), pads=pads)
        changed = (next(pipeline.frames(reader, sound)).image != source).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert rows.max() == bottom - 1
        assert (rows.min(), columns.min(), columns.max()) == (y1, x1, x2 - 1)


@pytest.mark.slow
def test_a_real_clip_with_the_default_detector(shared: Path, generator: Wav2Lip, tmp_path: Path) -> None:
    from lipsync.faces.detector import MtcnnDetector

    outfile = tmp_path / "out.mp4"
    pipeline = LipSyncPipeline(
        Wav2LipSynthesizer(generator), MtcnnDetector(), FeatherCompositor(), transform=FrameTransform(2)
    )
    report = pipeline.run(
        shared / "data/raw/wild/retalk_30fps_700.mp4", shared / "data/raw/audio/speech_3.wav", outfile
    )
    sound = load_waveform(shared / "data/raw/audio/speech_3.wav")
    assert report.frames == len(images(outfile)) == math.ceil(Fraction(len(sound), 16000) * 30)
    assert report.with_face == report.frames, "the speaker is in view throughout"
    assert abs(len(load_waveform(outfile)) - len(sound)) <= 160
