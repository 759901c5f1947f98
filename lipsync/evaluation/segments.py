"""What a protocol hands to a judge: a stretch of crops of one face, and where its sound lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lipsync.audio.spec import SAMPLES_PER_FRAME
from lipsync.types import Image, Waveform


@dataclass(frozen=True)
class Segment:
    """Consecutive crops of one face; consume ``frames`` before asking the protocol for the next segment."""

    start: int
    """Index of the first frame in the frames the protocol reads; frame i goes with the sound from
    ``i * 40`` ms on."""
    frames: Iterable[Image]
    """Crops, ``(S, S, 3)`` uint8 BGR with the judge's ``size`` S."""
    stop: int | None = None
    """Index after the last frame whose sound counts; None: the sound may go on after the last frame."""

    def sound(self, waveform: Waveform) -> Waveform:
        """The part of a sound that goes with this stretch, from the first frame on.

        Args:
            waveform: ``(N,)`` at 16 kHz; sample 0 goes with frame 0 of the protocol.
        """
        stop = None if self.stop is None else self.stop * SAMPLES_PER_FRAME
        return waveform[self.start * SAMPLES_PER_FRAME : stop]
