"""What a media file holds: streams, exact frame rate, duration, rotation; and how files are opened.

Everything goes through PyAV (FFmpeg inside the wheel); no external program is needed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, overload

import av
import numpy as np
from av.error import FFmpegError
from av.packet import Packet

from lipsync.errors import MediaError
from lipsync.media.color import color_of
from lipsync.types import VideoInfo

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
"""What counts as a video where a folder is searched."""

_MIN_FPS = Fraction(1, 10)
"""Below this a stated rate is a damaged header."""
_MAX_FPS = 480
"""Above this a stated rate is the clock of the container (1000/1, 90000/1), not a frame rate."""
_FROM_ZERO = frozenset({"matroska,webm", "nut", "asf"})
"""FFmpeg's names of the containers that state where the clock ends, not how long it runs from the start."""
_OF_THE_FILE = frozenset({"asf"})
"""Containers of which FFmpeg gives every stream the length of the file."""
_LONGEST_LEAD = Fraction(1, 2)
"""Seconds by which the first picture of a stream with B-frames may be due after it is decoded."""
_MAX_TERM = 1_000_000
"""Larger terms of a frame rate are measurement noise and overflow the clocks of containers."""
_ROUNDING = Fraction(1, 1_000_000)
_LONE_PICTURE = Fraction(25)
"""Rate of a video whose pictures have no time between them: FFmpeg's default."""
MOST_PIXELS = 1 << 26
"""Larger pictures (8192 x 8192) are a damaged header; decoding one takes gigabytes."""
_RATES = (1000, 768_000)
"""Samples a second that sound is recorded at; outside, seconds turn into gigabytes of samples."""
_MOST_REFUSALS = 512
"""Failures to read in a row after which the rest of a file is given up: what a truncated file looks like."""
# Tags in another encoding than UTF-8 must not make a file unreadable; PyAV 19 sees to that itself.
_TAGS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


class _Ratio(Protocol):
    """Fraction, or AVRational of PyAV 19."""

    @property
    def numerator(self) -> int: ...
    @property
    def denominator(self) -> int: ...


class Orientation(NamedTuple):
    """How to show a stored picture upright: turn clockwise by ``rotation``, then mirror left-right."""

    rotation: int
    """0, 90, 180 or 270 degrees."""
    mirrored: bool


def is_image(path: str | Path) -> bool:
    """Whether the suffix is that of a still image (any case)."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def has_audio(path: str | Path) -> bool:
    """Whether the file has an audio stream.

    Raises:
        MediaError: The file cannot be opened as media.
    """
    with open_media(path) as container:
        return bool(container.streams.audio)


def probe(path: str | Path) -> VideoInfo:
    """Describe the first video stream; decodes one frame.

    Raises:
        MediaError: The file is missing, unreadable, has no video stream or no frame that decodes.
    """
    path = Path(path)
    with open_media(path) as container:
        stream = video_stream(container, path)
        frame = _first_frame(container, stream, path)
        turn = orientation(frame)
        width, height = frame.width, frame.height
        if turn.rotation in (90, 270):
            width, height = height, width
        duration = stated_duration(container, stream)
        fps = _frame_rate(stream, duration, path)
        return VideoInfo(
            path=path,
            width=width,
            height=height,
            fps=fps,
            duration=float(duration),
            frame_count=stream.frames or math.floor(duration * fps + Fraction(1, 2)),
            rotation=turn.rotation,
            has_audio=bool(container.streams.audio),
            color=color_of(frame),
        )


@contextmanager
def open_media(path: str | Path) -> Iterator[InputContainer]:
    """Open a file for decoding; errors become one line that says what is wrong.

    Raises:
        MediaError: The file is missing, a directory, empty, not readable or not media.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path}: is a directory, expected a media file")
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty; copy or record it again")
    try:
        # An absolute name cannot be mistaken for a protocol ("part:1.mp4").
        container = av.open(os.path.abspath(path), **_TAGS)
    except (FFmpegError, OSError) as error:
        raise MediaError(
            f"{path}: cannot be opened as media ({reason(error)}); it may be damaged or another kind of file"
        ) from error
    with container:
        yield container


