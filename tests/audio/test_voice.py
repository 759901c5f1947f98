"""The voice-activity gate: where it hears speech, and that loudness and steady noise do not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from lipsync.audio import voice
from lipsync.audio.mel import log_mel
from lipsync.audio.voice import speech_activity
from lipsync.media.waveform import load_waveform

RATE = 16000
FRAME = 640


def talk(seconds: float, seed: int = 0) -> np.ndarray:
    """Something like continuous speech: a moving pitch, a formant that changes four times a second."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formant = np.interp(time, np.arange(0, seconds + 1, 0.25), rng.uniform(400, 1800, int(seconds * 4) + 4))
    harmonics = [
        np.exp(-(((k * pitch - formant) / 300) ** 2)) * np.sin(k * phase) / (1 + k / 10) for k in range(1, 25)
    ]
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    return (0.2 * syllables * np.sum(harmonics, axis=0)).astype(np.float32)


def noise(kind: str, samples: int, seed: int = 1) -> np.ndarray:
    """Of unit power."""
    if kind == "hum":
        time = np.arange(samples) / RATE
        sound = sum(np.sin(2 * np.pi * 50 * k * time + k) / k for k in range(1, 12))
    else:
        sound = np.random.default_rng(seed).standard_normal(samples)
        if kind == "pink":
            spectrum = np.fft.rfft(sound)
            sound = np.fft.irfft(spectrum / np.sqrt(np.arange(spectrum.size) + 1), samples)
    return np.asarray(sound / np.std(sound))


