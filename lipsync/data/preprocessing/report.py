"""What preprocessing did, for people and for checks: ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lipsync.data.preprocessing.records import Outcome
from lipsync.data.preprocessing.settings import Settings
from lipsync.files import write_text


@dataclass(frozen=True)
class Report:
    """Summary of one run over a data root; ``seen == kept + len(dropped)``, counted in source videos."""

    scanned: str
    """``main`` for a data root in the layout of LRS2, else ``.``; videos elsewhere were not looked at."""
    seen: int
    kept: int
    dropped: list[dict[str, str]]
    """``{"clip", "source", "reason"}`` of each source that gave no clip."""
    repaired_offsets: list[dict[str, Any]]
    """Clips whose sound was moved against the picture; empty, because no offset is repaired."""
    clips: int
    """Clip folders: a source with several face tracks has several."""
    reused: int
    """Sources found finished from an earlier run."""
    splits: dict[str, int]
    """Clips of each file list."""
    split_by: str
    """``file lists of the data`` or ``hash``."""
    unlisted: int
    """Clips that the data's own lists do not name."""
    settings: dict[str, Any]
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Per source: clips, frames, frames without face, corrupt packets, short tracks."""

    def write(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, json.dumps(asdict(self), indent=1, ensure_ascii=False))


def summarise(
    outcomes: Sequence[Outcome],
    splits: dict[str, list[str]],
    *,
    split_by: str,
    scanned: str,
    settings: Settings,
) -> Report:
    """Collect the outcomes of all sources."""
    ordered = sorted(outcomes, key=lambda outcome: (outcome.name, outcome.source))
    kept = [outcome for outcome in ordered if outcome.reason is None]
    clips = {clip for outcome in kept for clip in outcome.clips}
    listed = {clip for names in splits.values() for clip in names}
    return Report(
        scanned=scanned,
        seen=len(ordered),
        kept=len(kept),
        dropped=[
            {"clip": outcome.name, "source": outcome.source, "reason": outcome.reason}
            for outcome in ordered
            if outcome.reason is not None
        ],
        repaired_offsets=[],
        clips=len(clips),
        reused=sum(outcome.reused for outcome in ordered),
        splits={split: len(names) for split, names in splits.items()},
        split_by=split_by,
        unlisted=len(clips - listed),
        settings=asdict(settings),
        sources=[
            {
                "clip": outcome.name,
                "clips": list(outcome.clips),
                "frames": outcome.frames,
                "frames_without_face": outcome.frames_without_face,
                "corrupt_packets": outcome.corrupt_packets,
                "short_tracks": outcome.short_tracks,
            }
            for outcome in kept
        ],
    )
