"""Encoding: exact rates, picture, sound, and nothing half-written."""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform, save_wav
from lipsync.media.writer import VideoWriter


def impulses(rate: int, seconds: float, *at: float) -> np.ndarray:
    waveform = np.zeros(round(rate * seconds), np.float32)
    for time in at:
        waveform[round(time * rate)] = 0.9
    return waveform


def peaks(waveform: np.ndarray, count: int) -> list[int]:
    return sorted(np.argsort(-np.abs(waveform))[:count].tolist())


def write(path, images, fps=Fraction(25), audio=None, **options):
    height, width = images[0].shape[:2]
    with VideoWriter(path, width, height, fps, audio, **options) as writer:
        for image in images:
            writer.write(image)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".MP4"])
@pytest.mark.parametrize(
    "fps", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(1350, 61), Fraction(50)]
)
def test_rate_and_frames_survive(tmp_path, pictures, fps, suffix):
    grey, label = pictures
    path = write(tmp_path / f"out{suffix}", [grey(i) for i in range(30)], fps)
    info = probe(path)
    assert (info.fps, info.frame_count, info.has_audio) == (fps, 30, False)
    frames = list(VideoReader(path))
    assert [label(frame.image) for frame in frames] == list(range(30))
    # Matroska rounds times to milliseconds
    assert max(abs(frame.time - frame.index / fps) for frame in frames) <= 0.0005001
    assert [label(frame.image) for frame in VideoReader(path, fps=fps)] == list(range(30))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_colours_survive(tmp_path, photo):
    path = write(tmp_path / "out.mp4", [photo] * 10, crf=10)
    frames = [frame.image for frame in VideoReader(path)]
    for image in frames:
        assert psnr(image, photo) > 38
        assert (np.abs((image.astype(float) - photo).mean(axis=(0, 1))) < 0.5).all()
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.color_range == 1
        assert context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("level", [0, 16, 128, 235, 255])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_grey_levels_survive(tmp_path, level, pix_fmt):
    image = np.full((48, 64, 3), level, np.uint8)
    path = write(tmp_path / "out.mp4", [image] * 2, pix_fmt=pix_fmt)
    assert np.abs(next(iter(VideoReader(path))).image.astype(int) - level).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (63, 47), (65, 33)])
def test_odd_sizes_repeat_the_border(tmp_path, photo, width, height):
    image = np.ascontiguousarray(np.pad(photo, ((0, 1), (0, 1), (0, 0)), mode="edge")[:height, :width])
    path = write(tmp_path / "out.mp4", [image] * 3, crf=5)
    stored = next(iter(VideoReader(path))).image
    assert stored.shape == (height + height % 2, width + width % 2, 3)
    assert psnr(stored[:height, :width], image) > 36


def test_views_are_accepted(tmp_path, photo):
    path = write(tmp_path / "out.mp4", [photo[:, ::-1]] * 2, crf=10)
    assert psnr(next(iter(VideoReader(path))).image, photo[:, ::-1]) > 38


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("rate", [16000, 24000, 44100, 48000])
def test_array_sound_is_in_sync(tmp_path, pictures, rate, suffix):
    audio = impulses(rate, 2.0, 0.5, 1.5)
    path = write(
        tmp_path / f"out{suffix}", [pictures[0](i) for i in range(50)], audio=audio, sample_rate=rate
    )
    heard = load_waveform(path, rate)
    np.testing.assert_allclose(peaks(heard, 2), [rate // 2, 3 * rate // 2], atol=3)
    if suffix == ".mp4":
        assert heard.size == audio.size


@pytest.mark.parametrize("length", [0.02, 0.5, 3.0])
def test_sound_shorter_or_longer_than_the_video_is_kept_whole(tmp_path, pictures, length):
    audio = impulses(16000, length, length / 2)
    path = write(tmp_path / "out.mp4", [pictures[0](i) for i in range(25)], audio=audio)
    assert load_waveform(path).size == audio.size
    assert probe(path).frame_count == 25
    assert probe(path).duration == 1


@pytest.mark.parametrize("rate", [16000, 24000, 44100])
@pytest.mark.parametrize(("frames", "fps"), [(1, 25), (10, 25), (29, Fraction(30000, 1001)), (60, 24)])
def test_trimmed_sound_ends_with_the_last_frame(tmp_path, pictures, frames, fps, rate):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate).astype(np.float32)
    save_wav(tmp_path / "in.wav", audio, rate)
    images = [pictures[0](i) for i in range(frames)]
    for source in (audio, tmp_path / "in.wav"):
        path = write(tmp_path / "out.mp4", images, Fraction(fps), source, sample_rate=rate, trim_audio=True)
        assert load_waveform(path, rate).size == int(frames / Fraction(fps) * rate)


@pytest.mark.parametrize("length", [0.02, 0.5, 1.0])
def test_trimming_leaves_shorter_sound_as_it_is(tmp_path, pictures, length):
    audio = impulses(16000, length, length / 2)
    images = [pictures[0](i) for i in range(25)]
    kept, trimmed = tmp_path / "kept.mp4", tmp_path / "trimmed.mp4"
    write(kept, images, audio=audio)
    write(trimmed, images, audio=audio, trim_audio=True)
    assert load_waveform(trimmed).size == audio.size
    assert trimmed.read_bytes() == kept.read_bytes()


def test_sound_of_a_file_keeps_rate_and_channels(tmp_path, make, pictures):
    stereo = np.stack([impulses(44100, 1.0, 0.25), impulses(44100, 1.0, 0.75)])
    source = make("voice é.mp4", waveform=stereo, audio_rate=44100)
    path = write(tmp_path / "out.mp4", [pictures[0](i) for i in range(25)], audio=source)
    with av.open(str(path)) as container:
        context = container.streams.audio[0].codec_context
        assert (context.sample_rate, context.layout.name, context.name) == (44100, "stereo", "aac")
    np.testing.assert_allclose(peaks(load_waveform(path, 44100), 2), [11025, 33075], atol=3)


@pytest.mark.parametrize("rate", [7350, 22050, 96000])
def test_sound_of_any_rate(tmp_path, pictures, rate):
    save_wav(tmp_path / "in.wav", impulses(rate, 1.0, 0.5), rate)
    path = write(tmp_path / "out.mp4", [pictures[0](0)] * 25, audio=str(tmp_path / "in.wav"))
    np.testing.assert_allclose(peaks(load_waveform(path, 48000), 1), [24000], atol=12)


def test_same_input_gives_the_same_bytes(tmp_path, photo):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 20000).astype(np.float32)
    images = [np.roll(photo, i, axis=1) for i in range(30)]
    for suffix in (".mp4", ".mkv"):
        first = write(tmp_path / f"a{suffix}", images, audio=audio).read_bytes()
        assert write(tmp_path / f"b{suffix}", images, audio=audio).read_bytes() == first


