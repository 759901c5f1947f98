"""Exact rates: the right number of frames and the right picture in each, for every rate and container."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from lipsync.media.reader import VideoReader

NTSC = 1001
RATES = {
    "23.976": Fraction(24000, NTSC),
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30000, NTSC),
    "30": Fraction(30),
    "50": Fraction(50),
    "59.94": Fraction(60000, NTSC),
}
COUNT = 131  # no multiple of anything
PERIOD = 40
CODECS = {".avi": "ffv1"}


def unwrapped(labels: list[int]) -> list[int]:
    """Indices of pictures whose labels count modulo ``PERIOD``; steps are shorter than half of that."""
    result = [labels[0]]
    for label in labels[1:]:
        result.append(result[-1] + (label - result[-1] + PERIOD // 2) % PERIOD - PERIOD // 2)
    return result


def shown(reader: VideoReader, label) -> list[int]:
    return unwrapped([label(frame.image) for frame in reader])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])  # Matroska counts milliseconds, AVI frames
@pytest.mark.parametrize("source", RATES)
def test_every_rate_from_every_rate(make, pictures, source, suffix):
    rate = RATES[source]
    path = make(
        f"clip{suffix}", times=range(COUNT), base=1 / rate, rate=rate, codec=CODECS.get(suffix, "libx264")
    )
    own = VideoReader(path)
    assert own.info.fps == rate
    assert own.info.frame_count == COUNT
    assert shown(own, pictures[1]) == list(range(COUNT))
    tick = Fraction(1, 1000 if suffix == ".mkv" else 10_000)
    for fps in RATES.values():
        reader = VideoReader(path, fps)
        frames = list(reader)
        length = math.floor(COUNT / rate * fps + Fraction(1, 2))
        assert len(frames) == reader.info.frame_count == length
        assert [frame.time for frame in frames] == [float(k / fps) for k in range(length)]
        found = unwrapped([pictures[1](frame.image) for frame in frames])
        # exact but for the rounding of the file's clock
        earliest = [min(COUNT - 1, math.floor((k / fps - tick) * rate)) for k in range(length)]
        latest = [min(COUNT - 1, math.floor((k / fps + tick) * rate)) for k in range(length)]
        assert all(a <= b <= c for a, b, c in zip(earliest, found, latest, strict=True)), fps
        assert (reader.corrupt_packets, reader.missing_frames) == (0, 0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_rate_from_variable_rate(make, pictures, suffix):
    steps = np.random.default_rng(0).integers(8, 120, COUNT)
    times = [0, *(int(t) for t in np.cumsum(steps))][:COUNT]
    path = make(f"clip{suffix}", times=times, base=Fraction(1, 1000), rate=Fraction(25))
    own = [frame.time for frame in VideoReader(path)]
    np.testing.assert_allclose(own, np.array(times) / 1000, atol=1e-9)
    for fps in RATES.values():
        frames = list(VideoReader(path, fps))
        found = unwrapped([pictures[1](frame.image) for frame in frames])
        for k, index in enumerate(found):  # at most half a tick early
            assert times[index] <= k / fps * 1000 + Fraction(1, 2)
            assert index == COUNT - 1 or times[index + 1] > k / fps * 1000
        # the length of the last picture is not stated everywhere
        assert 0 <= len(frames) - times[-1] / 1000 * fps <= 0.13 * fps


def test_the_delay_of_b_frames_misses_nothing(make):
    reader = VideoReader(make("clip.flv", times=range(75)), Fraction(25))
    assert sum(1 for _ in reader) == reader.info.frame_count == 75
    assert reader.missing_frames == 0


def test_b_frames_without_timestamps_are_shown_once(make, pictures):
    """AVI states no order: FFmpeg guesses, and its guess of the last picture is not the latest."""
    images = [pictures[0](index) for index in range(40)]
    reader = VideoReader(make("clip.avi", times=range(40), images=images))
    assert [pictures[1](frame.image) for frame in reader] == list(range(40))
    assert (reader.corrupt_packets, reader.missing_frames) == (0, 0)
    held = [pictures[1](frame.image) for frame in VideoReader(reader.path, Fraction(25))]
    assert held[-1] == 39
    assert sorted(held) == held
