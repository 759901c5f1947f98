from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from lipsync.errors import MediaError
from lipsync.media.lossy import (
    JpegCodec,
    at_constant_rate,
    mpeg4,
    program_frames,
    program_rate,
    to_bgr_as_opencv,
    xvid,
)
from lipsync.media.lossy_sound import mp3_rate, mp3_video_lag, program_sound, program_sound_by_mp3
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import VideoWriter

FPS = Fraction(25)


def _images(count=30, size=(96, 64)):
    """Moving waves: detail that codecs must throw away."""
    y, x = np.mgrid[: size[1], : size[0]]
    phases = [0.3, 0.5, 0.7]
    for index in range(count):
        waves = [127 + 100 * np.sin(x * phase + 0.2 * index) * np.cos(y / 3 + phase) for phase in phases]
        yield np.stack(waves, axis=2).astype(np.uint8)


@pytest.fixture
def video(tmp_path):
    """Builds a video at a rate, with sound."""

    def make(fps=FPS, count=30):
        path = tmp_path / "in.mp4"
        sound = np.random.default_rng(0).standard_normal(int(16000 * count / fps)).astype(np.float32) / 20
        with VideoWriter(path, 96, 64, fps, sound) as writer:
            for image in _images(count):
                writer.write(image)
        return path

    return make


@pytest.fixture
def program():
    """Runs the real ffmpeg program."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

    def run(*arguments):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y"]
        subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True)

    return run


def _pictures(folder: Path):
    return np.stack([cv2.imread(str(name)) for name in sorted(folder.glob("*.jpg"))])


def _assert_near(ours, theirs):
    """Equal but for what versions of FFmpeg round differently."""
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).mean() < 0.5


@pytest.mark.parametrize("quantiser", [None, 2])
@pytest.mark.parametrize("fps", [25, 30])
def test_jpeg_files_of_the_program(tmp_path, video, program, quantiser, fps):
    path = video(Fraction(fps))
    quality = [] if quantiser is None else ["-qscale:v", quantiser]
    program("-i", path, *quality, "-f", "image2", tmp_path / "%06d.jpg")
    rate = program_rate(path)
    assert rate == fps
    jpeg = JpegCodec(rate, quantiser)
    ours = np.stack([jpeg(shown.frame) for shown in program_frames(path, rate)])
    _assert_near(ours, _pictures(tmp_path))


@pytest.mark.parametrize(
    "fps", [Fraction(25), Fraction(30), Fraction(24000, 1001), Fraction(15), Fraction(50)]
)
def test_avi_files_of_the_program(tmp_path, video, program, fps):
    path = video(fps)
    avi = tmp_path / "out.avi"
    program("-i", path, "-an", "-qscale:v", "2", "-r", "25", "-threads", "1", avi)
    capture = cv2.VideoCapture(str(avi))
    theirs = []
    while (read := capture.read())[0]:
        theirs.append(read[1])
    converter = VideoReformatter()
    frames = (shown.frame for shown in program_frames(path, FPS))
    ours = [to_bgr_as_opencv(frame, converter) for frame in mpeg4(frames, FPS)]
    _assert_near(np.stack(ours), np.stack(theirs))


def test_xvid_files_of_opencv(tmp_path):
    path = tmp_path / "out.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"XVID"), 25, (96, 64))
    for image in _images():
        writer.write(image)
    writer.release()
    capture = cv2.VideoCapture(str(path))
    theirs = []
    while (read := capture.read())[0]:
        theirs.append(read[1])
    converter = VideoReformatter()
    ours = [to_bgr_as_opencv(frame, converter) for frame in xvid(_images(), FPS)]
    _assert_near(np.stack(ours), np.stack(theirs))
    assert np.abs(np.stack(theirs).astype(int) - np.stack(list(_images()))).mean() > 2  # the codec loses more


def test_times_are_those_of_the_source(video):
    times = [shown.time for shown in program_frames(video(Fraction(50), 50), FPS)]
    # the program drops a frame only once it runs ahead by more than one
    assert max(abs(time - Fraction(index, 25)) for index, time in enumerate(times)) <= Fraction(2, 25)


def test_frames_come_one_by_one(video):
    frames = program_frames(video(count=60), FPS)
    jpeg = JpegCodec(FPS)
    seen = []

    def taken():
        for shown in frames:
            seen.append(shown.time)
            yield shown.frame

    first = jpeg(next(mpeg4(taken(), FPS)))
    assert first.shape == (64, 96, 3)
    assert len(seen) <= 3


@pytest.mark.parametrize(
    ("positions", "shown"),
    [
        ([0, 1, 2], "abc"),
        ([0, 1.4, 2.4], "abc"),  # late by less than 1.1 frames
        ([0, 3, 4], "aabbc"),  # a hole is filled from both sides
        ([2, 3], "aaab"),  # a late start is filled with the first
        ([0, -2, 1], "ac"),  # an early one is dropped
    ],
)
def test_frames_are_repeated_and_dropped(positions, shown):
    items = [(position, 1.0, letter) for position, letter in zip(positions, "abc", strict=False)]
    assert "".join(at_constant_rate(items)) == shown


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_frames_are_upright(make, photo, quarter, mirror):
    path = make("turned.mp4", images=[photo] * 3, rotation=90 * quarter, mirror=mirror)
    expected = next(iter(VideoReader(path))).image
    converter = VideoReformatter()
    shown = next(program_frames(path, FPS))
    image = to_bgr_as_opencv(shown.frame, converter)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 4


def test_sound_of_the_program(tmp_path, video, program):
    path = video()
    program("-i", path, "-ac", "1", "-vn", "-acodec", "pcm_s16le", "-ar", "16000", tmp_path / "a.wav")
    theirs = load_waveform(tmp_path / "a.wav")
    ours = program_sound(path)
    count = min(len(ours), len(theirs))
    assert abs(len(ours) - len(theirs)) < 2000  # versions differ in whether padding at the end is cut
    np.testing.assert_array_equal(ours[: count - 100], theirs[: count - 100])


def test_mp3_is_late(video):
    path = video()
    late, truth = program_sound_by_mp3(path), program_sound(path)
    assert int(np.argmax(np.correlate(late[:12000], truth[:8000]))) == 1105
    assert mp3_rate(path) in (16000, 44100, 48000)


@pytest.mark.parametrize(("rate", "lag"), [(16000, 2), (44100, 1), (48000, 1), (22050, 2), (8000, 4)])
def test_lag_of_the_pictures(rate, lag):
    assert mp3_video_lag(rate, FPS) == lag


def test_a_file_without_sound(tmp_path):
    path = tmp_path / "mute.mp4"
    with VideoWriter(path, 96, 64, FPS, None) as writer:
        for image in _images(5):
            writer.write(image)
    assert mp3_rate(path) is None
    with pytest.raises(MediaError, match="no audio stream"):
        program_sound(path)


def test_jpeg_takes_other_layouts():
    image = next(_images())
    frame = VideoFrame.from_ndarray(image, "bgr24").reformat(format="yuv422p")
    picture = JpegCodec(FPS, 2)(frame)
    assert np.abs(picture.astype(int) - image).mean() < 20
