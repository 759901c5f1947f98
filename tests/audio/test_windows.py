"""Frame to mel arithmetic: every case of the reference."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import torch

from lipsync.audio.windows import (
    MelWindows,
    mel_window,
    mel_windows,
    training_start,
)


def ramp(steps: int) -> np.ndarray:
    """A mel whose every column holds its own index."""
    return np.tile(np.arange(steps, dtype=np.float32), (80, 1))


def starts(windows) -> list[int]:
    return [int(window[0, 0]) for window in windows]


def test_reference_cases(parity):
    manifest, _ = parity("mel_chunks")
    assert len(manifest["cases"]) == 54
    for case in manifest["cases"]:
        found = starts(mel_windows(ramp(case["mel_frames"]), case["fps"]))
        first, last = case["first"], case["last"]
        label = (case["mel_frames"], case["fps"])
        assert len(found) == case["n_chunks"], label
        assert found[: len(first)] == first, label
        assert found[-len(last) :] == last, label
        assert sum(found) == case["sum"], label


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)])
@pytest.mark.parametrize("steps", [16, 17, 249, 4001])
def test_lazy_windows_equal_the_list(steps, fps):
    mel = ramp(steps)
    lazy = MelWindows(mel, fps)
    listed = mel_windows(mel, fps)
    assert len(lazy) == len(listed)
    np.testing.assert_array_equal(np.stack(list(lazy)), listed)


def test_training_starts(parity):
    manifest, _ = parity("mel_chunks")
    assert [training_start(f) for f in range(30)] == manifest["training"]["starts_frames_0_29"]
    assert [training_start(f) for f in range(2000)] == [16 * f // 5 for f in range(2000)]


def test_windows_hold_sixteen_consecutive_columns():
    windows = mel_windows(ramp(100), 25)
    assert windows.shape == (len(windows), 80, 16)
    np.testing.assert_array_equal(windows[3, 7], np.arange(9, 25))


def test_tensor_in_tensor_out():
    mel = torch.from_numpy(ramp(100))
    windows = mel_windows(mel, Fraction(25))
    assert isinstance(windows, torch.Tensor)
    np.testing.assert_array_equal(windows.numpy(), mel_windows(ramp(100), 25.0))
    assert mel_window(torch.zeros(80, 3), 0).shape == (80, 16)


@pytest.mark.parametrize("steps", [1, 5, 15])
def test_short_sound_is_padded_with_silence(steps):
    windows = mel_windows(np.zeros((80, steps), np.float32), 25)
    assert windows.shape[1:] == (80, 16)
    assert (windows[0, :, :steps] == 0).all()
    assert (windows[0, :, steps:] == -4).all()
    assert MelWindows(np.zeros((80, steps), np.float32), Fraction(25))[9].shape == (80, 16)


def test_frames_after_the_end_get_the_last_window():
    windows = MelWindows(ramp(50), Fraction(25))
    assert windows[10**6][0, 0] == 34
    assert windows[len(windows)][0, 0] == 34
    with pytest.raises(IndexError):
        windows[-1]


def test_iteration_ends_at_the_length():
    windows = MelWindows(ramp(50), Fraction(25))
    assert len(list(islice(windows, 1000))) == len(windows) == 12


def test_shift_restores_the_training_alignment():
    plain, shifted = MelWindows(ramp(200), Fraction(25)), MelWindows(ramp(200), Fraction(25), shift=-1)
    assert starts(islice(shifted, 1, 40)) == [training_start(f - 1) for f in range(1, 40)]
    assert shifted[0][0, 0] == 0
    assert starts(islice(plain, 40)) == [training_start(f) for f in range(40)]


def test_shift_is_forty_milliseconds_at_any_rate():
    fps = Fraction(50)
    assert MelWindows(ramp(200), fps, shift=1).start(10) == MelWindows(ramp(200), fps).start(12)


@pytest.mark.parametrize(
    ("samples", "fps", "frames"), [(16000, 25, 25), (16200, 25, 26), (49600, 30, 93), (1, 25, 1)]
)
def test_frames_to_cover_the_sound(samples, fps, frames):
    steps = 1 + samples // 200
    assert MelWindows(ramp(steps), Fraction(fps)).frames_to_cover == frames


def test_hour_at_ntsc_rate_does_not_drift():
    fps = Fraction(30000, 1001)
    windows = MelWindows(np.zeros((80, 16), np.float32), fps)
    for index in (1, 1000, 107892):
        assert abs(windows.start(index) - 80 * index / fps) <= 1


@pytest.mark.parametrize(("start", "first"), [(-3, 0), (0, 0), (34, 34), (35, 34), (999, 34)])
def test_window_is_moved_inside(start, first):
    window = mel_window(ramp(50), start)
    assert window.shape == (80, 16)
    assert window[0, 0] == first


def test_bad_arguments():
    with pytest.raises(ValueError, match="fps"):
        mel_windows(ramp(50), 0)
    with pytest.raises(ValueError, match="mel must be"):
        mel_window(np.zeros(80, np.float32), 0)