def audio_stream(container: InputContainer, path: str | Path) -> AudioStream:
    """The first audio stream.

    Raises:
        MediaError: There is none, or none that can be decoded.
    """
    if not container.streams.audio:
        raise MediaError(f"{path}: has no audio stream")
    stream = container.streams.audio[0]
    if stream.codec_context is None or not stream.codec_context.sample_rate:
        raise MediaError(f"{path}: the audio stream is of an unknown kind; re-encode it, for instance as wav")
    if not _RATES[0] <= stream.codec_context.sample_rate <= _RATES[1]:
        raise MediaError(f"{path}: states {stream.codec_context.sample_rate} samples a second; it is damaged")
    return stream


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is not a cover picture.

    Raises:
        MediaError: There is none, or none that can be decoded.
    """
    found = first_video(container)
    if found is None:
        raise MediaError(f"{path}: has no video stream")
    if found.codec_context is None:
        raise MediaError(f"{path}: the video stream is of an unknown kind; re-encode it, for instance as mp4")
    if found.width * found.height > MOST_PIXELS:
        raise MediaError(
            f"{path}: states pictures of {found.width}x{found.height} pixels; make it smaller if that is so"
        )
    found.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    return found


def first_video(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not a cover picture, or None."""
    attached = av.stream.Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & attached), None)


@overload
def packets(
    container: InputContainer, stream: VideoStream, path: Path
) -> Iterator[Packet[VideoStream] | None]: ...
@overload
def packets(
    container: InputContainer, stream: AudioStream, path: Path
) -> Iterator[Packet[AudioStream] | None]: ...
def packets(
    container: InputContainer, stream: VideoStream | AudioStream, path: Path
) -> Iterator[Packet[VideoStream] | None] | Iterator[Packet[AudioStream] | None]:
    """The packets of a stream up to the last that can be read, then an empty one that flushes the decoder.

    None stands for a packet that the container announces and does not hold (damaged index, truncated file).

    Raises:
        MediaError: The system cannot read the file.
    """
    refused = 0
    while refused < _MOST_REFUSALS:
        try:
            for packet in cast("Iterator[Any]", container.demux(stream)):
                refused = 0
                yield packet
            return
        except (FFmpegError, OSError) as error:
            # "Not enough memory" is a packet of absurd size, "try again" a damaged transport stream.
            if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
                raise MediaError(f"{path}: reading failed ({reason(error)})") from error
            refused += 1
            yield None
        except IndexError:  # PyAV at the end of a file in which a stream appeared midway
            break
    flush: Packet[Any] = Packet()
    flush.stream = stream
    if stream.time_base is not None:
        flush.time_base = stream.time_base
    yield flush


@overload
def decode(packet: Packet[VideoStream]) -> list[VideoFrame] | None: ...
@overload
def decode(packet: Packet[AudioStream]) -> list[AudioFrame] | None: ...
def decode(
    packet: Packet[VideoStream] | Packet[AudioStream],
) -> list[VideoFrame] | list[AudioFrame] | None:
    """The frames that a packet completes, or None where the decoder refuses it as damaged.

    Decoders refuse in many ways (invalid data, not permitted, not implemented), and one packet says nothing
    about the next: callers count or fill, and report a stream of which nothing decodes.
    """
    try:
        return packet.decode()
    except MemoryError:
        raise
    except FFmpegError:
        return None


