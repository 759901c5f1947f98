"""What survives the lossy steps between the programs of a published pipeline, without those programs.

The ``ffmpeg`` program and OpenCV's video writer are asked for their defaults by many research scripts: JPEG
files of 200 kbit/s, MPEG-4 at a fixed quantiser, "XVID". Here the same encoders run in memory, frame by
frame, with the settings those programs choose, so that the pixels come out equal; memory does not grow with
the length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from lipsync.errors import MediaError
from lipsync.media.probe import OrientationReader, decode, open_media, ratio, reason, video_stream
from lipsync.types import Image

if TYPE_CHECKING:
    from av.filter.context import FilterContext
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

T = TypeVar("T")

PROGRAM_BIT_RATE = 200_000
"""Bits a second that the program gives video when nothing is said; its rate control starts from it."""
GROUP = 12
"""Frames from one key frame to the next, FFmpeg's default."""
QP_TO_LAMBDA = 118
"""FFmpeg's lambda units in one step of the quantiser."""
_BICUBIC = 4
_DROP, _REPEAT = -1.1, 1.1
_TURNS = {90: "clock", 270: "cclock"}


class Shown(NamedTuple):
    """A frame and when the file shows it, in seconds from the start of its video stream."""

    time: Fraction
    frame: VideoFrame


def program_rate(path: str | Path) -> Fraction:
    """The rate at which the program writes the frames of a file when no other is asked for.

    Raises:
        MediaError: The file is unreadable, has no video stream, or states no rate.
    """
    with open_media(path) as container:
        stream = video_stream(container, Path(path))
        rate = ratio(stream.guessed_rate) or ratio(stream.average_rate)
    if not rate:
        raise MediaError(f"{path}: the frame rate cannot be determined; re-encode it at a constant rate")
    return rate


def program_frames(path: str | Path, fps: Fraction) -> Iterator[Shown]:
    """The frames that the program hands its encoder: upright, of one size, repeated or dropped to ``fps``.

    Time counts from the start of the file, so that a video stream that starts late is filled up with its
    first frame.

    Raises:
        MediaError: The file is unreadable, has no video, or nothing decodes.
    """
    path = Path(path)
    with open_media(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        start = Fraction(container.start_time or 0, av.time_base)
        base = ratio(stream.time_base) or Fraction(1, av.time_base)
        first = start if stream.start_time is None else stream.start_time * base
        step = 1 / (ratio(stream.guessed_rate) or fps)
        shape = _Shape()
        timed = (
            (float((at - start) * fps), float(length * fps), Shown(at - first, shape(frame)))
            for at, length, frame in _timed(container.demux(stream), base, start, step, path)
        )
        none = True
        for shown in at_constant_rate(timed):
            none = False
            yield shown
        if none:
            raise MediaError(f"{path}: no frame of the video stream can be decoded; the file is damaged")


def _timed(
    packets: Iterator[Packet[VideoStream]], base: Fraction, start: Fraction, step: Fraction, path: Path
) -> Iterator[tuple[Fraction, Fraction, VideoFrame]]:
    """``(time, duration, frame)``; a frame without a time follows the one before."""
    due = start
    try:
        for packet in packets:
            for frame in decode(packet) or ():
                unit = ratio(frame.time_base) or base
                time = due if frame.pts is None else frame.pts * unit
                length = frame.duration * unit or step
                yield time, length, frame
                due = time + length
    except (FFmpegError, OSError) as error:
        raise MediaError(f"{path}: reading failed ({reason(error)})") from error


def at_constant_rate(items: Iterable[tuple[float, float, T]]) -> Iterator[T]:
    """Repeat and drop as the program does for a constant rate (``-fps_mode cfr``).

    Args:
        items: Position, duration, item; both in frames of the output. An item may be late or early by up to
            1.1 frames before one is repeated or dropped.
    """
    due = 0
    before: list[T] = []  # at most one
    repeats = deque([0, 0, 0], maxlen=3)
    for position, duration, item in items:
        early = position - due
        late = early + duration
        if early < 0 < late:
            early = 0.0
        count, old = 1, 0
        if late < _DROP:
            count = 0
        elif late > _REPEAT:
            count = round(late)
            old = round(early - 0.6) if early > _REPEAT else 0
        repeats.append(old)
        for index in range(count):
            yield before[0] if before and index < old else item
        due += count
        before = [item]
    for item in before:
        yield from [item] * sorted(repeats)[1]


class _Shape:
    """Turns frames upright and brings them to the size of the first, as the program does by itself."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._converter = VideoReformatter()
        self._orientation = OrientationReader()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        turn = self._orientation(frame)
        if turn.rotation or turn.mirrored:
            frame = _filtered(frame, turn.rotation, turn.mirrored)
        self._size = self._size or (frame.width, frame.height)
        if (frame.width, frame.height) != self._size:
            frame = self._converter.reformat(frame, *self._size, interpolation=_BICUBIC)
        return frame


def _filtered(frame: VideoFrame, rotation: int, mirrored: bool) -> VideoFrame:
    graph = av.filter.Graph()
    chain: list[FilterContext] = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
        )
    ]
    if rotation == 180:
        chain += [graph.add("hflip"), graph.add("vflip")]
    elif rotation:
        chain.append(graph.add("transpose", _TURNS[rotation]))
    if mirrored:
        chain.append(graph.add("hflip"))
    chain.append(graph.add("buffersink"))
    graph.link_nodes(*chain).configure()
    graph.push(frame)
    return cast("VideoFrame", graph.pull())


class JpegCodec:
    """Pictures as they come back from the program's JPEG files through OpenCV.

    Args:
        fps: Rate of the frames.
        quantiser: Of every picture (``-qscale:v``); None: the program's default, a rate control that makes
            each picture depend on those before, so that all must be encoded in order.
    """

    def __init__(self, fps: Fraction, quantiser: int | None = None) -> None:
        self.fps = fps
        self.quantiser = quantiser
        self._encoder: VideoCodecContext | None = None
        self._converter = VideoReformatter()
        self._count = 0

    def __call__(self, frame: VideoFrame) -> Image:
        """The picture after the round trip, ``(H, W, 3)`` BGR."""
        name = frame.format.name
        layout = next((kind for kind in ("422", "444") if kind in name), "420")
        layout = "444" if name.startswith(("rgb", "bgr", "gbr")) else layout
        frame = self._converter.reformat(frame, format=f"yuvj{layout}p", interpolation=_BICUBIC)
        if self._encoder is None:
            options = {} if self.quantiser is None else {"flags": "+qscale"}
            self._encoder = _encoder("mjpeg", frame, self.fps, PROGRAM_BIT_RATE, options)
            if self.quantiser is not None:
                self._encoder.global_quality = QP_TO_LAMBDA * self.quantiser
        (packet,) = self._encoder.encode(_numbered(frame, self._count, self.fps))
        self._count += 1
        picture = cv2.imdecode(np.frombuffer(cast("bytes", packet), np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise MediaError("a picture just encoded as JPEG cannot be decoded; the OpenCV in use is broken")
        return picture.astype(np.uint8, copy=False)


def mpeg4(frames: Iterable[VideoFrame], fps: Fraction, quantiser: int = 2) -> Iterator[VideoFrame]:
    """Frames as they come back from the program's MPEG-4 at a fixed quantiser (``-qscale:v``)."""
    # The program sets the quantiser on every frame, which PyAV cannot; these bounds leave no other choice.
    weight = str(QP_TO_LAMBDA * quantiser)
    options = {"qmin": str(quantiser), "qmax": str(quantiser), "lmin": weight, "lmax": weight}
    yield from _recoded(frames, fps, PROGRAM_BIT_RATE, {**options, "i_qfactor": "1"})


def xvid(images: Iterable[Image], fps: Fraction) -> Iterator[VideoFrame]:
    """Images as they come back from a file of ``cv2.VideoWriter`` with the code ``XVID``.

    OpenCV asks for one and a half bits a pixel and a quantiser of 3 or more, which then is what it gets.
    """
    converter = VideoReformatter()
    frames = (
        converter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24"),
            format="yuv420p",
            interpolation=_BICUBIC,
        )
        for image in images
    )
    yield from _recoded(frames, fps, None, {"qmin": "3"}, tag="XVID")


