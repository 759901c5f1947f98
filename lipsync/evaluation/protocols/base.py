"""What every sync protocol offers."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

from lipsync.audio.spec import TRAINING_FPS
from lipsync.evaluation.segments import Segment
from lipsync.metrics.judges import Judge
from lipsync.types import Waveform

FPS = Fraction(TRAINING_FPS)

DROPPED_WINDOW = "As in the reference, one window fewer is used than the frames allow."
PER_TRACK = (
    "A video's score is the mean over its face tracks; its offset is that of the most confident track."
)


class EvaluationProtocol(Protocol):
    """Turns a video into segments for a judge."""

    name: str
    always_detects: bool
    """Whether faces are looked for with any judge; otherwise only for judges with ``view == "face"``."""
    drops_last_window: bool
    """Whether judges of kind ``lse`` are denied the last window, as in the reference."""
    padding: float | None
    """What stands beyond the ends of the sound; None: what the judge says."""
    least_pairs: int
    """Pairs of picture and sound that must stand behind every shift; 0: no such rule."""
    pooling: Literal["mean", "best"]
    """A video's score: the mean over its tracks, or that of the most confident one."""

    def describe(self, judge: Judge) -> str:
        """What was done, in plain words, for the report."""
        ...

    def load_sound(self, path: Path, judge: Judge) -> Waveform:
        """The sound of a file as this protocol hears it, ``(N,)`` at 16 kHz; sample 0 goes with frame 0.

        Raises:
            MediaError: The file has no readable sound.
        """
        ...

    def segments(self, path: Path, judge: Judge, limit: int | None = None) -> Iterator[Segment]:
        """Segments of the video; the frames of one must be consumed before the next is asked for.

        Args:
            path: Any container PyAV reads.
            judge: Says which crops it wants.
            limit: Frames beyond this one are not handed out: no sound goes with them.
        """
        ...

    def notes(self, path: Path, judge: Judge) -> tuple[str, ...]:
        """What the reader of this video's score by that judge must know."""
        ...

    def nothing_found(self) -> str:
        """Why a video gave no segment."""
        ...
