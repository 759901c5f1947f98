"""Score every video of a list: one result each, with a score or with the reason why there is none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from lipsync.errors import DataError, MediaError, NoFaceError, NotScorableError
from lipsync.evaluation.images import ImageScore, compare_videos
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.evaluation.scoring import ClipScore, score_clip
from lipsync.media.probe import probe
from lipsync.metrics.judges import Judge
from lipsync.types import VideoInfo

T = TypeVar("T")

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""``(step, completed, total)``."""

PER_VIDEO = (MediaError, NoFaceError, DataError, NotScorableError)
"""What is wrong with one video; anything else ends the run."""


@dataclass(frozen=True, slots=True)
class VideoResult:
    """One row of the report."""

    item: VideoItem
    info: VideoInfo | None
    """None when the file cannot be read."""
    sync: ClipScore | None
    sync_reason: str | None
    """Why ``sync`` is None; None also when no judge was asked for."""
    image: ImageScore | None
    image_reason: str | None
    """Why ``image`` is None; None also when no references were asked for."""

    @property
    def reason(self) -> str | None:
        """Why the video counts as failed; None for a scored one.

        With a judge, a video without a sync score; without one, a video without a comparison.
        """
        if self.sync is not None:
            return None
        return self.sync_reason or (self.image_reason if self.image is None else None)


def evaluate_videos(
    items: Sequence[VideoItem],
    judge: Judge | None,
    protocol: EvaluationProtocol,
    *,
    with_references: bool = False,
    progress: Progress | None = None,
) -> list[VideoResult]:
    """Score all videos, in order.

    Args:
        items: What to score; see :mod:`lipsync.evaluation.inputs`.
        judge: None leaves the sync scores out.
        protocol: How crops are made.
        with_references: Compare frames with ``item.reference``; an item without one gets a reason.
        progress: Told after every video.
    """
    results = []
    for item in items:
        results.append(_evaluate(item, judge, protocol, with_references))
        if progress is not None:
            progress("evaluate", len(results), len(items))
    return results


def _evaluate(
    item: VideoItem, judge: Judge | None, protocol: EvaluationProtocol, with_references: bool
) -> VideoResult:
    info, unreadable = _try(lambda: probe(item.path))
    sync = image = None
    sync_reason = image_reason = unreadable
    if judge is None:
        sync_reason = None
    elif unreadable is None:
        sync, sync_reason = _try(lambda: score_clip(item.path, judge, protocol))
    if not with_references:
        image_reason = None
    elif unreadable is None:
        image, image_reason = _try(lambda: _compare(item))
    return VideoResult(item, info, sync, sync_reason, image, image_reason)


def _compare(item: VideoItem) -> ImageScore:
    if item.reference is None:
        raise NotScorableError("no reference of this name")
    return compare_videos(item.path, item.reference)


def _try(compute: Callable[[], T]) -> tuple[T | None, str | None]:
    """A result, or the reason why this video has none; the reason is listed, never turned into a score."""
    try:
        return compute(), None
    except PER_VIDEO as error:
        return None, " ".join(str(error).split())


def check_output(folder: Path) -> None:
    """Create the output folder before anything is computed.

    Raises:
        DataError: It cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); give output=DIR"
        ) from error
