"""How many items go through a network at a time, and what happens when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from lipsync.checks import is_whole
from lipsync.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")

_LOGGER = logging.getLogger(__name__)

ON_CPU = (8, 16)
"""First batch, so that the first result comes soon, and largest: caches are full, more would gain nothing."""
ON_GPU = (4, 32)


class BatchSize:
    """Grows while batches go through, and shrinks for good when memory runs out.

    Args:
        first: Of the first batch.
        most: What it may grow to, doubling; None stays at ``first``.

    Raises:
        ValueError: ``first`` below 1 or ``most`` below ``first``.
    """

    def __init__(self, first: int, most: int | None = None) -> None:
        most = first if most is None else most
        if not 1 <= first <= most:
            raise ValueError(f"batches of {first} to {most}: give 1 or more, and no fewer at most than first")
        self._first = self._current = first
        self._most = most

    @classmethod
    def of(cls, batch_size: int | None, device: torch.device) -> BatchSize:
        """The size a user asked for; None chooses by device.

        Raises:
            ConfigError: ``batch_size`` is no whole number of 1 or more.
        """
        if batch_size is None:
            return cls(*(ON_CPU if device.type == "cpu" else ON_GPU))
        if not is_whole(batch_size, 1):
            raise ConfigError(
                f"batch_size={batch_size}: give a whole number of 1 or more, or null to choose by device"
            )
        return cls(batch_size)

    @property
    def current(self) -> int:
        """Items of the next batch."""
        return self._current

    @property
    def most(self) -> int:
        """What :attr:`current` will never exceed."""
        return self._most

    def restart(self) -> None:
        """Forget the growth, so that a run's batches do not depend on the runs before; limits stay."""
        self._current = min(self._first, self._most)

    def fitted(self, count: int) -> None:
        """``count`` items went through together."""
        if count == self._current:
            self._current = min(2 * self._current, self._most)

    def exceeded(self, count: int) -> None:
        """``count`` items, more than one, were too many."""
        self._current = self._most = max(1, count // 2)


def run_batched(
    function: Callable[[Sequence[T]], R],
    items: Sequence[T],
    size: BatchSize,
    device: torch.device,
    advice: str = "use device=cpu",
) -> Iterator[R]:
    """Results of consecutive parts of ``items``, in order.

    When the device's memory is exceeded, the part that failed is run again in halves; what was finished
    before is not. All other errors are the caller's.

    Args:
        function: Of at most ``size.current`` items.
        items: All of them.
        size: Remembers what went through from call to call.
        device: Where ``function`` runs.
        advice: What the user can do when one item is too much.

    Raises:
        ConfigError: The device has not enough memory for a single item.
    """
    start = 0
    while start < len(items):
        part = items[start : start + size.current]
        result = _within_memory(function, part)
        if result:
            size.fitted(len(part))
            start += len(part)
            yield result[0]
            continue
        # Outside of the handler: the exception kept the tensors of the failed attempt alive.
        _release(device)
        if len(part) == 1:
            raise ConfigError(f"{device}: not enough memory even for one at a time; {advice}")
        size.exceeded(len(part))
        _LOGGER.warning(
            "out of memory on %s with %d at a time: going on with %d", device, len(part), size.most
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory was exceeded; MPS says so in the text of a plain RuntimeError only."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "MPS backend out of memory" in str(error)


def _within_memory(function: Callable[[Sequence[T]], R], part: Sequence[T]) -> list[R]:
    """The result as a list of one, empty where memory was exceeded."""
    try:
        return [function(part)]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return []


def _release(device: torch.device) -> None:
    """Give cached blocks back, of which smaller ones can then be made."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
