"""MFCC of the LSE judge: parity with python_speech_features 0.6."""

from __future__ import annotations

import numpy as np
import pytest

from lipsync.audio import mfcc as module
from lipsync.audio.mfcc import mfcc


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    t = np.arange(49600) / 16000.0
    chirp = 0.5 * np.sin(2 * np.pi * (100 * t + 0.5 * ((3000 - 100) / 3.1) * t * t))
    y = chirp + 0.05 * np.random.default_rng(7).standard_normal(t.size)
    y[16000:19200] = 0.0
    return (y.astype(np.float32) * 0.6 * 32767).astype(np.int16)


def test_parity(parity, samples):
    _, arrays = parity("mfcc_syncnet")
    result = mfcc(samples)
    assert result.dtype == np.float32
    assert result.shape == (309, 13)
    np.testing.assert_allclose(result, arrays["mfcc"], atol=1e-3)


def test_parity_windows_and_silence(parity, samples):
    _, arrays = parity("mfcc_syncnet")
    columns = mfcc(samples).T
    for window, frame in zip(arrays["windows_first"], (0, 1, 10), strict=True):
        np.testing.assert_allclose(columns[:, 4 * frame : 4 * frame + 20], window, atol=1e-3)
    np.testing.assert_allclose(mfcc(np.zeros(400, np.int16)), arrays["mfcc_silence_row"], atol=1e-3)


@pytest.mark.parametrize(("n", "frames"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16000, 99)])
def test_frame_count(n, frames):
    result = mfcc(np.ones(n, np.int16))
    assert result.shape == (frames, 13)
    assert np.isfinite(result).all()


def test_blocks_do_not_change_the_result(samples, monkeypatch):
    whole = mfcc(samples)
    monkeypatch.setattr(module, "_BLOCK", 7)
    np.testing.assert_array_equal(mfcc(samples), whole)


def test_input_is_left_alone(samples):
    before = samples.copy()
    mfcc(samples)
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize(
    "bad", [np.zeros(0, np.int16), np.zeros(800, np.float32), np.zeros((2, 800), np.int16)]
)
def test_bad_waveform(bad):
    with pytest.raises(ValueError, match="int16"):
        mfcc(bad)
