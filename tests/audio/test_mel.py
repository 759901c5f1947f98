"""Log-mel front end: parity with the original, lengths, edges, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipsync.audio import mel as front_end
from lipsync.audio.mel import log_mel, mel_basis
from lipsync.audio.spec import WAV2LIP


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """The signal of the parity fixtures: chirp, noise, 0.2 s of digital silence."""
    t = np.arange(49600) / 16000.0
    chirp = 0.5 * np.sin(2 * np.pi * (100 * t + 0.5 * ((3000 - 100) / 3.1) * t * t))
    y = chirp + 0.05 * np.random.default_rng(7).standard_normal(t.size)
    y[16000:19200] = 0.0
    return y.astype(np.float32)


def test_parity(parity, wave):
    _, arrays = parity("mel_frontend")
    mel = log_mel(wave)
    assert mel.dtype == np.float32
    assert mel.shape == arrays["mel"].shape
    np.testing.assert_allclose(mel, arrays["mel"], atol=1e-4)
    np.testing.assert_allclose(mel_basis().numpy(), arrays["mel_basis"], atol=1e-7)


def test_border_columns_are_reflected_not_zero_padded(parity, wave):
    _, arrays = parity("mel_frontend")
    wrong = arrays["mel_librosa_011_default_constant_pad"]
    assert np.abs(log_mel(wave)[:, [0, -1]] - wrong[:, [0, -1]]).max() > 0.1


def test_tensor_in_tensor_out(wave):
    mel = log_mel(torch.from_numpy(wave))
    assert isinstance(mel, torch.Tensor)
    np.testing.assert_array_equal(mel.numpy(), log_mel(wave))


@pytest.mark.parametrize("samples", [1, 2, 3, 199, 200, 400, 401, 1600, 3199])
def test_any_length_has_one_column_per_hop(samples):
    mel = log_mel(np.random.default_rng(0).uniform(-1, 1, samples))
    assert mel.shape == (80, WAV2LIP.steps(samples)) == (80, 1 + samples // 200)
    assert np.isfinite(mel).all()
    assert np.abs(mel).max() <= 4


@pytest.mark.parametrize("samples", [2, 150, 400])
def test_short_reflection_equals_numpy(samples):
    x = np.random.default_rng(1).uniform(-1, 1, samples).astype(np.float32)
    emphasised = np.append(x[:1], x[1:] - 0.97 * x[:-1])
    padded = np.pad(emphasised, 400, mode="reflect")
    window = np.hanning(801)[:-1]
    spectrum = np.abs(np.fft.rfft(padded[:800] * window))
    level = 20 * np.log10(np.maximum(1e-5, mel_basis().numpy() @ spectrum)) - 20
    expected = np.clip(8 * (level + 100) / 100 - 4, -4, 4)
    np.testing.assert_allclose(log_mel(x)[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize("samples", [300, 49600])
@pytest.mark.parametrize("block", [1, 7, 248])
def test_block_boundaries_do_not_show(monkeypatch, wave, samples, block):
    whole = log_mel(wave[:samples])
    assert whole.shape[1] <= front_end._BLOCK
    monkeypatch.setattr(front_end, "_BLOCK", block)
    np.testing.assert_allclose(log_mel(wave[:samples]), whole, rtol=0, atol=1e-6)


def test_silence_is_exactly_minus_four():
    assert (log_mel(np.zeros(3200, np.float32)) == -4).all()


def test_level_doubles_by_the_formula():
    x = 0.05 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 16000)
    quiet, loud = log_mel(x)[:, 20], log_mel(2 * x)[:, 20]
    peak = quiet.argmax()
    assert loud[peak] - quiet[peak] == pytest.approx(8 * 20 * np.log10(2) / 100, abs=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(0, np.float32),
        np.zeros((2, 800), np.float32),
        np.zeros(800, np.int16),
        np.array([0.0, np.nan]),
    ],
    ids=["empty", "stereo", "int16", "nan"],
)
def test_bad_waveform(bad):
    with pytest.raises(ValueError, match="waveform"):
        log_mel(bad)
