"""What the streaming pipeline is made of: its source of frames, batching and a bounded background worker.

A stage turns an iterable into an iterator and holds ``O(batch + look-ahead)`` items, never the clip.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeAlias, TypeVar

import cv2
import numpy as np

from lipsync.errors import ConfigError, MediaError
from lipsync.types import Frame, Image

T = TypeVar("T")

FrameStage: TypeAlias = Callable[[Iterable[Frame]], Iterator[Frame]]
"""A stage from finished frames to finished frames: what may follow the compositor."""

Extend: TypeAlias = Literal["loop", "freeze", "cut"]
"""What follows the last frame of a video: its first one, the last one for ever, nothing."""

_POLL = 0.1
"""Seconds after which a blocked worker looks again whether it is still wanted."""


@dataclass(frozen=True, slots=True)
class FrameTransform:
    """What happens to each decoded frame first: shrink, then rotate, then cut (the reference's order).

    Args:
        resize_factor: both sides are divided by it, rounding down.
        rotate: turn by 90 degrees clockwise.
        crop: ``top, bottom, left, right`` in pixels after shrinking and rotating; -1 for bottom or right
            means the border of the frame.
    """

    resize_factor: int = 1
    rotate: bool = False
    crop: tuple[int, int, int, int] = (0, -1, 0, -1)

    def __post_init__(self) -> None:
        if self.resize_factor < 1:
            raise ConfigError(f"resize_factor={self.resize_factor}: give 1 or more")

    def __call__(self, image: Image) -> Image:
        """The transformed image.

        Raises:
            ConfigError: nothing of the image is left.
        """
        height, width = image.shape[:2]
        if self.resize_factor > 1:
            size = (width // self.resize_factor, height // self.resize_factor)
            if min(size) < 1:
                raise ConfigError(
                    f"resize_factor={self.resize_factor} leaves nothing of {width}x{height} pixels"
                )
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        if self.rotate:
            image = np.asarray(cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE), dtype=np.uint8)
        top, bottom, left, right = self.crop
        height, width = image.shape[:2]
        cut = image[top : height if bottom == -1 else bottom, left : width if right == -1 else right]
        if cut.size == 0:
            raise ConfigError(f"crop={list(self.crop)} leaves nothing of {width}x{height} pixels")
        return np.ascontiguousarray(cut)


def repeated(video: Iterable[Frame], count: int, extend: Extend) -> Iterator[Frame]:
    """Frames numbered from 0: ``count`` of them, or fewer where ``extend`` is ``cut`` and the video shorter.

    Nothing is kept: looping decodes the video again. ``time`` stays that of the source frame, so it runs
    backwards where a pass begins.

    Raises:
        MediaError: the video holds no frame.
    """
    number = 0
    while True:
        begin = number
        for frame in video:
            yield (last := replace(frame, index=number))
            number += 1
            if number == count:
                return
        if number == begin:
            raise MediaError("the video holds no frame that can be decoded; convert it or give another one")
        if extend == "freeze":
            yield from (replace(last, index=index) for index in range(number, count))
        if extend != "loop":
            return


def first_only(video: Iterable[Frame], count: int) -> Iterator[Frame]:
    """The first frame, ``count`` times, numbered from 0."""
    return repeated(islice(video, 1), count, "freeze")


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
