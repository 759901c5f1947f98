"""Write ``scores.csv``, ``summary.json``, ``report.md`` and ``report.html`` of a finished evaluation."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipsync.errors import DataError
from lipsync.evaluation.report import markdown, page, tables
from lipsync.evaluation.report.numbers import compute
from lipsync.evaluation.report.summary import Row, rows, summarize
from lipsync.evaluation.results import Evaluation
from lipsync.files import write_text


def write_report(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """Write the four files into ``folder``, each renamed into place when complete; ``summary.json`` last.

    Returns:
        The content of ``summary.json``.

    Raises:
        DataError: A file cannot be written.
    """
    numbers = compute(evaluation)
    summary = summarize(evaluation, numbers)
    report = page.Report(evaluation, numbers, summary)
    warning = tables.TRAINED_TEXT if evaluation.judge_trained_generator else ""
    save(folder / "scores.csv", _csv(rows(evaluation)))
    save(folder / "report.md", markdown.render(evaluation, report.table, summary, warning))
    save(folder / "report.html", page.render(report))
    save(folder / "summary.json", to_json(summary))
    return summary


def _csv(table: Sequence[Row]) -> str:
    stream = io.StringIO(newline="")
    if table:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({key: f"{v:.6f}" if isinstance(v, float) else v for key, v in row.items()})
    return stream.getvalue()


def to_json(content: dict[str, Any]) -> str:
    """JSON for people and programs: indented, no NaN."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def save(path: Path, text: str) -> None:
    """Write one file of a report.

    Raises:
        DataError: It cannot be written.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); give output=DIR") from error
