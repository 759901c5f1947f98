"""From results to the numbers of a report: rows for the table, aggregates for ``summary.json``."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.evaluation.runner import VideoResult
from lipsync.metrics.functional import SyncScore
from lipsync.metrics.judges import Judge
from lipsync.metrics.lse import LSE

Row = dict[str, str | int | float | None]

PACKAGES = (
    "lipsync",
    "torch",
    "torchmetrics",
    "numpy",
    "opencv-python-headless",
    "av",
    "scenedetect-headless",
)
SYNC_KEYS = {"lse": ("lse_d", "lse_c"), "expert": ("expert_d", "expert_c")}


@dataclass(frozen=True)
class Evaluation:
    """A finished run."""

    results: Sequence[VideoResult]
    judge: Judge | None
    protocol: EvaluationProtocol
    notes: Sequence[str] = field(default_factory=tuple)
    """What the reader must know, such as why sync scores are missing."""

    @property
    def kind(self) -> str | None:
        """``lse`` or ``expert``; None without a judge."""
        return self.judge.kind if self.judge else None

    @property
    def anything_scored(self) -> bool:
        """Whether at least one video has at least one score."""
        return any(result.sync or result.image for result in self.results)


def rows(evaluation: Evaluation) -> list[Row]:
    """One row a video, with the same columns for every judge; what does not apply is None."""
    return [_row(result, evaluation.kind) for result in evaluation.results]


def _row(result: VideoResult, kind: str | None) -> Row:
    info, sync, image = result.info, result.sync, result.image
    row: Row = {
        "name": result.item.name,
        "status": "not scored" if result.reason else "scored",
        "reason": result.reason,
        "lse_d": None,
        "lse_c": None,
        "expert_d": None,
        "expert_c": None,
        "offset": sync.offset if sync else None,
        "out_of_sync": int(abs(sync.offset) > 1) if sync else None,
        "n_tracks": len(sync.tracks) if sync else None,
        "n_tracks_skipped": len(sync.skipped) if sync else None,
        "n_windows": sync.windows if sync else None,
        "psnr": image.psnr if image else None,
        "ssim": image.ssim if image else None,
        "n_frames_compared": image.frames if image else None,
        "n_frames_identical": image.identical_frames if image else None,
        "n_frames_reference": image.reference_frames if image else None,
        "image_reason": result.image_reason,
        "fps": float(info.fps) if info else None,
        "width": info.width if info else None,
        "height": info.height if info else None,
        "n_frames": info.frame_count if info else None,
        "duration": info.duration if info else None,
    }
    if sync and kind:
        distance, confidence = SYNC_KEYS[kind]
        row[distance], row[confidence] = sync.distance, sync.confidence
    return row


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Aggregates over the videos; means run over the videos that have the score, each weighing the same."""
    results = evaluation.results
    judge = evaluation.judge
    failed = [result for result in results if result.reason]
    return {
        **_sync_part(evaluation),
        **_image_part(results),
        "n_videos": len(results),
        "n_failed": len(failed),
        "failures": [{"name": result.item.name, "reason": result.reason} for result in failed],
        "protocol": evaluation.protocol.name,
        "protocol_description": evaluation.protocol.describe(judge) if judge else None,
        "judge": {"name": judge.name, "kind": judge.kind, "sha256": judge.sha256} if judge else None,
        "notes": list(evaluation.notes),
        "versions": versions(),
    }


def _sync_part(evaluation: Evaluation) -> dict[str, Any]:
    scores = [result.sync for result in evaluation.results if result.sync]
    part: dict[str, Any] = dict.fromkeys(
        ("lse_d", "lse_c", "expert_d", "expert_c", "offset", "offset_within_1")
    )
    part |= {"n_scored": len(scores), "offset_histogram": {}, "out_of_sync": []}
    if not scores or evaluation.kind is None:
        return part
    metric = LSE()
    for score in scores:
        metric.update(SyncScore(score.distance, score.confidence, score.offset))
    means = {key: float(value) for key, value in metric.compute().items()}
    distance, confidence = SYNC_KEYS[evaluation.kind]
    counts = Counter(score.offset for score in scores)
    return part | {
        distance: means["lse_d"],
        confidence: means["lse_c"],
        "offset": means["offset"],
        "offset_within_1": means["offset_within_1"],
        "offset_histogram": {str(offset): counts[offset] for offset in sorted(counts)},
        "out_of_sync": [
            result.item.name for result in evaluation.results if result.sync and abs(result.sync.offset) > 1
        ],
    }


def _image_part(results: Sequence[VideoResult]) -> dict[str, Any]:
    images = [result.image for result in results if result.image]
    finite = [image.psnr for image in images if math.isfinite(image.psnr)]
    return {
        "psnr": float(np.mean(finite)) if finite else None,
        "ssim": float(np.mean([image.ssim for image in images])) if images else None,
        "n_with_reference": len(images),
        "image_failures": [
            {"name": result.item.name, "reason": result.image_reason}
            for result in results
            if result.image_reason
        ],
        "n_identical_to_reference": len(images) - len(finite),
        "n_frames_compared": sum(image.frames for image in images),
        "lengths_differ": [
            result.item.name
            for result in results
            if result.image and result.image.video_frames != result.image.reference_frames
        ],
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
