from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from lipsync.errors import NotScorableError
from lipsync.faces.landmarks import INNER_CORNERS, INNER_PAIRS, MOUTH
from lipsync.metrics.landmarks import (
    LandmarkDistance,
    SoundFitMean,
    aperture,
    correlation,
    inter_ocular,
    landmark_distance,
    lmd,
    loudness,
    mouth_aspect_ratio,
    opening,
    sound_fit,
    without_slow_changes,
)

RATE = 16000
FPS = Fraction(25)


def face(opened: float = 8.0) -> np.ndarray:
    """Outer eye corners 100 px apart, inner lips 40 px wide and opened by ``opened`` px."""
    points = np.random.default_rng(3).uniform(0, 200, (98, 2))
    points[60], points[72] = (50, 60), (150, 60)
    points[INNER_CORNERS[0]], points[INNER_CORNERS[1]] = (80, 150), (120, 150)
    for place, (upper, lower) in enumerate(INNER_PAIRS):
        points[upper] = (90 + 10 * place, 150 - opened / 2)
        points[lower] = (90 + 10 * place, 150 + opened / 2)
    return points


def test_opening_width_and_eyes():
    assert float(inter_ocular(face())) == 100
    assert float(opening(face(8))) == pytest.approx(8)
    assert float(aperture(face(8))) == pytest.approx(0.08)
    assert float(mouth_aspect_ratio(face(8))) == pytest.approx(0.2)
    assert aperture(np.stack([face(0), face(4), face(20)])).tolist() == pytest.approx([0, 0.04, 0.2])
    turned = face(8) @ np.array([[0, 1], [-1, 0]]) * 3 + 17
    assert float(aperture(turned)) == pytest.approx(0.08)


def test_lmd_ignores_the_place_and_sees_the_size():
    reference = face()
    assert lmd(reference + np.array([7, -3]), reference) == pytest.approx(0)
    mouth = reference[MOUTH]
    radius = np.linalg.norm(mouth - mouth.mean(axis=0), axis=1).mean()
    assert lmd(reference * 1.1, reference) == pytest.approx(0.1 * radius)
    moved = reference.copy()
    moved[80] += [20, 0]  # one of 20 points: 19/20 of the way itself, the mean takes 1/20 off all
    assert lmd(moved, reference) == pytest.approx((19 + 19) / 20)
    outside = reference.copy()
    outside[0] += 50
    assert lmd(outside, reference) == 0
    assert float(landmark_distance(outside, reference)) > 0
    with pytest.raises(ValueError, match="cannot be compared"):
        lmd(reference, reference[None])
    with pytest.raises(ValueError, match=r"98, 2\) points"):
        lmd(reference[:68], reference[:68])


def test_the_metric_averages_over_frames_whatever_the_grouping():
    ours = np.stack([face(opened) for opened in (0, 10, 20)])
    theirs = np.stack([face(opened) for opened in (6, 10, 8)])
    whole, parts = LandmarkDistance(), LandmarkDistance()
    whole.update(ours, theirs)
    for pair in zip(ours, theirs, strict=True):
        parts.update(*pair)
    values = {name: float(value) for name, value in whole.compute().items()}
    assert values == pytest.approx({name: float(value) for name, value in parts.compute().items()})
    assert values["lmd"] == pytest.approx(lmd(ours, theirs))
    assert values["lmd_percent"] == pytest.approx(values["lmd"])  # eyes 100 px apart
    assert values["aperture_error"] == pytest.approx((0.06 + 0 + 0.12) / 3)
    assert 0 < values["lmd_face_percent"] < values["lmd_percent"]


def test_correlation_is_pearsons_over_known_places():
    x = np.arange(30.0)
    assert correlation(x, 3 * x + 1) == pytest.approx(1)
    assert correlation(x, -x) == pytest.approx(-1)
    gap = x.copy()
    gap[[3, 9]] = np.nan
    assert correlation(gap, 2 * x) == pytest.approx(1)
    with pytest.raises(NotScorableError, match="24 frames"):
        correlation(x[:24], x[:24])
    with pytest.raises(NotScorableError, match="constant"):
        correlation(x, np.ones(30))


