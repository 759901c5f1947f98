"""``preprocess``: raw videos -> clip folders, file lists and a report; can be interrupted and run again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lipsync.data.filelist import write_filelist
from lipsync.data.preprocessing.engine import Engine, LocalEngine
from lipsync.data.preprocessing.records import Outcome
from lipsync.data.preprocessing.report import Report, summarise
from lipsync.data.preprocessing.settings import Settings, describe
from lipsync.data.preprocessing.sources import Sources, find_filelists, find_sources
from lipsync.data.preprocessing.splits import given_splits, hashed_splits
from lipsync.data.preprocessing.worker import ClipTask
from lipsync.errors import DataError
from lipsync.faces.detector import FaceDetector

Progress = Callable[[int, int, str], None]
"""Called after each source with the number done, the total and the source's name."""


def preprocess(
    data_root: Path | str,
    preprocessed_root: Path | str,
    detector_factory: Callable[[], FaceDetector],
    *,
    workers: int = 1,
    every: int = 5,
    pads: Sequence[int] = (0, 0, 0, 0),
    min_frames: int = 25,
    smooth: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Report:
    """Cut the faces and the sound of all videos below a folder into clips for training.

    One clip per uninterrupted face track (short gaps are filled by the tracker; a shot cut ends a track) of
    at least ``min_frames``; frame 0 and sample 0 are where the track begins. A video with one such track
    keeps its plain name ``folder/id``, one with several gives ``folder/id_000``, ``folder/id_001``...

    A file that cannot be used is listed in the report with the reason. Sources finished by an earlier run
    with the same settings are not done again.

    Args:
        data_root: LRS2 layout (``main/<folder>/<id>.mp4``, optional ``filelists/``) or any tree of videos.
        preprocessed_root: Output; gets clips, ``filelists/`` and ``report.json``.
        detector_factory: Builds the face detector, once a process; picklable when ``workers`` is above 1.
        workers: Processes; 0 or 1 work in this one.
        every: Detect on every n-th frame, follow between.
        pads: Pixels added to the face box: top, bottom, left, right.
        min_frames: Least length of a face track, frames at 25 fps.
        smooth: Average the boxes over five frames.
        overwrite: Do finished sources again.
        progress: Called after each source.
        engine: Where the jobs run; by default ``LocalEngine(workers)``.

    Raises:
        ConfigError: A setting makes no sense.
        DataError: No video below ``data_root``, none of them usable, or a damaged file list.
    """
    engine = engine or LocalEngine(workers)
    pads = tuple(int(pad) for pad in pads)
    settings = Settings(describe(detector_factory), every, pads, min_frames, smooth)
    data_root, output = Path(data_root), _made(Path(preprocessed_root))
    sources = find_sources(data_root, exclude=output)
    task = ClipTask(data_root, output, detector_factory, settings, overwrite)
    outcomes = _rejected(sources, data_root)
    total = len(sources.videos) + len(outcomes)
    for outcome in engine(task, sources.videos):
        outcomes.append(outcome)
        if progress is not None:
            progress(len(outcomes), total, outcome.name)
    return _finish(outcomes, data_root, output, sources.scanned, settings)


def _finish(
    outcomes: list[Outcome], data_root: Path, output: Path, scanned: Path, settings: Settings
) -> Report:
    """Write file lists and report."""
    kept = {outcome.name: outcome.clips for outcome in outcomes if outcome.reason is None}
    split_by, splits = "file lists of the data", given_splits(find_filelists(data_root), kept)
    if not any(splits.values()):
        split_by, splits = "hash", hashed_splits({name: kept[name] for name in sorted(kept)})
    report = summarise(
        outcomes,
        splits,
        split_by=split_by,
        scanned=scanned.relative_to(data_root).as_posix(),
        settings=settings,
    )
    report.write(output / "report.json")
    if not kept:
        raise DataError(
            f"{data_root}: none of its {report.seen} videos can be used "
            f"(first: {report.dropped[0]['reason']}); see {output / 'report.json'}"
        )
    for split, names in splits.items():
        write_filelist(output / "filelists" / f"{split}.txt", names)
    return report


def _rejected(sources: Sources, data_root: Path) -> list[Outcome]:
    return [
        Outcome(
            source.name,
            os.path.relpath(source.path, data_root),
            reason=f"{source.path}: another video has the same name without suffix; rename one of them",
        )
        for source in sources.clashes
    ]


def _made(output: Path) -> Path:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output}: cannot be made ({error.strerror}); choose another folder") from error
    return output
