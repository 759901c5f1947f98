"""A CSV logger that goes on with the file of the run it resumes."""

from __future__ import annotations

import csv
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment
from typing_extensions import override

from lipsync.files import replacing


class AppendingCSVLogger(CSVLogger):
    """Lightning's CSVLogger deletes an earlier ``metrics.csv`` in the folder; this one goes on.

    The trainer has every row written at once, so that a killed process loses none.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer; rows already in the file stay."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
        return self._experiment  # type: ignore[return-value]  # typed as its base class

    def drop_from(self, step: int) -> None:
        """Forget the rows of ``step`` and later ones: a resumed run writes them again."""
        path = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if path.is_file():
            names, rows = _read(path)
            _write(path, names, [row for row in rows if int(row["step"]) < step])


class _AppendingWriter(ExperimentWriter):
    """Starts with the columns of the file that is there."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if path.is_file():
            self.metrics_keys, rows = _read(path)
            if self.metrics_keys:
                _write(path, self.metrics_keys, rows)
            else:
                path.unlink()

    @override
    def _check_log_dir_exists(self) -> None:
        """Leave the file alone."""

    @override
    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        _write(path, fieldnames, _read(path)[1])


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows, without a last line that was not finished."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(line for line in file if line.endswith("\n"))
        return list(reader.fieldnames or []), list(reader)


def _write(path: Path, names: list[str], rows: list[dict[str, str]]) -> None:
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
