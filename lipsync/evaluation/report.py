"""Write ``scores.csv``, ``summary.json`` and ``report.html``, each renamed into place when complete."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from lipsync.errors import DataError
from lipsync.evaluation.html import render
from lipsync.evaluation.summary import Evaluation, Row, rows, summarize
from lipsync.files import write_text


def write_report(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """Write the three files into ``folder`` and give the content of ``summary.json``.

    Raises:
        DataError: A file cannot be written.
    """
    table, summary = rows(evaluation), summarize(evaluation)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _write(folder / "scores.csv", _csv(table))
    _write(folder / "report.html", render(table, summary))
    _write(folder / "summary.json", text)
    return summary


def _csv(table: list[Row]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({key: f"{v:.6f}" if isinstance(v, float) else v for key, v in row.items()})
    return stream.getvalue()


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); give output=DIR") from error