def test_loudness_follows_the_sound_frame_by_frame():
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    sound = tone * np.where(np.arange(RATE) // 640 == 7, 0.5, 0)
    levels = loudness(sound.astype(np.float32), FPS, 30)
    assert np.nanargmax(levels) == 7
    assert levels[7] == pytest.approx(math.sqrt(0.5 / math.sqrt(2)), rel=0.05)
    assert levels[3] == 0
    assert np.isnan(levels[25:]).all()
    assert np.isfinite(levels[:25]).all()
    assert np.isnan(loudness(np.zeros(0, np.float32), FPS, 4)).all()


def test_only_the_band_of_speech_counts():
    time = np.arange(RATE) / RATE
    within, below, above = (
        loudness(np.sin(2 * np.pi * hertz * time).astype(np.float32), FPS, 25)[12]
        for hertz in (1000, 60, 7000)
    )
    assert within > 4 * below
    assert within > 2 * above


def test_slow_changes_are_taken_off():
    ramp = np.linspace(0, 5, 100)
    assert np.abs(without_slow_changes(ramp, FPS)[10:-10]).max() < 1e-9
    wiggle = np.sin(2 * np.pi * np.arange(100) / 5)
    assert np.abs(without_slow_changes(wiggle, FPS) - wiggle)[10:-10].max() < 1e-9
    gap = ramp.copy()
    gap[50] = np.nan
    assert np.isnan(without_slow_changes(gap, FPS)).nonzero()[0].tolist() == [50]
    assert without_slow_changes([], FPS).size == 0


def _syllables(seed: int, frames: int = 120) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 1, frames + 2)
    return np.convolve(noise, [0.25, 0.5, 0.25], "valid")


@pytest.mark.parametrize("lag", [-5, -1, 0, 3])
def test_the_delay_that_is_needed_is_found(lag):
    mouth = _syllables(0)
    # The sound at frame t belongs to the mouth at t + lag: it must be delayed by lag.
    sound = np.roll(mouth, -lag) * 0.1 + 0.3
    fit = sound_fit(mouth, sound)
    assert fit.lag == lag
    assert fit.best > 0.95
    assert (fit.r == fit.best) == (lag == 0)


def test_lags_are_in_frames_of_40_ms_at_any_rate():
    mouth = np.repeat(_syllables(1), 2)
    fit = sound_fit(mouth, np.roll(mouth, -4), Fraction(50))
    assert fit.lag == 2
    assert sound_fit(_syllables(2), _syllables(2), Fraction(30000, 1001)).lag == 0


def test_common_silence_counts_for_little():
    speech = np.zeros(120)
    speech[20:100] = 1
    fits, plain = [], []
    for seed in range(20):
        mouth, sound = speech * _syllables(seed), speech * _syllables(seed + 100)
        fits.append(sound_fit(mouth, sound).r)
        plain.append(correlation(mouth, sound))
        assert sound_fit(mouth, mouth).r > 0.99
    # What remains is the edges, which lie at the very same frames here.
    assert np.mean(plain) > 0.6
    assert np.mean(fits) < 0.5 * np.mean(plain)


def test_silence_stills_and_short_clips_have_no_fit():
    mouth = _syllables(0)
    with pytest.raises(NotScorableError, match="silent"):
        sound_fit(mouth, np.zeros(120))
    with pytest.raises(NotScorableError, match="does not move"):
        sound_fit(np.full(120, 0.1), mouth)
    with pytest.raises(NotScorableError, match="at least 25"):
        sound_fit(mouth[:26], mouth[:26])
    with pytest.raises(NotScorableError, match="at least 25"):
        sound_fit(np.full(120, np.nan), mouth)


def test_the_mean_fit_counts_clips_without_one_apart():
    metric = SoundFitMean()
    metric.update(_syllables(0), _syllables(0))
    metric.update(_syllables(0), -_syllables(0))
    metric.update(_syllables(0), np.zeros(120))
    assert float(metric.compute()) == pytest.approx(0, abs=1e-9)
    assert (int(metric.clips), int(metric.undefined)) == (2, 1)
