"""Streaming video decode with true timestamps or at a constant rate; memory does not grow with length."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from lipsync.errors import MediaError
from lipsync.media.color import to_bgr
from lipsync.media.probe import (
    LONGEST_GAP,
    Orientation,
    OrientationReader,
    decode,
    open_media,
    probe,
    ratio,
    reason,
    video_stream,
)
from lipsync.types import Frame, Image, VideoInfo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Transform = Callable[[Image], Image]
T = TypeVar("T")

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


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
        """Packets the decoder refused during the latest iteration; known when it ends."""
        self._source = probe(self.path)

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
        self.corrupt_packets = 0
        try:
            yield from run
        finally:
            self.corrupt_packets = run.corrupt_packets


class _Pass:
    """One pass over the file: its counters and its colour converter."""

    def __init__(self, reader: VideoReader) -> None:
        self.path = reader.path
        self.fps = reader.fps
        self.transform = reader.transform
        self.size = (reader._source.width, reader._source.height)
        self.step = 1 / reader._source.fps
        self.corrupt_packets = 0
        self.converter = VideoReformatter()
        self.orientation = OrientationReader()

    def __iter__(self) -> Generator[Frame, None, None]:
        with open_media(self.path) as container:
            stream = video_stream(container, self.path)
            decoded = self._decode(container, stream)
            if self.fps is None:
                for index, (time, _, frame) in enumerate(decoded):
                    yield Frame(index, float(time), self._image(frame), self.path)
                return
            slack = (ratio(stream.time_base) or Fraction(0)) / 2
            shown: VideoFrame | None = None
            for index, frame in enumerate(constant_rate(decoded, self.fps, slack)):
                if frame is not shown:  # frames that are never shown are not converted
                    shown, image = frame, self._image(frame)
                yield Frame(index, float(index / self.fps), image, self.path)

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[_Decoded]:
        """Frames with times that start at 0 and never decrease."""
        stream.thread_type = "AUTO"
        base = ratio(stream.time_base) or Fraction(1, av.time_base)
        origin = None if stream.start_time is None else stream.start_time * base
        clock = Fraction(0)  # when the next frame is due, for frames without a timestamp
        last = Fraction(0)
        none = True
        for packet in self._packets(container, stream):
            for frame in self._frames(packet):
                base = ratio(frame.time_base) or base
                if frame.pts is not None:
                    time = frame.pts * base
                    origin = time if origin is None or (none and time < origin) else origin
                    if 0 <= time - origin - last <= LONGEST_GAP:  # otherwise carry on at the due time
                        clock = time - origin
                last = clock
                duration = getattr(frame, "duration", 0) * base
                if duration < self.step / 2:  # unknown, or one tick of a file without a frame rate
                    duration = self.step
                yield _Decoded(clock, duration, frame)
                clock += duration
                none = False
        if none:
            raise MediaError(f"{self.path}: no frame of the video stream can be decoded; the file is damaged")

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        try:
            yield from container.demux(stream)
        except (FFmpegError, OSError) as error:
            raise MediaError(f"{self.path}: reading failed ({reason(error)})") from error

    def _frames(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        frames = decode(packet)
        if frames is None:  # costs the frames of this packet only; the count is public
            self.corrupt_packets += 1
        return frames or []

    def _image(self, frame: VideoFrame) -> Image:
        image = _upright(to_bgr(frame, self.converter), self.orientation(frame))
        if image.shape[:2] != self.size[::-1]:  # calls and broadcasts change their resolution midway
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return image if self.transform is None else self.transform(image)


class StillReader:
    """A still image as a video of constant rate.

    Args:
        path: Image file.
        fps: Frame rate.
        count: Number of frames; None: endless.
        transform: Applied to the image once.

    Raises:
        MediaError: The file is missing or not an image.
    """

    def __init__(
        self, path: str | Path, fps: Fraction, count: int | None = None, transform: Transform | None = None
    ) -> None:
        if fps <= 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.path = Path(path)
        self.fps = fps
        self.count = count
        image = read_image(self.path)
        self.image = image if transform is None else transform(image)

    @property
    def info(self) -> VideoInfo:
        """Size and rate; ``frame_count`` and ``duration`` are 0 for an endless reader."""
        count = self.count or 0
        height, width = self.image.shape[:2]
        return VideoInfo(self.path, width, height, self.fps, float(count / self.fps), count, 0, False)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while self.count is None or index < self.count:
            yield Frame(index, float(index / self.fps), self.image, self.path)
            index += 1


def read_image(path: str | Path) -> Image:
    """Decode an image file to BGR uint8, turned upright by its EXIF tag; any file name works.

    Raises:
        MediaError: The file is missing or not an image.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"{path}: no such image file")
    data = np.fromfile(path, dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise MediaError(f"{path}: cannot be decoded as an image; it may be empty, damaged or another kind")
    return image.astype(np.uint8, copy=False)


def constant_rate(
    items: Iterable[tuple[Fraction, Fraction, T]], fps: Fraction, slack: Fraction = Fraction(0)
) -> Iterator[T]:
    """Resample ``(time, duration, item)`` in time order to a constant rate.

    Output ``k`` is the latest item with ``time <= k / fps + slack`` (the first item before its time);
    ``round(end * fps)`` outputs, at least one, where ``end`` is the end of the last item. Holds back half
    an output step, so that the count is exact although the end is not known in advance.
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
    total = 0 if empty else max(1, round_half_up(end * fps))
    for _ in range(emitted, total):
        yield pending.popleft() if pending else current  # type: ignore[misc]


def round_half_up(value: Fraction) -> int:
    """Nearest whole number, halves upwards."""
    return math.floor(value + Fraction(1, 2))


def _upright(image: Image, turn: Orientation) -> Image:
    if turn.rotation:
        image = cv2.rotate(image, _TURNS[turn.rotation]).astype(np.uint8, copy=False)
    return np.ascontiguousarray(image[:, ::-1]) if turn.mirrored else image
