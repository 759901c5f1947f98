"""What files hold, and one clear line for those that hold nothing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media.probe import has_audio, is_image, probe
from lipsync.media.waveform import load_waveform


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_exact_rate_and_length(make, fps, suffix):
    path = make(f"clip{suffix}", times=range(24), base=1 / fps, rate=fps, codec="mpeg4")
    info = probe(path)
    assert info.path == path
    assert info.fps == fps
    assert info.frame_count == 24
    assert info.duration == pytest.approx(24 / fps, abs=0.002)
    assert (info.width, info.height, info.rotation, info.has_audio) == (64, 48, 0, False)


def test_matroska_length_is_that_of_the_video_not_of_the_sound(make):
    path = make("clip.mkv", times=range(10), waveform=np.zeros(32000))
    assert probe(path).duration == pytest.approx(0.4, abs=0.002)
    assert probe(path).has_audio


@pytest.mark.parametrize(
    ("counterclockwise", "clockwise", "size"),
    [(0, 0, (64, 48)), (90, 270, (48, 64)), (180, 180, (64, 48)), (270, 90, (48, 64))],
)
def test_rotation(make, counterclockwise, clockwise, size):
    info = probe(make("turned.mp4", rotation=counterclockwise))
    assert info.rotation == clockwise
    assert (info.width, info.height) == size


def test_clock_rate_is_not_a_frame_rate(make):
    """A file of variable rate on a millisecond clock: frames over duration, not 1000/1."""
    times = [0, 33, 100, 133, 200, 267, 300, 400]
    info = probe(make("vfr.mkv", times=times, base=Fraction(1, 1000), rate=Fraction(1000)))
    assert 10 < info.fps < 30
    assert abs(info.fps * Fraction(400, 1000) - 7) < 1.5


@pytest.mark.parametrize("pictures_a_second", [Fraction(1, 100), Fraction(1, 1_000_000)])
def test_an_absurdly_low_rate_is_not_believed(make, pictures_a_second):
    path = make("clip.avi", times=range(10), codec="mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 20  # scale and rate of the stream
    scale, rate = (int.from_bytes(data[at + shift : at + shift + 4], "little") for shift in (0, 4))
    assert Fraction(rate, scale) == 25
    data[at : at + 8] = pictures_a_second.denominator.to_bytes(4, "little") + (1).to_bytes(4, "little")
    path.write_bytes(data)
    assert probe(path).fps == 25


def test_a_slow_rate_is_believed(make):
    fps = Fraction(1, 5)
    assert probe(make("slow.mp4", times=range(4), base=5, rate=fps, codec="mpeg4")).fps == fps


def test_raw_files(shared):
    info = probe(shared / "data/raw/grid_s1/bbaf2n.mpg")
    assert (info.width, info.height, info.fps, info.frame_count) == (360, 288, Fraction(25), 75)
    info = probe(shared / "data/raw/wild/retalk_man_22fps_700.mp4")
    assert (info.fps, info.frame_count, info.duration) == (Fraction(1350, 61), 135, pytest.approx(6.1))


def test_has_audio(make):
    assert has_audio(make("sound.mp4", waveform=np.zeros(16000)))
    assert not has_audio(make("mute.mp4"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.JPG", True), ("a.b.png", True), ("x.jpeg.mp4", False), ("noext", False), (".png", False)],
)
def test_is_image(name, expected):
    assert is_image(name) is expected


def broken(kind: str, folder):
    path = folder / "in put.mp4"
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(4096))
    elif kind == "text":
        path.write_text("#!/bin/sh\nexit 0\n")
    return path


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "garbage", "text"])
def test_unusable_files_get_one_line(tmp_path, kind):
    path = broken(kind, tmp_path)
    for call in (probe, has_audio):
        with pytest.raises(MediaError) as caught:
            call(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message


def test_sound_only(make):
    path = make("voice.m4a", times=[], waveform=np.zeros(16000))
    with pytest.raises(MediaError, match="has no video stream"):
        probe(path)
    assert has_audio(path)


def test_unknown_codec(make):
    path = make("clip.mkv", waveform=np.zeros(16000))
    data = path.read_bytes()
    assert data.count(b"V_MPEG4/ISO/AVC") == data.count(b"A_AAC") == 1
    path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_NOSUCHCODEC/X").replace(b"A_AAC", b"A_XXX"))
    with pytest.raises(MediaError, match="unknown kind"):
        probe(path)
    with pytest.raises(MediaError, match="unknown kind"):
        load_waveform(path)


def test_name_that_looks_like_a_protocol(make, monkeypatch):
    path = make("http:clip.mp4")
    monkeypatch.chdir(path.parent)
    assert probe("http:clip.mp4").frame_count == 10
