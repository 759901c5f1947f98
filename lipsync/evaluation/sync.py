"""Sync scores of one video: with the sound of its row, and with the sounds that probe the judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipsync.audio.spec import WAV2LIP
from lipsync.errors import UserError
from lipsync.evaluation.inputs import VideoItem, printable
from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.evaluation.results import Value
from lipsync.evaluation.scoring import ClipScore, score_sounds
from lipsync.evaluation.sounds import OWN, SHIFTED
from lipsync.metrics.judges import Judge
from lipsync.types import Waveform

KEYS = {"lse": ("lse_d", "lse_c"), "expert": ("expert_d", "expert_c")}
"""Names of distance and confidence by the kind of judge."""
_SILENT = 2.0**-15
"""Below one step of 16 bits."""
_SHORT = 0.2
"""Seconds of missing sound that are worth a note: a window of five frames."""


@dataclass(frozen=True, slots=True)
class SyncReading:
    """Sync of one video in one row."""

    values: Mapping[str, Value] = field(default_factory=dict)
    reason: str | None = None
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of :class:`lipsync.evaluation.results.VideoResult`."""


def read_sync(
    item: VideoItem,
    judge: Judge,
    protocol: EvaluationProtocol,
    sounds: Mapping[str, Waveform | UserError],
) -> dict[str, SyncReading]:
    """Readings by system: the item's own, and one for each probe (all ``shifted:<k>`` together).

    Args:
        item: What to score; its frames are read once.
        judge: Gives the scores.
        protocol: Makes the crops.
        sounds: ``own`` and the item's probes, or why a sound cannot be had.

    Raises:
        MediaError: The video cannot be read.
    """
    found: dict[str, ClipScore | UserError] = {
        name: sound for name, sound in sounds.items() if isinstance(sound, UserError)
    }
    usable = {name: sound for name, sound in sounds.items() if not isinstance(sound, UserError)}
    if usable:
        found |= score_sounds(item.path, judge, protocol, usable)
    readings = {
        item.system if name == OWN else name: _reading(score, judge.kind)
        for name, score in found.items()
        if not name.startswith(f"{SHIFTED}:")
    }
    shifts = {
        int(name.partition(":")[2]): score for name, score in found.items() if name.startswith(f"{SHIFTED}:")
    }
    if shifts:
        readings[SHIFTED] = _shift_reading(shifts)
    return readings


def _reading(score: ClipScore | UserError, kind: str) -> SyncReading:
    if isinstance(score, UserError):
        return SyncReading(reason=one_line(score))
    distance, confidence = KEYS[kind]
    return SyncReading(
        {
            distance: score.distance,
            confidence: score.confidence,
            "offset": score.offset,
            "n_tracks": len(score.tracks),
            "n_tracks_skipped": len(score.skipped),
            "n_windows": score.windows,
        },
        notes=(*score.notes, *map(printable, score.skipped)),
        details={"confidence": score.best.curve, "confidence_start": score.best.curve_start},
    )


def _shift_reading(shifts: Mapping[int, ClipScore | UserError]) -> SyncReading:
    """Share of known shifts by which the offset moves; a shift without a score does not count."""
    offsets = {k: score.offset for k, score in sorted(shifts.items()) if isinstance(score, ClipScore)}
    if 0 not in offsets or len(offsets) < 2:
        return SyncReading(reason=next(one_line(e) for e in shifts.values() if isinstance(e, UserError)))
    # The clip itself may be a frame off; what is known is by how much it was moved.
    misses = [abs(offset - offsets[0] - shift) for shift, offset in offsets.items() if shift]
    return SyncReading(
        {
            "shift_exact": sum(miss == 0 for miss in misses) / len(misses),
            "shift_within_1": sum(miss <= 1 for miss in misses) / len(misses),
            "n_shifts": len(misses),
        },
        details={"offsets": {str(shift): offset for shift, offset in offsets.items()}},
    )


def sound_notes(waveform: Waveform, seconds: float) -> tuple[str, ...]:
    """What the reader must know of a video's own sound.

    Args:
        waveform: ``(N,)`` at 16 kHz in [-1, 1].
        seconds: The video lasts; 0 if that is unknown.
    """
    found = []
    if float(np.abs(waveform).max(initial=0.0)) < _SILENT:
        found.append("the sound is digital silence, so sync scores mean nothing")
    missing = seconds - waveform.size / WAV2LIP.sample_rate
    if missing > _SHORT:
        found.append(f"the sound ends {missing:.1f} s before the picture; sync is scored up to there")
    return tuple(found)


def one_line(error: UserError) -> str:
    """The reason of a missing score, as reports show it."""
    return printable(" ".join(str(error).split()))
