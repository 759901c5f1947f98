"""Streaming video decode with true timestamps or at a constant rate; memory does not grow with length."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from lipsync.errors import MediaError
from lipsync.media.backwards import Shown, Trace, reverse
from lipsync.media.color import to_bgr
from lipsync.media.probe import (
    Orientation,
    OrientationReader,
    decode,
    has_own_duration,
    open_media,
    packets,
    probe,
    ratio,
    reason,
    stated_duration,
    video_stream,
)
from lipsync.media.timeline import placed
from lipsync.types import Frame, Image, VideoInfo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Transform = Callable[[Image], Image]
T = TypeVar("T")

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_LONGEST_HOLD = 10
"""Seconds. Timestamps of damaged packets further away are damaged themselves."""
_Stamped: TypeAlias = "tuple[Fraction | None, Fraction, VideoFrame]"


class _Decoded(NamedTuple):
    time: Fraction
    duration: Fraction
    frame: VideoFrame


class VideoReader:
    """The frames of a video file, upright, BGR uint8.

    Iterating opens the file anew, so a reader can be iterated any number of times. Without ``fps`` each
    source frame comes once, with its own time. With ``fps`` frame ``k`` is the latest source frame whose
    time is at most ``k / fps`` (plus half a tick of the file's clock, which absorbs its rounding), and
    ``round(duration * fps)`` frames come: exact rational arithmetic, so there is no drift, and files of
    variable rate keep their timing. All images have the size of the first one. A frame shown more than
    once is one shared array: do not write into it.

    Damage costs what cannot be decoded and nothing else: where the timestamps show that frames are missing,
    the constant rate holds the last good one, so picture and sound stay in step. :attr:`corrupt_packets` and
    :attr:`missing_frames` tell what was lost. Every iteration that comes to its end sets both; one that is
    broken off can only raise ``corrupt_packets``, so that what a whole pass found is not forgotten.

    Times count from the start of the video stream, the instant that is sample 0 of
    :func:`lipsync.media.waveform.load_waveform`.

    Args:
        path: Any video file FFmpeg can decode.
        fps: Constant output rate, or None for the frames as they are.
        transform: Applied to each image after rotation (resize, crop ...); ``info`` has the new size.

    Raises:
        MediaError: The file is missing, unreadable or has no video; while iterating: nothing decodes.
    """

    def __init__(
        self, path: str | Path, fps: Fraction | None = None, transform: Transform | None = None
    ) -> None:
        if fps is not None and fps <= 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.path = Path(path)
        self.fps = fps
        self.transform = transform
        self.corrupt_packets = 0
        """Packets that the decoder refused or guessed at, in the latest complete iteration, or in one broken
        off since that met more of them."""
        self.missing_frames = 0
        """Frames that the container states and that the file ends before: it was truncated. In the latest
        complete iteration; 0 before it and where the container does not state a length."""
        self._source = probe(self.path)
        self._trace = Trace()  # of the latest complete iteration
        self._orientation = OrientationReader()

    @cached_property
    def info(self) -> VideoInfo:
        """The video as this reader yields it: output rate, size after ``transform``."""
        info = self._source
        if self.fps is not None:
            count = round_half_up(Fraction(info.frame_count) / info.fps * self.fps)
            info = replace(info, fps=self.fps, frame_count=max(1, count))
        if self.transform is not None:
            with closing(iter(_Pass(self))) as frames:
                height, width = next(frames).image.shape[:2]
            info = replace(info, width=width, height=height)
        return info

    def __iter__(self) -> Iterator[Frame]:
        run = _Pass(self)
        try:
            yield from run
            self._trace = run.trace
            self.corrupt_packets = run.corrupt_packets
            missing = round_half_up(run.missing * self._source.fps)
            self.missing_frames = missing if missing > 1 else 0  # clocks of containers are rounded
        finally:
            self.corrupt_packets = max(self.corrupt_packets, run.corrupt_packets)

    def backwards(self) -> Iterator[Frame]:
        """The frames of an iteration from the last to the first, at a constant rate only.

        See :func:`lipsync.media.backwards.reverse` for memory and cost. Where no iteration has come to its
        end before, one is made without converting. Leaves :attr:`corrupt_packets` and the like as they are.

        Raises:
            ValueError: The reader has no ``fps``.
            MediaError: While iterating: nothing decodes, or the file has changed.
        """
        if self.fps is None:
            raise ValueError(f"{self.path}: only a reader of constant rate runs backwards; give it an fps")
        return reverse(lambda: _Pass(self), self._trace)


class _Pass:
    """One pass over the file: its counters and its colour converter."""

    def __init__(self, reader: VideoReader) -> None:
        self.path = reader.path
        self.fps = reader.fps
        self.rate = reader.fps or reader._source.fps
        self.transform = reader.transform
        self.size = (reader._source.width, reader._source.height)
        self.step = 1 / reader._source.fps
        self.corrupt_packets = 0
        self.missing = Fraction(0)
        """Seconds from the end of the last frame to the stated end."""
        self.trace = Trace()
        self.converter = VideoReformatter()
        self.orientation = reader._orientation
        self._newest: int | None = None  # timestamp of the newest packet
        self._shown: int | None = None  # latest timestamp of a frame
        self._since = 0  # packets refused since

    def __iter__(self) -> Generator[Frame, None, None]:
        return self._own() if self.fps is None else self.converted(self.trace.follow(self.shown()))

    def _own(self) -> Generator[Frame, None, None]:
        with open_media(self.path) as container:
            decoded = self._decode(container, video_stream(container, self.path))
            for index, (time, _, frame) in enumerate(decoded):
                yield Frame(index, float(time), self.image(frame), self.path)

    def shown(self) -> Generator[Shown, None, None]:
        """Number and content of each frame of the constant rate."""
        with open_media(self.path) as container:
            stream = video_stream(container, self.path)
            tick = ratio(stream.time_base) or Fraction(0)
            slack = tick / 2 if tick < self.step / 4 else Fraction(0)  # a coarse clock counts frames exactly
            yield from enumerate(constant_rate(self._decode(container, stream), self.rate, slack))

    def sought(self, stamp: int) -> Generator[VideoFrame, None, None]:
        """The frames of the file from the keyframe before a timestamp on; perhaps others before them."""
        with open_media(self.path) as container:
            stream = video_stream(container, self.path)
            stream.thread_type = "AUTO"
            with suppress(FFmpegError, OSError):  # what cannot seek is read from its start
                container.seek(stamp, stream=stream)
            for _, _, frame in self._frames(container, stream):
                yield frame

    def converted(self, frames: Iterable[Shown]) -> Generator[Frame, None, None]:
        """The images of frames of the constant rate; what is never shown is not converted."""
        shown: VideoFrame | None = None
        for index, frame in frames:
            if frame is not shown:
                shown, image = frame, self.image(frame)
            yield Frame(index, float(index / self.rate), image, self.path)

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[_Decoded]:
        """Frames with times that start at 0 and never decrease."""
        base = ratio(stream.time_base) or Fraction(1, av.time_base)
        origin = None if stream.start_time is None else stream.start_time * base
        stated = stated_duration(container, stream)
        last: _Decoded | None = None
        for item in placed(self._stamped(container, stream), origin, stated or None):
            last = _Decoded(*item)
            yield last
        if last is None:
            raise MediaError(f"{self.path}: no frame of the video stream can be decoded; the file is damaged")
        lost = self._lost(base)
        if self.fps is not None and 0 < lost <= _LONGEST_HOLD:
            # The last packets are there but damaged: hold what was shown before them.
            yield last._replace(duration=last.duration + lost)
        # Otherwise the length may be the sound's.
        if has_own_duration(container, stream) or len(container.streams) == 1:
            self.missing = max(Fraction(0), stated - (last.time + last.duration + lost))

    def _stamped(self, container: InputContainer, stream: VideoStream) -> Iterator[_Stamped]:
        """Each frame with its timestamp and duration as the file states them."""
        stream.thread_type = "AUTO"
        yield from self._frames(container, stream)
        if self._lost(ratio(stream.time_base) or Fraction(0)) == 0 or self._shown is None:
            return
        # FFmpeg's frame threads lose what comes after a damaged packet among the last that they hold: these
        # once more, from the keyframe before, without threads.
        self.corrupt_packets -= self._since  # counted once more below
        with open_media(self.path) as again:
            stream = video_stream(again, self.path)
            stream.codec_context.thread_count = 1
            with suppress(FFmpegError, OSError):  # what cannot seek is read from its start
                again.seek(self._shown, stream=stream)
            yield from self._frames(again, stream, after=self._shown)

    def _frames(
        self, container: InputContainer, stream: VideoStream, after: int | None = None
    ) -> Iterator[_Stamped]:
        """The frames of the stream, only those later than the timestamp ``after``; counts the damage."""
        base = ratio(stream.time_base) or Fraction(1, av.time_base)
        unread = 0
        for packet in packets(container, stream, self.path):
            frames = None if packet is None else decode(packet)
            if packet is None:
                unread += 1  # at the end of the file these are missing, not corrupt
            elif packet.size and _later(packet.pts, after):
                refused = unread + (frames is None)
                self.corrupt_packets += refused
                self._since += refused
                unread = 0
                if packet.pts is not None and not packet.is_discard:
                    self._newest = _latest(self._newest, packet.pts)
            for frame in frames or ():
                if _later(frame.pts, after):
                    self.corrupt_packets += frame.is_corrupt
                    # Where an AVI states no order, FFmpeg's guess of the last one is not the largest.
                    self._shown, self._since = _latest(self._shown, frame.pts), 0
                    base = ratio(frame.time_base) or base
                    duration = getattr(frame, "duration", 0) * base
                    # unknown, one tick of a file without a frame rate, or one that its clock rounds
                    if duration < self.step / 2 or abs(duration - self.step) <= base:
                        duration = self.step
                    yield (None if frame.pts is None else frame.pts * base), duration, frame

    def _lost(self, base: Fraction) -> Fraction:
        """Seconds from the last frame to the last packet; 0 where no whole frame is missing."""
        if self._newest is None or self._shown is None:
            return Fraction(0)
        lost = (self._newest - self._shown) * base
        return lost if lost > self.step * Fraction(3, 4) else Fraction(0)

    def image(self, frame: VideoFrame) -> Image:
        """Convert, turn upright, bring to the size of the first frame and transform."""
        try:
            converted = to_bgr(frame, self.converter)
        except (FFmpegError, OSError) as error:
            raise MediaError(
                f"{self.path}: pictures of format {frame.format.name} cannot be converted ({reason(error)}); "
                f"re-encode it, for instance as mp4"
            ) from error
        image = _upright(converted, self.orientation(frame))
        if image.shape[:2] != self.size[::-1]:  # calls and broadcasts change their resolution midway
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return image if self.transform is None else self.transform(image)


def constant_rate(
    items: Iterable[tuple[Fraction, Fraction, T]], fps: Fraction, slack: Fraction = Fraction(0)
) -> Iterator[T]:
    """Resample ``(time, duration, item)`` in time order to a constant rate.

    Output ``k`` is the latest item with ``time <= k / fps + slack`` (the first item before its time);
    ``round((end + slack) * fps)`` outputs, at least one, where ``end`` is the end of the last item. Holds
    back half an output step, so that the count is exact although the end is not known in advance.
    """
    pending: deque[T] = deque()
    current: T | None = None
    chosen = emitted = 0
    end = Fraction(0)
    empty = True
    for time, duration, item in items:
        while not empty and Fraction(chosen) / fps + slack < time:
            pending.append(current)  # type: ignore[arg-type]
            chosen += 1
        current, empty = item, False
        end = max(end, time + duration)
        while pending and (emitted + Fraction(1, 2)) / fps <= time:
            yield pending.popleft()
            emitted += 1
    total = 0 if empty else max(1, round_half_up((end + slack) * fps))
    for _ in range(emitted, total):
        yield pending.popleft() if pending else current  # type: ignore[misc]


def round_half_up(value: Fraction) -> int:
    """Nearest whole number, halves upwards."""
    return math.floor(value + Fraction(1, 2))


def _later(stamp: int | None, after: int | None) -> bool:
    return after is None or (stamp is not None and stamp > after)


def _latest(known: int | None, stamp: int | None) -> int | None:
    return known if stamp is None else stamp if known is None else max(known, stamp)


def _upright(image: Image, turn: Orientation) -> Image:
    if turn.rotation:
        image = cv2.rotate(image, _TURNS[turn.rotation]).astype(np.uint8, copy=False)
    return np.ascontiguousarray(image[:, ::-1]) if turn.mirrored else image