def test_index_stands_before_the_pictures(tmp_path, pictures):
    data = write(tmp_path / "out.mp4", [pictures[0](0)] * 5).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("name", ["a b.mp4", "it's;x=1,y.mp4", "口元 é.mp4", "%03d.mp4", "deep/er/out.mp4"])
def test_names_and_folders(tmp_path, pictures, name):
    path = write(tmp_path / name, [pictures[0](0)] * 3)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert probe(path).frame_count == 3


def test_exception_leaves_nothing_and_keeps_the_old_file(tmp_path, pictures):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")

    def fail() -> None:
        with VideoWriter(path, 64, 48, Fraction(25), np.zeros(16000, np.float32)) as writer:
            writer.write(pictures[0](0))
            assert writer.part.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_wrong_image_is_refused(tmp_path, pictures):
    for bad in (pictures[0](0, 32, 48), pictures[0](0).astype(np.float32)):
        with pytest.raises(ValueError, match="expected a"):
            write_mixed(tmp_path / "out.mp4", pictures[0](0), bad)
    assert list(tmp_path.iterdir()) == []


def write_mixed(path: Path, good: np.ndarray, bad: np.ndarray) -> None:
    with VideoWriter(path, 64, 48, Fraction(25)) as writer:
        writer.write(good)
        writer.write(bad)


def enter(*arguments, **options) -> None:
    with VideoWriter(*arguments, **options):
        pass


def test_no_frames(tmp_path):
    with pytest.raises(MediaError, match="no frame to write"):
        enter(tmp_path / "out.mp4", 64, 48, Fraction(25))
    assert list(tmp_path.iterdir()) == []


def test_unusable_targets(tmp_path, make):
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    cases = [
        (tmp_path / "out.txt", {}, "cannot write this kind of file"),
        (tmp_path / "out", {}, "cannot write this kind of file"),
        (tmp_path / "folder.mp4", {}, "is a directory"),
        (tmp_path / "file" / "out.mp4", {}, "cannot be written"),
        (tmp_path / "out.mp4", {"codec": "no_such_codec"}, "no_such_codec"),
        (tmp_path / "out.mp4", {"preset": "no_such_preset"}, "does not accept"),
        (tmp_path / "out.mp4", {"pix_fmt": "no_such_format"}, "does not accept"),
        (tmp_path / "out.mp4", {"audio": tmp_path / "none.wav"}, "no such file"),
        (tmp_path / "out.mp4", {"audio": make("mute.mp4")}, "no audio stream"),
    ]
    for path, options, text in cases:
        with pytest.raises(MediaError, match=text) as caught:
            enter(path, 64, 48, Fraction(25), **options)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "out.mp4").exists()


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="positive"):
        VideoWriter(tmp_path / "out.mp4", 0, 48, Fraction(25))
    for audio in (np.zeros(0, np.float32), np.zeros((2, 100), np.float32), np.zeros(100, np.int16)):
        with pytest.raises(ValueError, match="audio must be"):
            enter(tmp_path / "out.mp4", 64, 48, Fraction(25), audio)


class FullDisk:
    """A container whose disk has no room."""

    def __init__(self, container) -> None:
        self.close = container.close

    def mux(self, packets) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def write_on_full_disk(path: Path, image: np.ndarray) -> None:
    with VideoWriter(path, 64, 48, Fraction(25)) as writer:
        writer._container = FullDisk(writer._container)
        writer.write(image)


def test_full_disk_is_one_line(tmp_path, pictures):
    with pytest.raises(MediaError, match="No space left") as caught:
        write_on_full_disk(tmp_path / "out.mp4", pictures[0](0))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_lossless_codec(tmp_path, photo):
    path = write(tmp_path / "out.mkv", [photo] * 2, codec="ffv1", pix_fmt="yuv444p")
    assert np.abs(next(iter(VideoReader(path))).image.astype(int) - photo).max() <= 3
