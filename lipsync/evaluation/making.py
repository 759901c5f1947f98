"""Make the videos of a system; what an earlier run made in the same way is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lipsync.errors import MediaError, NoFaceError
from lipsync.evaluation.inputs import VideoItem
from lipsync.faces.annotated import annotation_of
from lipsync.media.provenance import read_provenance

UNMAKEABLE = (MediaError, NoFaceError)
"""What is wrong with one clip; anything else ends the run."""


@dataclass(frozen=True, slots=True)
class Job:
    """One video to generate."""

    face: Path
    audio: Path | None
    """None: silence as long as ``face``."""
    outfile: Path
    static: bool
    """Use the first frame of ``face`` throughout."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A system to make and to score."""

    name: str
    """As in :class:`lipsync.evaluation.results.SystemResult`, like the following."""
    label: str
    about: str
    items: Sequence[VideoItem]
    jobs: Sequence[Job] = ()
    """How each item's file is made, in the order of ``items``; empty where the files are there."""
    notes: Sequence[str] = ()
    """For the report."""


class Maker(Protocol):
    """A generator at work."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What the files depend on besides their job: generator and settings."""

    def __call__(self, job: Job, key: str) -> None:
        """Write ``job.outfile``, complete or not at all, with ``key`` as the job of its provenance.

        Raises:
            MediaError: An input cannot be read or the file cannot be written.
            NoFaceError: There is no face.
        """


def generate(
    plan: Plan, make: Maker, progress: Callable[[str, int, int | None], None] | None = None
) -> dict[str, str]:
    """Make the files of a plan that are not there yet.

    A file stays where its provenance says that it was made by the same generator with the same settings from
    the same inputs; so a stopped run goes on where it stopped.

    Args:
        plan: Its jobs.
        make: Makes one file.
        progress: Told ``(step, completed, total)`` after every file.

    Returns:
        By name of the item, why its file could not be made; such an item is listed and never scored.
    """
    failed: dict[str, str] = {}
    for done, (item, job) in enumerate(zip(plan.items, plan.jobs, strict=bool(plan.jobs)), start=1):
        try:
            _make(job, make)
        except UNMAKEABLE as error:
            failed[item.name] = f"not generated: {' '.join(str(error).split())}"
        if progress is not None:
            progress(f"generate {plan.name}", done, len(plan.jobs))
    return failed


def _make(job: Job, make: Maker) -> None:
    key = _key(job, make.fingerprint)
    if _found(job.outfile) == key:
        return
    job.outfile.unlink(missing_ok=True)  # made otherwise: nobody may take it for this one
    make(job, key)


def _found(path: Path) -> str | None:
    """Key of a file that is there."""
    if not path.is_file():
        return None
    try:
        provenance = read_provenance(path)
    except MediaError:
        return None  # damaged: made again
    return None if provenance is None else provenance.job


def _key(job: Job, fingerprint: Mapping[str, Any]) -> str:
    annotation = annotation_of(job.face)
    inputs = [job.face, job.audio, annotation if annotation.is_file() else None]
    content = [dict(fingerprint), job.static, *(path and _state(path) for path in inputs)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> list[Any]:
    """Name, size and time of change.

    Raises:
        MediaError: There is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
    return [path.name, status.st_size, status.st_mtime_ns]
