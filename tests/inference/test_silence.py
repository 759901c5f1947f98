"""The gate lets the source's mouth through in silence and never touches speech."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from inference_stubs import BOX, frames_of

from lipsync.audio.mel import log_mel
from lipsync.audio.voice import speech_activity
from lipsync.audio.windows import SILENCE, MelWindows
from lipsync.inference.silence import LEAST, RAMP, SILENCE_MODES, SilenceGate, gated_mel
from lipsync.types import Patch

RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)]


def activity(*runs: tuple[float, bool]) -> np.ndarray:
    """Runs of ``(seconds, speaks)``."""
    return np.concatenate([np.full(round(seconds * 80), speaks) for seconds, speaks in runs])


def strengths(gate: SilenceGate, count: int) -> np.ndarray:
    return np.array([gate.strength(index) for index in range(count)])


def touches_speech(active: np.ndarray, fps: Fraction, index: int) -> bool:
    """Whether a column of speech, 12.5 ms wide, reaches into the time of the frame."""
    begin, end = float(index / fps) * 80, float((index + 1) / fps) * 80
    columns = np.flatnonzero(active)
    return bool(((columns + 0.5 > begin) & (columns - 0.5 < end)).any())


def test_the_gate_is_off_by_default() -> None:
    assert SILENCE_MODES == ("speak", "source", "close")


def test_the_middle_of_a_silence_is_the_sources_and_speech_the_generators() -> None:
    gate = SilenceGate(activity((1.0, True), (1.0, False), (1.0, True)), Fraction(25))
    found = strengths(gate, 75)
    assert (found[:25] == 1).all()
    assert (found[29:46] == 0).all()
    assert (found[50:] == 1).all()


def test_both_ramps_lie_in_the_silence_and_take_their_time() -> None:
    gate = SilenceGate(activity((1.0, True), (1.0, False), (1.0, True)), Fraction(100))
    found = strengths(gate, 300)
    (fading,) = np.nonzero((found > 0) & (found < 1))
    assert fading.min() >= 100
    assert fading.max() < 200
    assert (np.diff(found[100:150]) <= 0).all()
    assert (np.diff(found[150:200]) >= 0).all()
    assert np.abs(np.diff(found)).max() == pytest.approx(0.01 / RAMP, rel=1e-6)
    assert ((found[100:150] > 0) & (found[100:150] < 1)).sum() / 100 == pytest.approx(RAMP, abs=0.011)


@pytest.mark.parametrize("fps", RATES)
def test_no_frame_that_shows_speech_is_weakened_nor_does_it_pop(fps: Fraction) -> None:
    rng = np.random.default_rng(3)
    runs = [(float(rng.uniform(0.03, 1.2)), bool(i % 2)) for i in range(60)]
    active = activity(*runs)
    gate = SilenceGate(active, fps)
    found = strengths(gate, int(active.size / 80 * fps) + 20)
    speaking = np.array([touches_speech(active, fps, index) for index in range(found.size)])
    assert (found[speaking] == 1).all()
    assert (found[~speaking] == 0).sum() > 0.2 * (~speaking).sum()
    # The last step, next to the speech, may be a part of the others: frames do not begin with the ramp.
    assert np.abs(np.diff(found)).max() <= float(1 / fps) / RAMP + 1e-9


@pytest.mark.parametrize(("seconds", "weakest"), [(LEAST - 0.0125, 1.0), (LEAST, 0.0)])
def test_a_pause_within_speech_is_left_alone(seconds: float, weakest: float) -> None:
    gate = SilenceGate(activity((1.0, True), (seconds, False), (1.0, True)), Fraction(50))
    assert strengths(gate, 120)[:100].min() == weakest


def test_before_the_first_word_and_after_the_sound_there_is_silence() -> None:
    gate = SilenceGate(activity((1.0, False), (1.0, True), (0.1, False)), Fraction(25))
    found = strengths(gate, 100)
    assert (found[:21] == 0).all()
    assert 0 < found[23] < 1
    assert (found[25:50] == 1).all()
    assert (found[54:] == 0).all()
    assert gate.strength(10**9) == 0


def test_speech_up_to_the_ends_of_the_sound_is_untouched() -> None:
    gate = SilenceGate(np.ones(161, np.bool_), Fraction(25))
    assert (strengths(gate, 50) == 1).all()


@pytest.mark.parametrize("columns", [0, 1, 400])
def test_a_silent_sound_shows_the_source(columns: int) -> None:
    gate = SilenceGate(np.zeros(columns, np.bool_), Fraction(30))
    assert (strengths(gate, 40) == 0).all()


def test_without_a_ramp_the_gate_switches() -> None:
    gate = SilenceGate(activity((1.0, True), (1.0, False), (1.0, True)), Fraction(25), ramp=0.0)
    assert set(strengths(gate, 75)) == {0.0, 1.0}


def test_patches_are_weakened_by_the_number_of_their_frame() -> None:
    gate = SilenceGate(activity((1.0, True), (1.0, False)), Fraction(25))
    image = np.zeros((96, 96, 3), np.uint8)
    frames = [frame for frame in frames_of(50) if frame.index in (3, 26, 40)]  # frames were cut out
    patches = [Patch(frame, BOX, image, strength=0.5) for frame in frames]
    found = list(gate(patches))
    assert found[0] is patches[0]
    assert found[1].strength == pytest.approx(0.5 * gate.strength(26))
    assert 0 < found[1].strength < 0.5
    assert found[2].strength == 0
    assert all(after.image is image and after.box == BOX for after in found)
    assert [after.frame for after in found] == frames


def test_patches_stream_one_by_one() -> None:
    asked: list[int] = []

    def source() -> Iterator[Patch]:
        for frame in frames_of(3):
            asked.append(frame.index)
            yield Patch(frame)

    stream = SilenceGate(np.zeros(10, np.bool_), Fraction(25))(source())
    next(stream)
    assert asked == [0]


@pytest.mark.parametrize("settings", [{"least": -1.0}, {"ramp": -0.1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="least and ramp"):
        SilenceGate(np.zeros(4, np.bool_), Fraction(25), **settings)


def test_a_rate_of_zero_and_an_activity_of_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="fps above 0"):
        SilenceGate(np.zeros(4, np.bool_), Fraction(0))
    with pytest.raises(ValueError, match=r"\(T,\)"):
        SilenceGate(np.zeros((4, 2), np.bool_), Fraction(25))


def test_silent_columns_of_the_mel_become_digital_silence() -> None:
    rng = np.random.default_rng(0)
    mel = rng.uniform(-3, 3, (80, 50)).astype(np.float32)
    kept = mel.copy()
    active = np.zeros(50, np.bool_)
    active[10:30] = True
    gated = gated_mel(mel, active)
    np.testing.assert_array_equal(mel, kept)
    np.testing.assert_array_equal(gated[:, active], mel[:, active])
    assert (gated[:, ~active] == SILENCE).all()
    assert gated.dtype == np.float32


def test_a_noisy_pause_sounds_to_the_generator_as_digital_silence_does() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(3 * 16000) / 16000
    voice = 0.3 * np.sign(np.sin(2 * np.pi * 140 * time)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    voice[16000:32000] = 0
    sound = (voice + 0.003 * rng.standard_normal(voice.size)).astype(np.float32)
    mel = log_mel(sound)
    middle = MelWindows(gated_mel(mel, speech_activity(sound)), Fraction(25))[35]
    assert (middle == SILENCE).all()
    assert MelWindows(mel, Fraction(25))[35].mean() > SILENCE + 1
    assert gated_mel(mel, speech_activity(sound))[:, 8:72].tobytes() == mel[:, 8:72].tobytes()


def test_activity_of_another_sound_is_refused() -> None:
    with pytest.raises(ValueError, match="does not go with"):
        gated_mel(np.zeros((80, 50), np.float32), np.zeros(49, np.bool_))
