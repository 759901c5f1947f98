"""One encode per run: raw frames and sound into one container, complete or not there at all."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from lipsync.errors import ConfigError, MediaError
from lipsync.media.color import BT709, LIMITED_RANGE, from_bgr
from lipsync.media.probe import reason
from lipsync.media.waveform import AudioFormat, audio_format, decode_audio
from lipsync.types import Image

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Suffix of the target and its FFmpeg format."""

MAX_CRF = 51

LOSSLESS: dict[str, Any] = {
    "codec": "libx264rgb",
    "pix_fmt": "bgr0",
    "crf": 0,
    "preset": "ultrafast",
    "audio_codec": "flac",
}
"""Settings that lose nothing: pictures stay as written, bit for bit, sound as 16 bits hold it. Twice as fast
as FFV1 or faster, at about its size: 1 MB a second of 192x192, 13 MB of 720p."""

AUDIO_CODECS = {"aac": "fltp", "flac": "s16", "pcm_s16le": "s16"}
"""FFmpeg encoders of sound and the samples they take; the 16-bit ones lose nothing more."""

_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_SUBSAMPLED = ("420", "422", "nv12")
_X264 = ("libx264", "libx264rgb")
_RGB = 0
"""FFmpeg's code of the matrix of pictures that are stored as red, green and blue."""
_FULL_RANGE = 2


