"""``jobs=list.csv``: many videos with one command; networks are loaded once, a failed job stops nothing.

    face,audio,outfile,pads
    a.mp4,a.wav,out/a.mp4,
    b.mp4,b.wav,out/b.mp4,"[0,20,0,0]"

Further columns are settings of ``configs/infer.yaml`` for that job; an empty cell leaves a setting as it is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lipsync.errors import DataError, UserError
from lipsync.files import write_text
from lipsync.inference.report import RunReport

FILES = ("face", "audio", "outfile")
"""Columns that every list has."""
SETTINGS = (
    *("pads", "box", "crop", "rotate", "resize_factor", "static", "fps", "nosmooth", "every", "no_face"),
    *("face_select", "face_index", "extend", "remainder", "silence", "audio_shift"),
)
"""Columns that a list may have: settings that need no other network."""
RESULT_COLUMNS = (*FILES, "status", "frames", "without_face", "fps", "seconds", "message", "job")


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the list."""

    row: int
    """Line of the file, the header being 1."""
    face: str
    audio: str
    outfile: str
    settings: Mapping[str, str]
    """What this job sets otherwise than the command line."""


Row: TypeAlias = dict[str, str | int | float]


def read_jobs(path: str | Path) -> list[Job]:
    """The jobs of a list.

    Raises:
        DataError: The file cannot be read, a column is missing or unknown, a cell is empty that must not be,
            or two jobs write the same file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"{path}: cannot be read ({reason}); give a CSV file") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(path, reader.fieldnames or ())
        jobs = [_job(path, reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV ({error})") from error
    if not jobs:
        raise DataError(f"{path}: holds no job; write one a line below {','.join(FILES)}")
    _check_outfiles(path, jobs)
    return jobs


def run_jobs(
    path: Path,
    jobs: Sequence[Job],
    run: Callable[[Job], RunReport],
    digest: Callable[[Job], str],
    lines: Callable[[RunReport], str] = lambda report: report.summary,
) -> None:
    """Run all jobs; what came of each stands in ``<list>.results.csv``, which is written after every job.

    A job that is done there, whose file exists and whose digest is the same is not run again. What an earlier
    run wrote there of jobs that are still in the list stays until they are run.

    Args:
        path: The list.
        jobs: Its jobs.
        run: Runs one.
        digest: Of all that the result of a job depends on.
        lines: What to print of a job that is done.

    Raises:
        DataError: Some jobs failed by the user's fault; all others are done.
        Exception: What went wrong in the first job that failed otherwise, after all others are done.
    """
    results = path.with_name(f"{path.stem}.results.csv")
    rows = _earlier(results, jobs)
    failed: list[str] = []
    broken: Exception | None = None
    for number, job in enumerate(jobs, start=1):
        key, known = digest(job), rows.get(job.outfile, {})
        if known.get("status") == "done" and known.get("job") == key and Path(job.outfile).is_file():
            print(f"{number}/{len(jobs)} {job.outfile}: already there")
            continue
        try:
            report = run(job)
            text, outcome = lines(report), _done(report)
        except UserError as error:
            text = _one_line(error)
            outcome = {"status": "failed", "message": text}
            failed.append(f"line {job.row}: {text}")
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            broken = broken or error
            text = f"{job.outfile}: {type(error).__name__}: {_one_line(error)}"
            outcome = {"status": "crashed", "message": text}
        rows[job.outfile] = {**_named(job), **outcome, "job": key}
        _write(results, [rows[job.outfile] for job in jobs if job.outfile in rows])
        print(f"{number}/{len(jobs)} {text}")
    if broken is not None:
        raise broken
    if failed:
        raise DataError(f"{path}: {len(failed)} of {len(jobs)} jobs failed ({failed[0]}); see {results}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def job_digest(job: Job, settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings and of name, size and time of change of the inputs.

    A file that is not there counts as such: running the job will say so.
    """
    content = [settings, *(file_state(Path(path)) for path in (job.face, job.audio))]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_state(path: Path) -> list[Any]:
    """Of a file, or of a folder by its files."""
    try:
        if path.is_dir():
            return [path.name, *(file_state(inner) for inner in sorted(path.iterdir()) if inner.is_file())]
        status = path.stat()
    except OSError as error:
        return [str(path), error.strerror]
    return [path.name, status.st_size, status.st_mtime_ns]


def _named(job: Job) -> Row:
    return {"face": job.face, "audio": job.audio, "outfile": job.outfile}


def _earlier(path: Path, jobs: Sequence[Job]) -> dict[str, Row]:
    """Rows of an earlier run by outfile; none where it left no file that can be read."""
    wanted = {(job.face, job.audio, job.outfile) for job in jobs}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    return {
        row["outfile"]: {name: row.get(name) or "" for name in RESULT_COLUMNS}
        for row in rows
        if tuple(row.get(name) for name in FILES) in wanted
    }


def _done(report: RunReport) -> Row:
    return {
        "status": "done",
        "frames": report.frames,
        "without_face": report.without_face,
        "fps": f"{float(report.fps):.6g}",
        "seconds": f"{report.seconds:.2f}",
        "message": "; ".join(report.notes),
    }


def _check_columns(path: Path, names: Sequence[str]) -> None:
    missing = [name for name in FILES if name not in names]
    if missing:
        raise DataError(
            f"{path}: has no column {', '.join(missing)}; its first line must name {','.join(FILES)}"
        )
    unknown = [name for name in names if name not in (*FILES, *SETTINGS)]
    if unknown:
        raise DataError(f"{path}: unknown column {', '.join(unknown)}; a job can set {', '.join(SETTINGS)}")


def _check_outfiles(path: Path, jobs: Sequence[Job]) -> None:
    """Raise where a job would overwrite what another one made, or what an earlier one reads."""
    written: dict[str, int] = {}
    for job in jobs:
        outfile = os.path.abspath(job.outfile)
        if outfile in written:
            raise DataError(f"{path}: lines {written[outfile]} and {job.row} both write {job.outfile}")
        written[outfile] = job.row
    for job in jobs:
        for name in (job.face, job.audio):
            maker = written.get(os.path.abspath(name))
            if maker is not None and maker > job.row:
                raise DataError(f"{path}: line {maker} would overwrite {name}, which line {job.row} reads")


def _job(path: Path, line: int, row: Mapping[str, str | None]) -> Job:
    if None in row:
        raise DataError(f"{path}: line {line} has more cells than the first line")
    cells = {name: (value or "").strip() for name, value in row.items()}
    empty = [name for name in FILES if not cells[name]]
    if empty:
        raise DataError(f"{path}: line {line} has no {', '.join(empty)}")
    settings = {name: value for name, value in cells.items() if name in SETTINGS and value}
    return Job(line, cells["face"], cells["audio"], cells["outfile"], settings)


def _write(path: Path, rows: Sequence[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, RESULT_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_text(path, text.getvalue())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); put the list elsewhere") from error
