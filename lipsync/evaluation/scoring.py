"""Score one clip against its own sound or any others.

The sound may be given apart from the video, which is how a clip is scored against its own speech shifted, or
against silence; all sounds share one pass over the frames::

    score_clip("a.mp4", judge, LrsProtocol())                                     # with its own sound
    score_sounds("a.mp4", judge, LrsProtocol(), {"late": np.roll(speech, 3 * 640), "quiet": 0 * speech})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from lipsync.audio.spec import SAMPLES_PER_FRAME, SYNC_FRAMES
from lipsync.errors import NotScorableError
from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.evaluation.segments import Segment
from lipsync.metrics.functional import SyncScore, framewise_confidence, score_distances
from lipsync.metrics.judges import Judge
from lipsync.metrics.stretches import stretch_distances
from lipsync.types import Waveform


@dataclass(frozen=True, slots=True)
class TrackScore:
    """Sync of one stretch of one face."""

    start: int
    """First frame, counted in the frames the protocol reads."""
    windows: int
    score: SyncScore
    curve: tuple[float, ...] = ()
    """Frame-wise confidence, one value a window."""
    curve_start: int = 0
    """Frame that ``curve`` begins with: later than ``start`` where the best shift has no sound at first."""


@dataclass(frozen=True, slots=True)
class ClipScore:
    """Sync of a clip: by ``pooling`` the means over its tracks, or its most confident track."""

    tracks: tuple[TrackScore, ...]
    """In order of time; at least one."""
    skipped: tuple[str, ...] = ()
    """Why stretches that were found have no score."""
    pooling: Literal["mean", "best"] = "mean"
    notes: tuple[str, ...] = ()
    """What the reader of the numbers must know."""

    @property
    def best(self) -> TrackScore:
        """The most confident track, the one that speaks."""
        return max(self.tracks, key=lambda track: track.score.confidence)

    @property
    def distance(self) -> float:
        """Distance of the best track, or the mean over the tracks."""
        return float(np.mean([track.score.distance for track in self._counted]))

    @property
    def confidence(self) -> float:
        """Confidence of the best track, or the mean over the tracks."""
        return float(np.mean([track.score.confidence for track in self._counted]))

    @property
    def offset(self) -> int:
        """Offset in frames of the most confident track."""
        return self.best.score.offset

    @property
    def windows(self) -> int:
        """Windows behind distance and confidence."""
        return sum(track.windows for track in self._counted)

    @property
    def _counted(self) -> tuple[TrackScore, ...]:
        return self.tracks if self.pooling == "mean" else (self.best,)


def score_clip(
    video_path: Path | str,
    judge: Judge,
    protocol: EvaluationProtocol,
    waveform: Waveform | None = None,
) -> ClipScore:
    """Score a video file.

    Args:
        video_path: Any container PyAV reads.
        judge: Embeds crops and sound.
        protocol: Chooses the crops.
        waveform: Sound to score against, ``(N,)`` float32 at 16 kHz starting with the first frame; None
            takes the file's own, as the protocol hears it.

    Raises:
        MediaError: The file has no readable video or sound.
        NotScorableError: No face track, or clip too short; the message says which.
    """
    path = Path(video_path)
    sound = protocol.load_sound(path, judge) if waveform is None else waveform
    score = score_sounds(path, judge, protocol, {"": sound})[""]
    if isinstance(score, NotScorableError):
        raise score
    return score


def score_sounds(
    path: Path | str, judge: Judge, protocol: EvaluationProtocol, sounds: Mapping[str, Waveform]
) -> dict[str, ClipScore | NotScorableError]:
    """Score the frames of a video against several sounds, in one pass over the frames.

    Frames beyond the end of the longest sound are not embedded.

    Args:
        path: Any container PyAV reads.
        judge: Embeds every stretch once, and what the sounds have in common.
        protocol: Chooses the crops.
        sounds: ``(N,)`` float32 at 16 kHz starting with the first frame; a file's own sound comes from
            ``protocol.load_sound``.

    Returns:
        For each sound its score, or why there is none.

    Raises:
        MediaError: The file has no readable video.
        CheckpointError: The judge's features are not finite.
    """
    path = Path(path)
    longest = max((len(sound) for sound in sounds.values()), default=0)
    tracks: dict[str, list[TrackScore]] = {name: [] for name in sounds}
    skipped: dict[str, list[str]] = {name: [] for name in sounds}
    for segment in protocol.segments(path, judge, -(-longest // SAMPLES_PER_FRAME)):
        for name, found in zip(sounds, _scores(segment, judge, protocol, sounds.values()), strict=True):
            if isinstance(found, NotScorableError):
                skipped[name].append(f"stretch at frame {segment.start}: {found}")
            else:
                tracks[name].append(found)
    notes = protocol.notes(path, judge)
    return {name: _clip(tracks[name], skipped[name], protocol, notes) for name in sounds}


def _scores(
    segment: Segment, judge: Judge, protocol: EvaluationProtocol, sounds: Iterable[Waveform]
) -> list[TrackScore | NotScorableError]:
    """The score of one stretch against every sound, or the reason why there is none."""
    heard = [segment.sound(sound) for sound in sounds]
    drop = 1 if protocol.drops_last_window and judge.kind == "lse" else 0
    try:
        compared = stretch_distances(judge, segment.frames, heard, padding=protocol.padding, drop=drop)
    except NotScorableError as error:
        return [error] * len(heard)
    needed = max(1, protocol.least_pairs and judge.vshift + protocol.least_pairs)
    return [
        item if isinstance(item, NotScorableError) else _score(item, segment.start, needed)
        for item in compared
    ]


def _score(distances: Tensor, start: int, needed: int) -> TrackScore | NotScorableError:
    """The score of one stretch against one sound, or the reason why there is none."""
    rows = len(distances)
    if rows < needed:
        return NotScorableError(
            f"picture and sound last {rows + SYNC_FRAMES - 1} frames together, at least "
            f"{needed + SYNC_FRAMES - 1} are needed"
        )
    score = score_distances(distances)
    first, curve = _curve(distances)
    return TrackScore(start, rows, score, curve, start + first)


def _curve(distances: Tensor) -> tuple[int, tuple[float, ...]]:
    """Frame-wise confidence at the best shift, and its first row: rows without a pair there are left out."""
    curve = framewise_confidence(distances)
    (known,) = np.nonzero(np.isfinite(curve))
    return int(known[0]), tuple(curve[known[0] : known[-1] + 1].tolist())


def _clip(
    tracks: list[TrackScore], skipped: list[str], protocol: EvaluationProtocol, notes: tuple[str, ...]
) -> ClipScore | NotScorableError:
    if not tracks:
        return NotScorableError("; ".join(skipped) if skipped else protocol.nothing_found())
    ordered = tuple(sorted(tracks, key=lambda track: track.start))
    return ClipScore(ordered, tuple(skipped), protocol.pooling, notes)
