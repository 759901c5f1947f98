"""The sound of frames that are not written is left out to the sample, and joins do not click."""

from __future__ import annotations

import inspect
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync.media.probe import probe
from lipsync.media.track import TAPER
from lipsync.media.waveform import load_waveform, save_wav
from lipsync.media.writer import VideoWriter


def cut(path: Path, plan, fps: Fraction, audio, **options) -> Path:
    """Write one picture for each positive number of the plan, leave out the sound of the negative ones."""
    image = np.full((16, 16, 3), 90, np.uint8)
    settings = {"codec": "ffv1", "pix_fmt": "bgr0", "audio_codec": "flac", "trim_audio": True, **options}
    with VideoWriter(path, 16, 16, fps, audio, **settings) as writer:
        for frames in plan:
            for _ in range(frames):
                writer.write(image)
            if frames < 0:
                writer.skip(-frames)
    return path


def expected(sound: np.ndarray, plan, fps: Fraction, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """What is heard, and where it is the source's (not in the taper behind a join)."""
    pieces, plain = [], []
    written = skipped = position = 0
    before = 0
    for frames in plan:
        if frames < 0:
            skipped -= frames
            continue
        written += frames
        end = math.floor(written * rate / fps)
        left_out = math.floor(skipped * rate / fps + Fraction(1, 2))
        pieces.append(sound[position + left_out : end + left_out])
        untouched = np.ones(pieces[-1].size, bool)
        if position and left_out > before:
            untouched[: math.ceil(TAPER * rate)] = False
        plain.append(untouched[: pieces[-1].size])
        position, before = end, left_out
    return np.concatenate(pieces), np.concatenate(plain)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(1350, 61)])
def test_sound_of_skipped_frames_is_left_out(tmp_path, fps, rate):
    plan = [-3, 10, -1, 7, -2, -5, 1, -1, 1, -30, 12, -4]
    sound = (np.random.default_rng(0).integers(-32768, 32768, 4 * rate) / 32768).astype(np.float32)
    save_wav(tmp_path / "in.wav", sound, rate)
    heard = load_waveform(cut(tmp_path / "a.mkv", plan, fps, sound, sample_rate=rate), rate)
    wanted, plain = expected(sound, plan, fps, rate)
    assert heard.size == wanted.size == math.floor(31 * rate / fps)
    np.testing.assert_array_equal(heard[plain], wanted[plain])
    assert not np.array_equal(heard, wanted)
    from_file = load_waveform(cut(tmp_path / "b.mkv", plan, fps, tmp_path / "in.wav"), rate)
    np.testing.assert_array_equal(from_file, heard)


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001)])
def test_thousands_of_cuts_do_not_drift(tmp_path, fps):
    """Sample n is the ramp's value n: what is heard tells where it comes from."""
    rate, cuts = 8000, 2500
    length = math.ceil(3 * cuts * rate / fps)
    sound = (np.arange(length) % 32768 / 32768).astype(np.float32)
    heard = load_waveform(cut(tmp_path / "out.mkv", [1, -2] * cuts, fps, sound, sample_rate=rate), rate)
    assert heard.size == math.floor(cuts * rate / fps)
    for frame in (1, 100, 1234, cuts - 1):
        middle = math.floor((frame + Fraction(1, 2)) * rate / fps)  # behind the taper
        left_out = math.floor(2 * frame * rate / fps + Fraction(1, 2))
        assert round(float(heard[middle]) * 32768) == (middle + left_out) % 32768


def test_pieces_are_joined_without_a_click(tmp_path):
    rate = 16000
    time = np.arange(4 * rate) / rate
    sound = (0.5 * np.sin(2 * np.pi * 220.0 * time)).astype(np.float32)
    heard = load_waveform(cut(tmp_path / "out.mkv", [13, -7] * 4, Fraction(30), sound), rate)
    # the sine itself moves by 0.043 a sample; cut hard, it would jump by up to 1
    hard, _ = expected(sound, [13, -7] * 4, Fraction(30), rate)
    assert np.abs(np.diff(hard)).max() > 0.2
    assert np.abs(np.diff(heard)).max() < 0.06


