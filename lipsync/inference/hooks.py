"""Progress of a run, reported to whoever asks; the pipeline itself prints nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Hook(Protocol):
    """Called after each item of a step."""

    def __call__(self, step: str, completed: int, total: int | None) -> None:
        """``completed`` of ``total`` items (None: not known yet) of ``step`` are done."""


class RateColumn(ProgressColumn):
    """Items a second, or a minute where they take longer; nothing while the rate is not known."""

    def render(self, task: Task) -> Text:
        """The rate of a step."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{speed * 60:.1f}/min")


class ProgressHook:
    """A progress bar per step on stderr with count, rate and time left, drawn only in a terminal.

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
            RateColumn(),
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
