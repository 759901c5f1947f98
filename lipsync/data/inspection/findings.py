"""From measurements of a corpus to likely causes of a plateau, each with its evidence and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lipsync.audio.spec import TRAINING_FPS
from lipsync.data.inspection.faces import FaceMeasurements
from lipsync.data.inspection.lag_table import LAGS, MAX_LAG
from lipsync.data.inspection.offsets import FAR, ClipOffsets
from lipsync.data.inspection.report import DataMeasurements, SpeechMeasurements
from lipsync.data.inspection.sound import SoundMeasurements

_JUMP = 0.02  # measured: 0.005 to 0.0075 of the width in sound corpora, 0.04 where crops jump by 4 %
_DISORDER = 0.75  # measured: 0.27 to 0.32; 0.9 to 1.0 shuffled
_AXIS = 0.035  # measured: 0 to 0.02; 0.05 where clips lie 10 % apart, 0.12 at 20 %
_ASTRAY = 0.12  # share of the confident clips


@dataclass(frozen=True)
class Finding:
    """A likely cause."""

    cause: str
    """One of a fixed set of short names."""
    strength: float
    """0 to 1: how much of the failure it explains."""
    evidence: str
    """What was measured."""
    advice: str
    """What to change."""


def data_findings(data: DataMeasurements) -> list[Finding]:
    """What is wrong with the corpus, the strongest first; empty when it is sound."""
    if data.sound is None or data.faces is None:
        return [_nothing_to_look_at(data)]
    findings = [*_sound(data.sound), *_faces(data.faces)]
    if data.speech is not None:
        findings += _upper_half(data.speech)
        findings += _frame_rate(data, data.speech)
        findings += _offsets(data.speech)
    else:
        findings += _lengths(data)
    if not findings and data.speech is not None:
        findings += _unrelated(data.speech)
    return sorted(findings, key=lambda finding: -finding.strength)


def histogram(offsets: ClipOffsets) -> str:
    """``-8:3 0:21 +5:1``: confident clips at each lag that has any."""
    lags, counts = np.unique(offsets.lags[offsets.confident], return_counts=True)
    return " ".join(f"{lag:+d}:{count}" for lag, count in zip(lags.tolist(), counts.tolist(), strict=True))


def _nothing_to_look_at(data: DataMeasurements) -> Finding:
    return Finding(
        "clips too short",
        1.0,
        f"none of {data.clips} clips has 30 consecutive pictures (1.2 s)",
        "preprocess longer clips",
    )


def _sound(sound: SoundMeasurements) -> Iterator[Finding]:
    share = max(sound.silent_windows, sound.flat_clips)
    if sound.silent_windows > 0.5 or sound.flat_clips > 0.1:
        yield Finding(
            "mel silent",
            min(1.0, 0.5 + 0.5 * share),
            f"{sound.silent_windows:.0%} of the 0.2 s windows are digital silence and the sound of "
            f"{sound.flat_clips:.0%} of the clips does not move by 5 dB (median level {sound.level:.1f} of "
            "-4 to 4)",
            "listen to audio.wav of a few clips: look for a muted track, a wrong channel or a failed "
            "extraction; preprocess again from videos whose sound is right and leave silent clips out",
        )


def _faces(faces: FaceMeasurements) -> Iterator[Finding]:
    jumps = faces.jump > _JUMP
    if jumps or faces.axis_spread > _AXIS:
        strength = max(faces.jump / (4 * _JUMP), faces.axis_spread / (4 * _AXIS))
        yield Finding(
            "faces not aligned",
            min(1.0, 0.5 + 0.5 * strength),
            f"the face moves by {faces.jump:.1%} of the crop from frame to frame (sound corpora: under 1 %) "
            f"and sits {faces.axis_spread:.1%} apart from clip to clip (under 3 %)",
            "preprocess again with a steady detector and box smoothing, one face a track; look at crops of a "
            "few clips side by side",
        )
    elif faces.disorder > _DISORDER:
        yield Finding(
            "frames out of order",
            min(1.0, faces.disorder),
            f"neighbouring frames differ {faces.disorder:.0%} as much as distant ones (sound corpora: 30 %)",
            "number the pictures of a clip in the order of time: 10.jpg sorts before 9.jpg as text",
        )
    if faces.still > 0.8:
        yield Finding(
            "pictures stand still",
            faces.still,
            f"{faces.still:.0%} of the pictures equal the one before",
            "leave photographs with sound out of the corpus; check that preprocessing read the video, not "
            "its cover",
        )


def _upper_half(speech: SpeechMeasurements) -> Iterator[Finding]:
    lower, upper = speech.rates[TRAINING_FPS], speech.upper
    if upper.certain and upper.correlation > max(0.1, 1.2 * lower.correlation):
        yield Finding(
            "faces not aligned",
            0.9,
            f"speech moves the upper half of the crop more than the lower (correlation "
            f"{upper.correlation:.2f} against {lower.correlation:.2f}), but the expert sees only the lower",
            "the mouth must lie in the lower half: correct the face boxes or the pads and preprocess again",
        )


def _frame_rate(data: DataMeasurements, speech: SpeechMeasurements) -> Iterator[Finding]:
    if speech.fps == TRAINING_FPS:
        yield from _lengths(data)
        return
    other, this = speech.rates[speech.fps], speech.rates[TRAINING_FPS]
    yield Finding(
        "wrong fps",
        1.0 - 0.5 * max(0.0, this.correlation) / other.correlation,
        f"lips follow speech better when the pictures are taken to be {speech.fps} fps than {TRAINING_FPS} "
        f"(correlation {other.correlation:.2f} against {this.correlation:.2f}); the pictures last "
        f"{data.stretch[1]:.2f} times as long as the sound",
        f"training needs {TRAINING_FPS} fps: run preprocess.py on the source videos, which converts by time "
        "stamps, or re-encode them to their true rate first",
    )


def _lengths(data: DataMeasurements) -> Iterator[Finding]:
    """Where the rate cannot be read from the lips, pictures that outlast the sound still tell."""
    low, middle, high = data.stretch
    if low > 1.08 or (high < 0.97 and high - low < 0.02):
        yield Finding(
            "wrong fps",
            0.7,
            f"at {TRAINING_FPS} fps the pictures of a clip last {middle:.2f} times as long as its sound, as "
            f"if they were {TRAINING_FPS * middle:.1f} fps",
            "run preprocess.py on the source videos, which converts to 25 fps by time stamps",
        )


def _offsets(speech: SpeechMeasurements) -> Iterator[Finding]:
    offsets = speech.offsets
    confident, astray = int(offsets.confident.sum()), int(offsets.astray.sum())
    if offsets.t > 4 and astray >= max(3, _ASTRAY * confident):
        yield Finding(
            "audio offset",
            min(1.0, 0.5 + astray / confident),
            f"the sound of {astray} of {confident} clips lies {FAR} frames or more from the others; clips by "
            f"frames the sound is late: {histogram(offsets)}",
            "repair each clip: train with callbacks=offset_repair, or preprocess again with the sync check; "
            "leave out clips that cannot be repaired",
        )
        return
    at = speech.rates[speech.fps]
    # Of a wrong rate, a lag is only what is left of the drift.
    near = float(at.curve[np.abs(LAGS) <= 1].max())
    if speech.fps == TRAINING_FPS and at.certain and abs(at.lag) >= FAR and at.correlation > 1.1 * near:
        beyond = " or more" if abs(at.lag) == MAX_LAG else ""
        yield Finding(
            "audio offset",
            min(1.0, 0.5 + abs(at.lag) / (2 * MAX_LAG)),
            f"the sound of all clips is {abs(at.lag)} frames{beyond} {'late' if at.lag > 0 else 'early'} "
            f"(correlation {at.correlation:.2f} there, {at.curve[LAGS == 0].item():.2f} at 0); clips by "
            f"frames the sound is late: {histogram(offsets)}",
            f"move the sound of every clip by {-at.lag:+d} frames of 40 ms, or give data.offsets a table "
            f"with {at.lag} for each clip",
        )


def _unrelated(speech: SpeechMeasurements) -> Iterator[Finding]:
    if not speech.related:
        at = speech.rates[TRAINING_FPS]
        yield Finding(
            "speech unrelated",
            0.5,
            f"a linear model finds no lag within {MAX_LAG} frames at which lips follow speech (best "
            f"correlation {at.correlation:.3f}, t {at.t:.1f})",
            "look at a few clips: dubbed sound, a voice off screen, the wrong face of several, sound of "
            "another clip, or offsets beyond 0.6 s; a very mixed corpus can be sound all the same",
        )
