"""What a measured value is called, in which unit, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Family: TypeAlias = Literal["sync", "image", "identity", "landmarks", "file"]
"""Values that are had or missing together: a video has one reason for each family it lacks."""

Region: TypeAlias = Literal["frame", "face", "mouth"]
"""Part of the picture a value was measured on; see :mod:`lipsync.evaluation.regions`."""


@dataclass(frozen=True, slots=True)
class Column:
    """One value of a video, or of a system."""

    key: str
    """Name in scores.csv and summary.json."""
    label: str
    """Name in tables for reading, without unit and arrow."""
    family: Family
    better: Literal["lower", "higher", ""] = ""
    """Empty where neither is better, such as for counts."""
    unit: str = ""
    digits: int = 3
    about: str = ""
    """What exactly was computed, in one or two sentences, for the report."""
    per_video: bool = True
    """False for values that only a set of videos has, such as FID."""
    judged: bool = False
    """Whether the judge gave it: not to be ranked by where the judge trained the generator."""

    @property
    def title(self) -> str:
        """Label with unit and arrow."""
        arrow = {"lower": " ↓", "higher": " ↑", "": ""}[self.better]
        return f"{self.label}{f' ({self.unit})' if self.unit else ''}{arrow}"


SYNC = (
    Column(
        "lse_d", "LSE-D", "sync", "lower", judged=True, about="Mean distance of SyncNet v2 at the best shift."
    ),
    Column(
        "lse_c",
        "LSE-C",
        "sync",
        "higher",
        judged=True,
        about="Median minus minimum of the distance over shifts.",
    ),
    Column(
        *("expert_d", "expert distance", "sync", "lower"),
        judged=True,
        about="As LSE-D, by a SyncNet expert on unit vectors; not LSE.",
    ),
    Column(
        *("expert_c", "expert confidence", "sync", "higher"),
        judged=True,
        about="As LSE-C, by a SyncNet expert on unit vectors; not LSE.",
    ),
    Column(
        *("offset", "offset", "sync"),
        unit="frames of 40 ms",
        digits=2,
        judged=True,
        about="Frames by which the sound would have to be delayed to fit; 0 in sync. LSE cannot see it.",
    ),
    Column(
        *("offset_within_1", "|offset| ≤ 1", "sync", "higher"),
        judged=True,
        per_video=False,
        about="Share of the scored videos whose offset is at most one frame.",
    ),
    Column(
        *("shift_exact", "known shift found exactly", "sync", "higher"),
        judged=True,
        about="Share of known shifts of the sound by which the measured offset moves, to the frame.",
    ),
    Column(
        *("shift_within_1", "known shift found within 1", "sync", "higher"),
        judged=True,
        about="Share of known shifts of the sound by which the measured offset moves, within one frame.",
    ),
    Column("n_shifts", "shifts tried", "sync", digits=0),
    Column("n_tracks", "tracks", "sync", digits=0),
    Column("n_tracks_skipped", "tracks skipped", "sync", digits=0),
    Column("n_windows", "windows", "sync", digits=0),
)

FILE = (
    Column("fps", "fps", "file"),
    Column("width", "width", "file", digits=0),
    Column("height", "height", "file", digits=0),
    Column("n_frames", "frames", "file", digits=0),
    Column("duration", "duration", "file", unit="s", digits=2),
)
