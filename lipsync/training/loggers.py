"""A CSV logger that keeps the rows of the run it resumes."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment


class AppendingCSVLogger(CSVLogger):
    """Lightning's CSVLogger deletes an earlier ``metrics.csv`` in the folder; this one goes on."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer; rows already in the file stay."""
        if self._experiment is not None:
            return self._experiment  # type: ignore[return-value]  # typed as its base class
        path = Path(self.log_dir) / "metrics.csv"
        aside = path.with_name("metrics.csv.part")
        if path.is_file():
            path.replace(aside)
        with warnings.catch_warnings():
            # "directory is not empty, previous log files will be deleted": they are not.
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            self._experiment = ExperimentWriter(log_dir=self.log_dir)
        if aside.is_file():
            aside.replace(path)
            with path.open(newline="", encoding="utf-8") as file:
                self._experiment.metrics_keys = next(csv.reader(file), [])
        return self._experiment
