"""What the streaming pipeline is made of: stages, batching and a bounded background worker.

A stage turns an iterable into an iterator and holds ``O(batch + look-ahead)`` items, never the clip.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TypeAlias, TypeVar

from lipsync.types import Composite, Frame

T = TypeVar("T")

FrameStage: TypeAlias = Callable[[Iterable[Frame]], Iterator[Frame]]
"""A stage from finished frames to finished frames: what may follow the compositor."""
EnhanceStage: TypeAlias = Callable[[Iterable[Composite]], Iterator[Frame]]
"""From repainted frames to finished ones; see :class:`lipsync.inference.enhance.FaceEnhancer`."""

_POLL = 0.1
"""Seconds after which a blocked worker looks again whether it is still wanted."""


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` consecutive items, the last one shorter; pulls one list at a time.

    Raises:
        ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"a batch holds at least one item, not {size}")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items in the same order, produced by a thread at most ``depth + 1`` items ahead.

    An exception of ``items`` is raised here, at the place in the stream where it happened. When the consumer
    leaves early the thread is stopped and joined, so nothing outlives the iterator.

    Raises:
        ValueError: ``depth`` is below 1.
    """
    if depth < 1:
        raise ValueError(f"the look-ahead is at least one item, not {depth}")
    channel: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(maxsize=depth)
    unwanted = threading.Event()
    worker = threading.Thread(target=_produce, args=(items, channel, unwanted), daemon=True)
    worker.start()
    try:
        while True:
            item, error = channel.get()
            if error is not None:
                raise error
            if not item:
                return
            yield from item
    finally:
        unwanted.set()
        worker.join()


def _produce(
    items: Iterable[T],
    channel: queue.Queue[tuple[list[T], BaseException | None]],
    unwanted: threading.Event,
) -> None:
    """Feed ``channel``: one-item lists, then an empty list at the end or the exception that came."""

    def put(item: list[T], error: BaseException | None = None) -> None:
        while not unwanted.is_set():
            try:
                channel.put((item, error), timeout=_POLL)
            except queue.Full:
                continue
            return

    try:
        for item in items:
            put([item])
            if unwanted.is_set():
                return
    except BaseException as error:  # handed over, not handled: the consumer raises it
        put([], error)
    else:
        put([])
