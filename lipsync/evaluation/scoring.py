"""Score one clip, or any frames against any sound.

The sound may be given apart from the video, which is how a clip is scored against its own speech shifted, or
against silence::

    score_clip("a.mp4", judge, LrsProtocol())                                     # with its own sound
    score_clip("a.mp4", judge, LrsProtocol(), waveform=np.roll(speech, 3 * 640))  # 3 frames late
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipsync.audio.spec import WAV2LIP
from lipsync.errors import CheckpointError, NotScorableError
from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.media.waveform import load_waveform
from lipsync.metrics.functional import SyncScore, score_distances, sync_distances
from lipsync.metrics.judges import Judge
from lipsync.types import Image, Waveform


@dataclass(frozen=True, slots=True)
class TrackScore:
    """Sync of one stretch of one face."""

    start: int
    """First frame, counted in the frames the protocol reads."""
    windows: int
    score: SyncScore


@dataclass(frozen=True, slots=True)
class ClipScore:
    """Sync of a clip: means over its tracks, as the reference's users average them."""

    tracks: tuple[TrackScore, ...]
    """In order of time; at least one."""
    skipped: tuple[str, ...] = ()
    """Why stretches that were found have no score."""

    @property
    def distance(self) -> float:
        """Mean distance over the tracks."""
        return float(np.mean([track.score.distance for track in self.tracks]))

    @property
    def confidence(self) -> float:
        """Mean confidence over the tracks."""
        return float(np.mean([track.score.confidence for track in self.tracks]))

    @property
    def offset(self) -> int:
        """Offset in frames of the most confident track, the one that speaks."""
        return max(self.tracks, key=lambda track: track.score.confidence).score.offset

    @property
    def windows(self) -> int:
        """Windows compared, over all tracks."""
        return sum(track.windows for track in self.tracks)


def score_frames(frames: Iterable[Image], waveform: Waveform, judge: Judge) -> tuple[SyncScore, int]:
    """Score crops against sound.

    Args:
        frames: ``(S, S, 3)`` uint8 BGR crops as the judge wants them, consumed once.
        waveform: ``(N,)`` float32 at 16 kHz; sample 0 belongs to the first frame.
        judge: Embeds both.

    Returns:
        The score and the number of windows behind it.

    Raises:
        NotScorableError: Too few frames or too little sound.
        CheckpointError: The judge's features are not finite.
    """
    video, audio = judge.features(frames, waveform)
    if not (video.isfinite().all() and audio.isfinite().all()):
        raise CheckpointError(f"judge {judge.name}: its features are not finite; the weights are damaged")
    distances = sync_distances(video, audio, judge.vshift, padding=judge.padding)
    return score_distances(distances), len(distances)


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
            takes the file's own.

    Raises:
        MediaError: The file has no readable video or sound.
        NotScorableError: No face track, or clip too short; the message says which.
    """
    path = Path(video_path)
    if waveform is None:
        waveform = load_waveform(path, WAV2LIP.sample_rate)
    tracks, skipped = [], []
    for segment in protocol.segments(path, judge, waveform):
        try:
            score, windows = score_frames(segment.frames, segment.waveform, judge)
        except NotScorableError as error:
            skipped.append(f"stretch at frame {segment.start}: {error}")
        else:
            tracks.append(TrackScore(segment.start, windows, score))
    if not tracks:
        raise NotScorableError("; ".join(skipped) if skipped else protocol.nothing_found())
    return ClipScore(tuple(sorted(tracks, key=lambda track: track.start)), tuple(skipped))
