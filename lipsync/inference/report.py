"""What a run did, counted while its frames stream by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from lipsync.inference.timing import StageTime
from lipsync.types import Composite, FaceFrame


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did."""

    outfile: Path
    fps: Fraction
    frames: int
    """Written."""
    with_face: int
    """Source frames with a face in them."""
    without_face: int
    """Source frames in which no face was found: passed through, or left out (``no_face="trim"``)."""
    repainted: int
    """Source frames whose mouth was painted; fewer than ``with_face`` where silence or the end of the sound
    left it as it was."""
    trimmed: bool
    """Whether frames without a face, and their sound, were left out."""
    damaged_packets: int
    """Packets of the video that could not be decoded, or only by guesses."""
    missing_frames: int
    """Frames that the file promises and does not hold."""
    damaged_sound: int
    """Packets of the sound that could not be decoded: silence stands in their place."""
    missing_sound: float
    """Seconds of sound that the file promises and does not hold."""
    seconds: float
    """Wall time."""
    stages: Sequence[StageTime] = ()
    """Where it went."""
    notes: Sequence[str] = ()
    """What else the user should know, a line each."""

    @property
    def summary(self) -> str:
        """One line for the user."""
        parts = [f"{self.frames} frames at {float(self.fps):.6g} fps"]
        if self.without_face:
            fate = "left out, with their sound" if self.trimmed else "left as they are"
            parts.append(f"{self.without_face} without a face {fate}")
        if (unpainted := self.with_face - self.repainted) > 0:
            parts.append(f"{unpainted} with the mouth of the source")
        if self.damaged_packets:
            parts.append(f"{self.damaged_packets} damaged packets in the video")
        if self.damaged_sound:
            parts.append(f"{self.damaged_sound} damaged packets of the sound left silent")
        if self.missing_sound:
            parts.append(f"the sound ends {self.missing_sound:.1f} s early")
        if self.missing_frames:
            parts.append(f"the video ends {self.missing_frames} frames early")
        rate = self.frames / self.seconds
        return f"{self.outfile}: {', '.join(parts)}; {self.seconds:.1f} s ({rate:.1f} frames/s)"


@dataclass(slots=True)
class Tally:
    """Counts frames as they pass."""

    with_face: int = 0
    without_face: int = 0
    repainted: int = 0

    def faces(self, items: Iterable[FaceFrame]) -> Iterator[FaceFrame]:
        """The same items, counted by whether they have a face."""
        for item in items:
            if item.face is None:
                self.without_face += 1
            else:
                self.with_face += 1
            yield item

    def composites(self, items: Iterable[Composite]) -> Iterator[Composite]:
        """The same items; those whose picture changed are counted."""
        for item in items:
            self.repainted += item.frame.image is not item.source
            yield item
