"""All measurements of a corpus in one object, and what they say.

Example::

    measurements = inspect_clips(load_clips(Path("data/preprocessed"), "train"))
    for finding in data_findings(measurements):
        print(finding.cause, finding.evidence, finding.advice)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipsync.audio.spec import TRAINING_FPS
from lipsync.data.base_clip import BaseClip
from lipsync.data.inspection.faces import FaceMeasurements, measure_faces
from lipsync.data.inspection.lag_table import LAGS, face_movement, lag_table
from lipsync.data.inspection.offsets import (
    OTHER_RATES,
    ClipOffsets,
    Relation,
    clip_offsets,
    gain,
    relation,
)
from lipsync.data.inspection.sample import ClipSample, draw_sample
from lipsync.data.inspection.sound import SoundMeasurements, has_speech, measure_sound

MIN_CLIPS = 6
"""Fewer clips with speech teach a regression nothing; lags are not measured then."""


@dataclass(frozen=True)
class SpeechMeasurements:
    """How lip movement and speech of the clips lie to one another."""

    names: list[str]
    """Clips with speech."""
    rates: dict[int, Relation]
    """By the frame rate the pictures are taken to have."""
    upper: Relation
    """Of the upper half of the crop, where speech should move nothing."""
    offsets: ClipOffsets
    """Of single clips, at ``fps``."""

    @property
    def fps(self) -> int:
        """The rate at which lips follow speech clearly better than at 25; else 25."""
        this = self.rates[TRAINING_FPS]
        better = {
            rate: other.correlation
            for rate, other in self.rates.items()
            if other.certain and gain(other, this) > 4 and other.correlation > 1.15 * this.correlation
        }
        return max(better, key=lambda rate: better[rate]) if better else TRAINING_FPS

    @property
    def related(self) -> bool:
        """Whether lips follow speech at all, at one lag or each clip at its own."""
        return self.rates[self.fps].certain or self.offsets.t > 4


@dataclass(frozen=True)
class DataMeasurements:
    """What :func:`inspect_clips` found."""

    clips: int
    """In the corpus."""
    sampled: int
    """Of those, looked at."""
    stretch: tuple[float, float, float]
    """Duration of the pictures at 25 fps over that of the sound: quartiles."""
    faces: FaceMeasurements | None
    """None without a sample."""
    sound: SoundMeasurements | None
    """None without a sample."""
    speech: SpeechMeasurements | None
    """None where too few clips have speech."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the offsets as a histogram over lags, and clip by clip."""
        plain: dict[str, Any] = {"clips": self.clips, "sampled": self.sampled}
        plain["pictures_per_sound"] = [round(value, 4) for value in self.stretch]
        for name, part in (("faces", self.faces), ("sound", self.sound)):
            plain[name] = _rounded(vars(part)) if part is not None else None
        plain["speech"] = _speech_dict(self.speech) if self.speech is not None else None
        return plain


def inspect_clips(
    clips: Sequence[BaseClip],
    *,
    count: int = 40,
    max_frames: int = 75,
    size: int = 96,
    offsets: Mapping[str, int | None] | None = None,
    seed: int = 0,
) -> DataMeasurements:
    """Measure a corpus on a sample: about five seconds on one core for 40 clips of 3 s.

    Args:
        clips: Preprocessed clips.
        count: Clips to look at, at most.
        max_frames: Consecutive pictures of each.
        size: Side at which the clips deliver their pictures.
        offsets: The data set's table of moved and dropped clips.
        seed: Chooses the clips.
    """
    samples = draw_sample(clips, count=count, max_frames=max_frames, size=size, offsets=offsets, seed=seed)
    if not samples:
        return DataMeasurements(len(clips), 0, (1.0, 1.0, 1.0), None, None, None)
    low, middle, high = np.percentile([sample.stretch for sample in samples], (25, 50, 75)).tolist()
    spoken = [sample for sample in samples if has_speech(sample)]
    return DataMeasurements(
        clips=len(clips),
        sampled=len(samples),
        stretch=(low, middle, high),
        faces=measure_faces(samples),
        sound=measure_sound(samples),
        speech=_measure_speech(spoken) if len(spoken) >= MIN_CLIPS else None,
    )


def _measure_speech(samples: Sequence[ClipSample]) -> SpeechMeasurements:
    movement = face_movement(samples)
    rates = {rate: relation(lag_table(movement, samples, rate)) for rate in (TRAINING_FPS, *OTHER_RATES)}
    upper = relation(lag_table(face_movement(samples, upper=True), samples))
    names = [sample.name for sample in samples]
    first = SpeechMeasurements(names, rates, upper, clip_offsets(movement, samples))
    if first.fps == TRAINING_FPS:
        return first
    return SpeechMeasurements(names, rates, upper, clip_offsets(movement, samples, first.fps))


def _speech_dict(speech: SpeechMeasurements) -> dict[str, Any]:
    offsets = speech.offsets
    counts = np.bincount(offsets.lags[offsets.confident] + LAGS[-1], minlength=len(LAGS))
    return {
        "clips": len(speech.names),
        "fps": speech.fps,
        "lags": LAGS.tolist(),
        "rates": {
            str(rate): _rounded({"lag": at.lag, "correlation": at.correlation, "t": at.t, "curve": at.curve})
            for rate, at in speech.rates.items()
        },
        "upper_half": _rounded({"correlation": speech.upper.correlation, "t": speech.upper.t}),
        "offset_histogram": {str(lag): int(n) for lag, n in zip(LAGS.tolist(), counts, strict=True)},
        "common_offset": offsets.common,
        "confident_clips": int(offsets.confident.sum()),
        "astray_clips": int(offsets.astray.sum()),
        "offset_t": round(offsets.t, 2),
        "chance_peak": round(offsets.chance_peak, 4),
        "clip_offsets": {
            name: {"offset": int(lag), "correlation": round(float(peak), 4), "confident": bool(sure)}
            for name, lag, peak, sure in zip(
                speech.names, offsets.lags, offsets.peaks, offsets.confident, strict=True
            )
        },
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: np.round(value, 4).tolist() for key, value in values.items()}
