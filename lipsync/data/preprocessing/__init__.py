"""Raw videos to clips for training: sources, worker, engine, splits, report."""

from lipsync.data.preprocessing.engine import Engine, LocalEngine, WorkerError
from lipsync.data.preprocessing.report import Report
from lipsync.data.preprocessing.runner import preprocess

__all__ = ["Engine", "LocalEngine", "Report", "WorkerError", "preprocess"]