def to_bgr_as_opencv(frame: VideoFrame, converter: VideoReformatter) -> Image:
    """The image that ``cv2.VideoCapture`` gives for a frame."""
    converted = converter.reformat(frame, format="bgr24", interpolation=_BICUBIC)
    return converted.to_ndarray().astype(np.uint8, copy=False)


def _recoded(
    frames: Iterable[VideoFrame],
    fps: Fraction,
    bit_rate: int | None,
    options: dict[str, str],
    tag: str | None = None,
) -> Iterator[VideoFrame]:
    encoder: VideoCodecContext | None = None
    converter = VideoReformatter()
    decoder = av.CodecContext.create("mpeg4", "r")
    decoder.thread_count = 1
    for index, source in enumerate(frames):
        frame = converter.reformat(
            source, format="yuv420p", interpolation=_BICUBIC, dst_color_range=ColorRange.MPEG
        )
        if encoder is None:
            rate = bit_rate or int(1.5 * fps * frame.width * frame.height)
            encoder = _encoder("mpeg4", frame, fps, rate, options)
            if tag is not None:
                encoder.codec_tag = decoder.codec_tag = tag
        for packet in encoder.encode(_numbered(frame, index, fps)):
            yield from decoder.decode(packet)
    if encoder is None:
        return
    for packet in encoder.encode(None):
        yield from decoder.decode(packet)
    yield from decoder.decode(None)


def _encoder(
    name: str, frame: VideoFrame, fps: Fraction, bit_rate: int, options: dict[str, str]
) -> VideoCodecContext:
    encoder = cast("VideoCodecContext", av.CodecContext.create(name, "w"))
    encoder.width, encoder.height = frame.width, frame.height
    encoder.pix_fmt = frame.format.name
    encoder.time_base, encoder.framerate = 1 / fps, fps
    encoder.bit_rate = bit_rate
    encoder.gop_size = GROUP
    encoder.thread_count = 1  # several slices would change the result
    encoder.options = cast("dict[str, Any]", options)
    return encoder


def _numbered(frame: VideoFrame, index: int, fps: Fraction) -> VideoFrame:
    frame.pts, frame.time_base = index, 1 / fps
    frame.pict_type = PictureType.NONE  # the encoder would repeat the choice of the file's
    return frame