class VideoWriter:
    """Encode BGR frames and a sound track into one file; use as a context manager.

    The file is written as ``<name>.part`` and renamed when the block ends without an exception; otherwise
    the part is removed and an older file of that name stays as it was. Colours are converted to BT.709
    limited range and tagged so, which :class:`lipsync.media.reader.VideoReader` undoes exactly as players
    do. H.264 in 4:2:0 needs even sizes: the last column or row of an odd picture is repeated, because
    4:4:4 does not play in browsers and phones, and cropping would lose pixels.

    With :data:`LOSSLESS` nothing is converted. Of the containers, mp4 and mov keep every frame rate exactly;
    Matroska counts milliseconds.

    Args:
        path: Target; the suffix chooses the container (.mp4, .m4v, .mov, .mkv). Missing folders are created.
        width: Width of the images, pixels.
        height: Height of the images, pixels.
        fps: Exact frame rate.
        audio: ``(N,)`` float mono in [-1, 1], or a media file whose sound is re-encoded (its own rate, mono
            or stereo, on the clock of its video), or None.
        sample_rate: Rate in Hz of an ``audio`` array.
        trim_audio: Sound that outlasts the video ends with the last frame, to the sample; otherwise it is
            written whole. Shorter sound is never padded.
        crf: Quality of x264/x265, lower is better (0 lossless to 51).
        preset: Speed of x264/x265.
        codec: FFmpeg encoder.
        pix_fmt: Pixel format of the encoder; red, green and blue (``bgr0``, ``gbrp``) are stored as they are.
        audio_codec: ``aac``, ``flac`` or ``pcm_s16le``.
        metadata: Tags of the container by name, such as ``{"comment": ...}``; mp4 knows only the usual names.
        threads: Encoder threads. Fixed, because the bytes depend on it.

    Raises:
        MediaError: On entry: unknown suffix, unwritable target, unreadable sound, unknown encoder. On
            ``write`` or exit: the disk is full or the encoder fails. On exit: no frame was written.
        ValueError: On ``write``: an image of another size or type.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: Fraction,
        audio: npt.NDArray[np.floating] | str | Path | None = None,
        *,
        sample_rate: int = 16000,
        trim_audio: bool = False,
        crf: int = 18,
        preset: str = "medium",
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        audio_codec: str = "aac",
        metadata: Mapping[str, str] | None = None,
        threads: int = 4,
    ) -> None:
        if width < 1 or height < 1 or fps <= 0:
            raise ValueError(f"width, height and fps must be positive, got {width}, {height}, {fps}")
        if not 0 <= crf <= MAX_CRF:
            raise ConfigError(f"encoder.crf={crf}: give 0 (lossless) to {MAX_CRF}")
        if audio_codec not in AUDIO_CODECS:
            raise ConfigError(f"encoder.audio_codec={audio_codec}: give one of {', '.join(AUDIO_CODECS)}")
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.width = width
        self.height = height
        self.fps = fps
        self.audio = audio
        self.sample_rate = sample_rate
        self.trim_audio = trim_audio
        self.options = {"crf": str(crf), "preset": preset} if codec in (*_X264, "libx265") else {}
        if codec in _X264:
            # With AVX-512, x264's macroblock tree gives other bytes from run to run (seen with clips longer
            # than its look-ahead of 40 frames); everything else in it repeats exactly.
            self.options["x264-params"] = "mbtree=0"
        self.codec = codec
        self.pix_fmt = pix_fmt
        self.audio_codec = audio_codec
        self.metadata = dict(metadata or {})
        self.threads = threads
        self.frames = 0
        """Frames written so far."""

    def __enter__(self) -> Self:
        kind = CONTAINERS.get(self.path.suffix.lower())
        if kind is None:
            known = ", ".join(CONTAINERS)
            raise MediaError(f"{self.path}: cannot write this kind of file; name it with one of {known}")
        if self.path.is_dir():
            raise MediaError(f"{self.path}: is a directory, expected the name of a video file")
        self._track = None if self.audio is None else _Track(self.audio, self.sample_rate, self.audio_codec)
        options = {"fflags": "+bitexact"}  # no random identifiers: same input, same bytes
        if kind != "matroska":
            options["movflags"] = "+faststart"
            if self._track is not None:  # by default the end of the sound is rounded to milliseconds
                options["movie_timescale"] = str(self._track.rate)
        with self._explained("cannot be written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self.part.absolute()), "w", format=kind, options=options)
            self._container.metadata.update(self.metadata)
        try:
            self._open_streams()
            with self._explained("cannot be written"):
                self._container.start_encoding()  # opens the file, which av.open does not
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def write(self, image: Image) -> None:
        """Append one ``(height, width, 3)`` uint8 BGR image."""
        if image.shape != (self.height, self.width, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"expected a ({self.height}, {self.width}, 3) uint8 image, got {image.shape} {image.dtype}"
            )
        frame = self._converted(image)
        frame.pts = self.frames
        frame.time_base = 1 / self.fps
        self.frames += 1
        with self._explained("writing failed"):
            self._container.mux(self._video.encode(frame))
            if self._track is not None:
                # Sound keeps pace, so that the muxer has nothing to hold back.
                self._track.write(self._container, until=self.frames / self.fps)

    def _open_streams(self) -> None:
        try:
            added = self._container.add_stream(self.codec, rate=self.fps, options=self.options)
            self._video = cast("VideoStream", added)
            context = self._video.codec_context
            context.width = self.width + (self.width % 2 if self._needs_even else 0)
            context.height = self.height + (self.height % 2 if self._needs_even else 0)
            context.pix_fmt = self.pix_fmt
            context.time_base = 1 / self.fps
            context.thread_type = "FRAME"  # PyAV's default, SLICE, costs x264 quality
            context.thread_count = self.threads
            context.colorspace, context.color_range = (
                (_RGB, _FULL_RANGE) if self._keeps_bgr else (BT709, LIMITED_RANGE)
            )
            context.color_primaries = context.color_trc = BT709
            context.open()
            self._converter = VideoReformatter()
            if self._track is not None:
                self._track.attach(self._container)
        except (FFmpegError, OSError, ValueError, OverflowError) as error:
            raise MediaError(
                f"{self.path}: encoder {self.codec} does not accept {self.width}x{self.height} "
                f"{self.pix_fmt} with {self.options} ({reason(error)})"
            ) from error

    @contextmanager
    def _explained(self, problem: str) -> Iterator[None]:
        """Turn what FFmpeg and the system raise into one line that names the file."""
        try:
            yield
        except (FFmpegError, OSError) as error:
            raise MediaError(f"{self.path}: {problem} ({reason(error)})") from error

    @property
    def _needs_even(self) -> bool:
        return any(name in self.pix_fmt for name in _SUBSAMPLED)

    @property
    def _keeps_bgr(self) -> bool:
        return "rgb" in self.pix_fmt or "bgr" in self.pix_fmt or "gbr" in self.pix_fmt

    def _converted(self, image: Image) -> VideoFrame:
        if self._keeps_bgr:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24")
            return self._converter.reformat(frame, format=self.pix_fmt)
        return from_bgr(self._even(image), self.pix_fmt, self._converter)

    def _even(self, image: Image) -> Image:
        if not self._needs_even or (self.width % 2 == 0 and self.height % 2 == 0):
            return image
        return np.pad(image, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")

    def _finish(self) -> None:
        if self.frames == 0:
            raise MediaError(f"{self.path}: not written, because there was no frame to write")
        with self._explained("writing failed"):
            self._container.mux(self._video.encode(None))
            if self._track is not None:
                if not self.trim_audio:
                    self._track.write(self._container)
                self._track.flush(self._container)
            self._container.close()
            self.part.replace(self.path)

    def _discard(self) -> None:
        try:
            self._container.close()
        except (FFmpegError, OSError):
            pass  # the trailer of a file that is thrown away
        finally:
            self.part.unlink(missing_ok=True)


class _Track:
    """The sound: decoded or given samples, encoded on demand."""

    def __init__(self, audio: npt.NDArray[np.floating] | str | Path, sample_rate: int, codec: str) -> None:
        if isinstance(audio, np.ndarray):
            if audio.ndim != 1 or audio.size == 0 or not np.issubdtype(audio.dtype, np.floating):
                raise ValueError(
                    f"audio must be (N,) floating point with N >= 1, got {audio.shape} {audio.dtype}"
                )
            self.format = AudioFormat(sample_rate, 1)
            self.chunks = _pieces(audio, sample_rate)
        else:
            self.format = audio_format(audio)
            self.chunks = decode_audio(audio)
        self.codec = codec
        source = self.format.rate
        self.rate = source if codec != "aac" or source in _AAC_RATES else 48000
        """Of the encoded sound, Hz: rates that AAC lacks become 48 kHz."""
        self.rest = np.zeros((self.format.channels, 0), np.float32)
        """Samples of the latest chunk that are not yet due."""
        self.position = 0

    def attach(self, container: OutputContainer) -> None:
        """Add the stream."""
        self.stream = cast("AudioStream", container.add_stream(self.codec, rate=self.rate))
        self.stream.codec_context.layout = self.layout
        self.stream.codec_context.format = AUDIO_CODECS[self.codec]
        if self.codec == "aac":
            self.stream.codec_context.bit_rate = self.format.channels * (
                64000 if self.rate <= 24000 else 96000
            )

    @property
    def layout(self) -> str:
        """FFmpeg's name of the channel layout."""
        return "mono" if self.format.channels == 1 else "stereo"

    def write(self, container: OutputContainer, until: Fraction | None = None) -> None:
        """Encode the sound up to ``until`` seconds, or all of it."""
        end = sys.maxsize if until is None else math.floor(until * self.format.rate)
        while self.position < end:
            chunk = self.rest if self.rest.size else next(self.chunks, None)
            if chunk is None:
                return
            chunk, self.rest = np.split(chunk, [end - self.position], axis=1)
            frame = self._frame(chunk)
            frame.sample_rate = self.format.rate
            frame.time_base = Fraction(1, self.format.rate)
            frame.pts = self.position
            self.position += chunk.shape[1]
            container.mux(self.stream.encode(frame))

    def _frame(self, chunk: npt.NDArray[np.float32]) -> AudioFrame:
        kind = AUDIO_CODECS[self.codec]
        if kind == "fltp":
            return AudioFrame.from_ndarray(np.ascontiguousarray(chunk), kind, self.layout)
        # As save_wav rounds; interleaved.
        samples = np.clip(np.round(chunk * 32768.0), -32768, 32767).astype(np.int16)
        return AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), kind, self.layout)

    def flush(self, container: OutputContainer) -> None:
        """Encode what the encoder still holds."""
        container.mux(self.stream.encode(None))


def _pieces(waveform: npt.NDArray[np.floating], size: int) -> Iterator[npt.NDArray[np.float32]]:
    """``(1, size)`` float32 pieces of a mono waveform, clipped to [-1, 1]."""
    for start in range(0, waveform.size, size):
        yield np.clip(waveform[None, start : start + size], -1, 1).astype(np.float32)
