"""Where the time of a run goes: seconds a stage works itself, without what it waits for.

Stages pull: while the encoder asks for a frame, generation and detection may run inside that call. Each stage
is charged its own share. Stages of different threads work at the same time, so shares of the wall time may
add up to more than 100 %.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage took."""

    name: str
    seconds: float
    """Own working time."""


class StageClock:
    """Charges time to stages, across threads. A clock that was never asked costs two calls a frame."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._running = threading.local()

    def watch(self, name: str | None, items: Iterable[T]) -> Generator[T, None, None]:
        """The same items; the time to make each is charged to ``name``, less that of stages inside.

        None charges nobody: for what another thread makes, where a stage only waits.
        """
        self._charge(name, 0.0)  # so that stages stand in the order of the pipeline
        return self._watched(name, iter(items))

    def _watched(self, name: str | None, iterator: Iterator[T]) -> Generator[T, None, None]:
        try:
            while True:
                with self.charged(name):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    @contextmanager
    def charged(self, name: str | None) -> Iterator[None]:
        """Charge the time of a block to ``name``, less that of stages inside."""
        outer: list[float] = self._running.__dict__.setdefault("inner", [])
        outer.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            inside = outer.pop()
            if outer:
                outer[-1] += elapsed
            self._charge(name, elapsed - inside)

    @property
    def stages(self) -> Sequence[StageTime]:
        """In the order in which they were first seen."""
        return [StageTime(name, seconds) for name, seconds in self._seconds.items()]

    def _charge(self, name: str | None, seconds: float) -> None:
        if name is not None:
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + seconds


def stage_table(stages: Sequence[StageTime], frames: int, wall: float) -> str:
    """Lines with milliseconds a frame and share of the wall time by stage.

    Args:
        stages: Of :attr:`StageClock.stages`.
        frames: Frames of the run.
        wall: Its seconds.
    """
    width = max(len(stage.name) for stage in (*stages, StageTime("wall", 0)))
    lines = [f"{'stage':<{width}}  ms/frame  share of wall"]
    for stage in (*stages, StageTime("wall", wall)):
        share = stage.seconds / wall
        lines.append(f"{stage.name:<{width}}  {1000 * stage.seconds / frames:8.2f}  {share:13.0%}")
    return "\n".join(lines)
