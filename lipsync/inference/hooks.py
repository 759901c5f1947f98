"""Progress of a run, reported to whoever asks; the pipeline itself prints nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Hook(Protocol):
    """Called after each item of a step."""

    def __call__(self, step: str, completed: int, total: int | None) -> None:
        """``completed`` of ``total`` items (None: not known yet) of ``step`` are done."""


class ProgressHook:
    """A progress bar per step on stderr, drawn only where stderr is a terminal.

    Usage::

        with ProgressHook() as hook:
            pipeline.run(face, audio, outfile, hook=hook)
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressHook:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, step: str, completed: int, total: int | None) -> None:
        """Move the bar of ``step``, adding it at its first report."""
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=total)
        self._progress.update(self._tasks[step], completed=completed, total=total)
