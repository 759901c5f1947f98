"""What an evaluation found: videos, systems (sets of videos made in one way), and the whole run.

Everything here is plain data, so that a finished video can be kept in a journal and read back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from lipsync.evaluation.columns import Column, Family

Value: TypeAlias = float | int

COUNTS = frozenset(
    (
        *("fps", "width", "height", "n_frames", "duration"),
        *("n_frames_compared", "n_frames_identical", "n_frames_reference"),
    )
)
"""Keys of values that are had without anything being measured."""
PROPORTION = frozenset(("real", "shuffled", "shifted"))
"""Systems that only put others into proportion."""


@dataclass(frozen=True, slots=True)
class VideoResult:
    """One video of one system. A value that could not be had is missing and has a reason."""

    name: str
    path: str
    values: Mapping[str, Value]
    """By :attr:`lipsync.evaluation.columns.Column.key`."""
    reasons: Mapping[Family, str]
    """Why the values of a family are missing; a family that was not asked for has none."""
    reference: str | None = None
    confidence: Sequence[float] = ()
    """Frame-wise confidence of the most confident track, one value a frame of 40 ms."""
    confidence_start: int = 0
    """Frame (of 40 ms) that ``confidence`` begins with."""
    offsets: Mapping[str, int] = field(default_factory=dict)
    """Of a shift test: offset measured for each known shift of the sound, in frames."""
    notes: Sequence[str] = ()
    """What the reader must know of this video, such as a frame rate the protocol was not made for."""
    thumbnail: str | None = None
    """JPEG in base64."""

    @property
    def reason(self) -> str | None:
        """Why the video counts as failed: it has no sync score though one was asked for, or no value at all.

        None for a scored one.
        """
        if "sync" in self.reasons:
            return self.reasons["sync"]
        measured = set(self.values) - COUNTS
        return None if measured else next(iter(self.reasons.values()), "nothing was measured")

    def to_json(self) -> dict[str, Any]:
        """Plain values for the journal."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> VideoResult:
        """The result that :meth:`to_json` wrote.

        Raises:
            TypeError: Other keys than a result has.
        """
        return cls(**content)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class SystemResult:
    """Videos made in one way: unmodified, by a generator from their own speech, from silence ..."""

    name: str
    """Short and unique in a run: ``videos``, ``real``, ``shuffled``, ``shifted``, ``reconstruction``,
    ``cross``, ``static``, ``silence``."""
    label: str
    """For tables."""
    about: str
    """What was done to get them, for the report."""
    results: Sequence[VideoResult]
    aggregates: Mapping[str, Value] = field(default_factory=dict)
    """Values of the set: FID, FVD ... by column key."""
    notes: Sequence[str] = ()
    """Why an aggregate is missing, or how far to trust it."""


@dataclass(frozen=True, slots=True)
class JudgeInfo:
    """Who gave the sync scores."""

    name: str
    kind: Literal["lse", "expert"]
    sha256: str


@dataclass(frozen=True, slots=True)
class GeneratorInfo:
    """Who made the videos, as far as is known."""

    name: str
    sha256: str
    trained_with: Sequence[str] = ()
    """SHA-256 of the experts it was trained with."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished run."""

    systems: Sequence[SystemResult]
    """In the order of the tables; at least one."""
    main: str
    """Name of the system the run is about: its numbers stand at the top of summary.json."""
    columns: Sequence[Column]
    """All columns that may have values, in order."""
    judge: JudgeInfo | None
    protocol: str
    """Name of the sync protocol."""
    protocol_description: str | None
    generators: Sequence[GeneratorInfo] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the weights that pictures were measured with, by the name of their setting."""
    notes: Sequence[str] = ()
    """What the reader must know, such as why sync scores are missing."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Configuration that reproduces the run."""

    @property
    def main_system(self) -> SystemResult:
        """The system named ``main``."""
        return next(system for system in self.systems if system.name == self.main)

    @property
    def judge_trained_generator(self) -> bool:
        """Whether the judge's file is one a generator was trained with: its scores say nothing then."""
        used = {digest for generator in self.generators for digest in generator.trained_with}
        return self.judge is not None and self.judge.sha256 in used

    @property
    def anything_scored(self) -> bool:
        """Whether at least one video that the run is about was scored, or compared with its reference.

        What the ceiling and the probes gave does not count where there is anything else.
        """
        about = [system for system in self.systems if system.name not in PROPORTION] or self.systems
        return any(
            result.reason is None or result.values.get("n_frames_compared")
            for system in about
            for result in system.results
        )