def test_steps_of_one_frame_are_one_cut(tmp_path):
    sound = np.random.default_rng(2).uniform(-0.9, 0.9, 64000).astype(np.float32)
    whole = cut(tmp_path / "a.mkv", [9, -20, 9], Fraction(30000, 1001), sound)
    steps = cut(tmp_path / "b.mkv", [9, *([-1] * 20), 9], Fraction(30000, 1001), sound)
    np.testing.assert_array_equal(load_waveform(steps), load_waveform(whole))


@pytest.mark.parametrize("fps", [Fraction(240), Fraction(480)])
def test_cuts_closer_than_the_taper(tmp_path, fps):
    """Each piece is shorter than the fade; the length stays exact and nothing jumps."""
    time = np.arange(32000) / 16000
    sound = (0.5 * np.sin(2 * np.pi * 100.0 * time)).astype(np.float32)
    heard = load_waveform(cut(tmp_path / "out.mkv", [1, -1] * 120, fps, sound), 16000)
    assert heard.size == math.floor(120 * 16000 / fps)
    assert np.abs(np.diff(heard)).max() < 0.1


@pytest.mark.parametrize("trim_audio", [False, True])
def test_cuts_beyond_the_end_of_the_sound(tmp_path, trim_audio):
    sound = (np.random.default_rng(3).integers(-9999, 9999, 10000) / 32768).astype(np.float32)
    path = cut(tmp_path / "a.mkv", [5, -50, 5], Fraction(25), sound, trim_audio=trim_audio)
    np.testing.assert_array_equal(load_waveform(path), sound[:3200])
    path = cut(tmp_path / "b.mkv", [50, -5, 5], Fraction(25), sound, trim_audio=trim_audio)
    np.testing.assert_array_equal(load_waveform(path), sound)
    with VideoWriter(tmp_path / "c.mp4", 16, 16, Fraction(25), sound) as writer:
        writer.skip(0)
        writer.write(np.zeros((16, 16, 3), np.uint8))
        with pytest.raises(ValueError, match="negative"):
            writer.skip(-1)


@pytest.mark.parametrize("failing", [False, True])
def test_sound_that_is_not_read_to_its_end_is_closed(tmp_path, failing):
    save_wav(tmp_path / "in.wav", np.zeros(64000, np.float32), 16000)
    writer = VideoWriter(tmp_path / "out.mkv", 16, 16, Fraction(25), tmp_path / "in.wav", trim_audio=True)

    def write() -> None:
        with writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))
            assert inspect.getgeneratorstate(writer._track.chunks) == inspect.GEN_SUSPENDED
            if failing:
                raise KeyError("stop")

    if failing:
        with pytest.raises(KeyError, match="stop"):
            write()
    else:
        write()
    assert inspect.getgeneratorstate(writer._track.chunks) == inspect.GEN_CLOSED


def test_skipping_without_sound(tmp_path, pictures):
    with VideoWriter(tmp_path / "out.mp4", 64, 48, Fraction(25)) as writer:
        writer.write(pictures[0](0))
        writer.skip(3)
        writer.write(pictures[0](1))
    assert (writer.frames, writer.skipped, probe(writer.path).frame_count) == (2, 3, 2)


def test_damaged_sound_does_not_end_the_run(tmp_path, make):
    rng = np.random.default_rng(0)
    source = make("whole.mp4", waveform=rng.uniform(-0.5, 0.5, 64000).astype(np.float32), images=[])
    data = bytearray(source.read_bytes())
    start = data.index(b"mdat") + 4
    for offset in range(start + 4000, start + 12000):
        data[offset] = rng.integers(256)
    for name, content in (("holes.mp4", bytes(data)), ("short.aac", adts(tmp_path)[:-5000])):
        damaged = tmp_path / name
        damaged.write_bytes(content)
        path = cut(tmp_path / "out.mkv", [50], Fraction(25), damaged)
        assert probe(path).frame_count == 50
        assert load_waveform(path).size > 16000


def adts(folder: Path) -> bytes:
    """Four seconds of AAC without an index, as broadcasts have it."""
    path = folder / "stream.aac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.codec_context.layout = "mono"
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 64000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, "fltp", "mono")
        frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()