def below(kind: str, speech: np.ndarray, decibels: float) -> np.ndarray:
    """``speech`` with noise that far below its louder half."""
    frames = np.square(speech[: speech.size // FRAME * FRAME].reshape(-1, FRAME)).mean(axis=1)
    level = np.sqrt(frames[frames >= np.median(frames)].mean()) * 10 ** (-decibels / 20)
    return (speech + level * noise(kind, speech.size)).astype(np.float32)


def between(speech: np.ndarray, silence: float = 1.0) -> np.ndarray:
    """Silence, the speech, silence."""
    return np.pad(speech, round(silence * RATE))


@pytest.mark.parametrize("samples", [1, 2, 199, 200, 399, 801, 16000, 16001])
def test_one_value_for_each_column_of_the_mel(samples: int) -> None:
    sound = noise("white", samples + 1)[:samples].astype(np.float32) * np.float32(0.1)
    active = speech_activity(sound)
    assert active.dtype == np.bool_
    assert active.shape == (log_mel(sound).shape[1],)


@pytest.mark.parametrize("level", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("kind", ["white", "pink", "hum"])
def test_steady_noise_is_silence_at_any_level(kind: str, level: float) -> None:
    sound = (noise(kind, 20 * RATE) * level).astype(np.float32)
    assert not speech_activity(sound).any()


def test_digital_silence_is_silence() -> None:
    assert not speech_activity(np.zeros(5 * RATE, np.float32)).any()


@pytest.mark.parametrize("level", [1e-4, 1.0])
def test_speech_without_a_pause_is_speech_throughout(level: float) -> None:
    assert speech_activity(talk(12.0) * np.float32(level)).all()


def test_loudness_changes_nothing() -> None:
    sound = below("white", between(talk(3.0)), 20)
    expected = speech_activity(sound)
    assert 0.5 < expected.mean() < 0.8
    for factor in (2.0**-12, 2.0**-4, 4.0):
        np.testing.assert_array_equal(speech_activity(sound * np.float32(factor)), expected)


@pytest.mark.parametrize("decibels", [20, 10])
@pytest.mark.parametrize("kind", ["white", "pink", "hum"])
def test_speech_is_found_to_a_tenth_of_a_second_under_noise(kind: str, decibels: float) -> None:
    active = speech_activity(below(kind, between(talk(3.0)), decibels))
    (columns,) = np.nonzero(active)
    assert columns[0] / 80 == pytest.approx(1.0, abs=0.13)
    assert columns[-1] / 80 == pytest.approx(4.0, abs=0.15)
    assert active[columns[0] : columns[-1]].mean() > 0.97


def test_zeros_between_noisy_speech_do_not_make_the_noise_speech() -> None:
    speech = below("white", between(talk(3.0)), 25)
    cut = np.concatenate([speech, np.zeros(2 * RATE, np.float32), speech])
    active = speech_activity(cut)
    lone = speech_activity(speech)
    assert not active[lone.size + 8 : lone.size + 152].any()
    assert active.sum() == pytest.approx(2 * lone.sum(), rel=0.05)


def test_short_pauses_stay_and_clicks_do_not_count() -> None:
    talking = talk(4.0)
    holed = talking.copy()
    holed[2 * RATE : 2 * RATE + 1600] = 0
    assert speech_activity(holed).all()
    longer = talking.copy()
    longer[2 * RATE : 2 * RATE + RATE] = 0
    assert not speech_activity(longer)[80 * 2 + 20 : 80 * 3 - 15].any()
    click = between(talk(2.0))
    click[RATE // 4 : RATE // 4 + 16] = 0.3
    assert not speech_activity(click, min_speech=0.1)[:60].any()


def test_lead_and_hangover_widen_each_stretch() -> None:
    sound = between(talk(2.0))
    plain = np.flatnonzero(speech_activity(sound, lead=0.0, hangover=0.0))
    wide = np.flatnonzero(speech_activity(sound, lead=0.1, hangover=0.25))
    assert plain[0] - wide[0] == 8
    assert wide[-1] - plain[-1] == 20


def test_a_higher_threshold_hears_less() -> None:
    sound = below("white", between(talk(3.0)), 10)
    easy, strict = speech_activity(sound, on=6.0, off=4.0), speech_activity(sound, on=18.0, off=15.0)
    assert strict.sum() < easy.sum()
    assert not (strict & ~easy).any()


def test_long_sounds_are_analysed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = below("white", between(talk(3.0)), 15)
    expected = speech_activity(sound)
    monkeypatch.setattr(voice, "_BLOCK", 37)
    np.testing.assert_array_equal(speech_activity(sound), expected)


@pytest.mark.parametrize(
    "bad",
    [np.zeros(0, np.float32), np.zeros((2, 100), np.float32), np.zeros(100, np.int16), np.full(100, np.nan)],
)
def test_what_is_no_sound_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="waveform"):
        speech_activity(bad)


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="off=9"):
        speech_activity(np.ones(100, np.float32), on=5.0, off=9.0)


def energy(sound: np.ndarray) -> np.ndarray:
    """Power of each frame of 40 ms between 250 and 4000 Hz."""
    band = sosfiltfilt(butter(4, (250, 4000), "bandpass", fs=RATE, output="sos"), sound.astype(np.float64))
    return np.square(band[: band.size // FRAME * FRAME].reshape(-1, FRAME)).mean(axis=1)


def with_pauses(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The recording with zeros at quiet places; by frame 1 clear speech, 0 inserted silence, -1 neither."""
    power = energy(sound)
    known = np.where(power > np.percentile(power, 95) * 10**-2.5, 1, -1)
    parts = np.array_split(np.arange(power.size), max(2, power.size // 75))
    pieces, labels, done = [], [], 0
    for number, part in enumerate(parts):
        place, length = int(part[power[part].argmin()]), (12, 25, 50)[number % 3]
        pieces += [sound[done * FRAME : place * FRAME], np.zeros(length * FRAME, np.float32)]
        labels += [known[done:place], np.zeros(length, int)]
        done = place
    pieces.append(sound[done * FRAME : power.size * FRAME])
    return np.concatenate(pieces), np.concatenate([*labels, known[done:]])


@pytest.mark.parametrize(
    ("kind", "decibels", "hits"),
    [("", 0, 0.99), ("white", 30, 0.99), ("white", 20, 0.96), ("white", 10, 0.94), ("hum", 20, 0.99)],
)
def test_real_speech_with_pauses_put_in(shared: Path, kind: str, decibels: float, hits: float) -> None:
    paths = [
        *sorted((shared / "data/raw/audio").glob("*.wav")),
        *sorted((shared / "data/raw/wild").glob("v*")),
    ]
    grid = sorted((shared / "data/raw/grid_s1").glob("*.mpg"))[:4]
    recordings = [load_waveform(path, RATE) for path in paths]
    recordings.append(np.concatenate([load_waveform(path, RATE) for path in grid]))
    heard, false = [], []
    for recording in recordings:
        sound, labels = with_pauses(recording)
        active = speech_activity(below(kind, sound, decibels) if kind else sound)
        frames = np.array([active[int(np.ceil(3.2 * i)) :][:3].any() for i in range(labels.size)])
        silent = labels == 0
        # A tenth of a second at either end belongs to the lead and the hangover.
        inside = np.array([silent[max(0, i - 3) : i + 4].all() for i in range(labels.size)])
        heard.append(frames[labels == 1].mean())
        false.append(frames[inside].mean())
    assert np.mean(heard) > hits
    assert max(false) == 0
