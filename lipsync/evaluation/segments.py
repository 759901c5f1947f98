"""What a protocol hands to a judge: a stretch of crops of one face and the sound that goes with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lipsync.types import Image, Waveform


@dataclass(frozen=True)
class Segment:
    """Consecutive crops of one face; consume ``frames`` before asking the protocol for the next segment."""

    start: int
    """Index of the first frame in the frames the protocol reads."""
    frames: Iterable[Image]
    """Crops, ``(S, S, 3)`` uint8 BGR with the judge's ``size`` S."""
    waveform: Waveform
    """Sound from the first frame on; may go on after the last."""