def orientation(frame: VideoFrame) -> Orientation:
    """Read the display matrix of a frame, rounded to quarter turns."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV fails on all side data where it does not know one kind (EXIF of FFmpeg 8)
        return Orientation(-90 * round(frame.rotation / 90) % 360, False)
    if data is None:
        return Orientation(0, False)
    matrix = np.frombuffer(cast("bytes", data), dtype=np.int32)
    # Row-major 3x3, [a b u; c d v; x y w]; a point (p, q) is shown at (a p + c q, b p + d q), y downwards.
    a, b, _, c, d = (int(v) for v in matrix[:5])
    mirrored = a * d - b * c < 0
    if mirrored:  # a mirror after the turn negates the first column
        a = -a
        c = -c
    quarter = round(math.degrees(math.atan2(b, a)) / 90) % 4
    return Orientation(90 * quarter, mirrored)


class OrientationReader:
    """:func:`orientation` of the frames of a stream, read again only where the rotation changes.

    Reading side data makes PyAV's frame and its data refer to each other, so that every frame would stay in
    memory until the garbage collector runs: half a gigabyte of them in 1080p.
    """

    def __init__(self) -> None:
        self._known: tuple[int, Orientation] | None = None

    def __call__(self, frame: VideoFrame) -> Orientation:
        """The orientation of the next frame."""
        if self._known is None or self._known[0] != frame.rotation:
            self._known = (frame.rotation, orientation(frame))
        return self._known[1]


def _first_frame(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    for packet in packets(container, stream, path):
        frames = None if packet is None else decode(packet)
        if frames:
            return frames[0]
    raise MediaError(f"{path}: no frame of the video stream can be decoded; the file is damaged")


def stated_duration(container: InputContainer, stream: VideoStream | AudioStream) -> Fraction:
    """Seconds from the start of the stream to its end, else to that of the file; 0 if neither is stated."""
    base = ratio(stream.time_base)
    opened = Fraction(container.start_time or 0, av.time_base)
    start = opened if stream.start_time is None or base is None else stream.start_time * base
    late = max(Fraction(0), start)
    # FLV counts from the first time of decoding: zero, where the first picture only waits for its B-frames.
    flv = container.format.name == "flv" and opened < _LONGEST_LEAD
    from_zero = flv or container.format.name in _FROM_ZERO
    if stream.duration is not None and stream.duration > 0 and base is not None:
        return max(Fraction(0), stream.duration * base - (late if from_zero else 0))
    end = _tagged_end(stream)
    if end == 0 and container.duration is not None and container.duration > 0:
        end = Fraction(container.duration, av.time_base) + (0 if from_zero else opened)
        late = late if from_zero else start
    return max(Fraction(0), end - late)


def has_own_duration(container: InputContainer, stream: VideoStream | AudioStream) -> bool:
    """Whether the container states a length for this very stream."""
    if container.format.name in _OF_THE_FILE:
        return False
    return (stream.duration is not None and stream.duration > 0) or _tagged_end(stream) > 0


def _tagged_end(stream: VideoStream | AudioStream) -> Fraction:
    """Seconds from the container's zero to the end of the stream: a tag of Matroska, "00:00:01.668"."""
    for key, value in stream.metadata.items():
        if key.upper().startswith("DURATION") and (clock := _CLOCK.fullmatch(value.strip())):
            hours, minutes, seconds = (Fraction(part) for part in clock.groups())
            return hours * 3600 + minutes * 60 + seconds
    return Fraction(0)


def _frame_rate(stream: VideoStream, duration: Fraction, path: Path) -> Fraction:
    """Exact frame rate: the average the container states, unless that is a clock or damaged."""
    average = ratio(stream.average_rate)
    if average is not None and _MIN_FPS <= average <= _MAX_FPS:
        return _plain(average)
    frames = stream.frames
    if frames == 0 or duration == 0 or frames / duration < _MIN_FPS:
        frames, duration = _count(path)
    if duration > 0 and frames / duration >= _MIN_FPS:
        return _plain(frames / duration)
    guess = ratio(stream.guessed_rate)  # a single frame
    return _plain(guess) if guess is not None and _MIN_FPS <= guess <= _MAX_FPS else _LONE_PICTURE


def _count(path: Path) -> tuple[int, Fraction]:
    """Packets of the video stream and the seconds they span, by reading the whole file."""
    with open_media(path) as container:
        stream = video_stream(container, path)
        times = sorted(p.pts for p in packets(container, stream, path) if p and p.size and p.pts is not None)
        base = ratio(stream.time_base)
        if len(times) < 2 or base is None:
            return 0, Fraction(0)
        # n frames have n - 1 steps between them
        return len(times) - 1, (times[-1] - times[0]) * base


def _plain(fps: Fraction) -> Fraction:
    """The rate that is meant: Matroska's nanoseconds make 19001/317 of 60000/1001."""
    broadcast = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    if abs(fps - broadcast) <= broadcast * _ROUNDING:
        return broadcast
    return fps if fps.numerator <= _MAX_TERM else fps.limit_denominator(1001)


def ratio(value: _Ratio | None) -> Fraction | None:
    """A rate or time base of PyAV as a Fraction; None where it is unset (None, or 0 from PyAV 19 on)."""
    return Fraction(value.numerator, value.denominator) if value else None


def reason(error: Exception) -> str:
    """The text of an FFmpeg or system error on one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())
