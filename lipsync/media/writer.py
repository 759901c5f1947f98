"""One encode per run: raw frames and sound into one container, complete or not there at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from lipsync.errors import ConfigError, MediaError
from lipsync.media.color import from_bgr, stored_color
from lipsync.media.encoders import ANY_HARDWARE, SOFTWARE, WEB_CODECS, choose, options, refusal, stored_format
from lipsync.media.probe import reason
from lipsync.media.track import AUDIO_CODECS, SoundTrack
from lipsync.types import Color, Image

if TYPE_CHECKING:
    from av.video.stream import VideoStream

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffix of the target and its FFmpeg format."""

LOSSLESS: dict[str, Any] = {
    "codec": "libx264rgb",
    "pix_fmt": "bgr0",
    "crf": 0,
    "preset": "ultrafast",
    "audio_codec": "flac",
}
"""Settings that lose nothing: pictures stay as written, bit for bit, sound as 16 bits hold it. Twice as fast
as FFV1 or faster, at about its size: 1 MB a second of 192x192, 13 MB of 720p."""

_SUBSAMPLED = ("420", "422", "nv12")


class VideoWriter:
    """Encode BGR frames and a sound track into one file; use as a context manager.

    The file is written as ``<name>.part`` and renamed when the block ends without an exception; otherwise
    the part is removed and an older file of that name stays as it was. Colours are coded and tagged as those
    of the source, else as BT.709 in limited range; :class:`lipsync.media.reader.VideoReader` undoes it
    exactly as players do. H.264 in 4:2:0 needs even sizes: the last column or row of an odd picture is
    repeated, because 4:4:4 does not play in browsers and phones, and cropping would lose pixels.

    With :data:`LOSSLESS` nothing is converted. Of the containers, mp4 and mov keep every frame rate exactly;
    Matroska and WebM count milliseconds. Sound reads back to the sample from mp4 and mov, and from Matroska
    with FLAC or Opus; Matroska does not keep the padding of AAC, whose end may lie up to 0.12 s late there.

    Args:
        path: Target; the suffix chooses the container (.mp4, .m4v, .mov, .mkv; .webm for VP9 or AV1 with
            Opus). Missing folders are created.
        width: Width of the images, pixels.
        height: Height of the images, pixels.
        fps: Exact frame rate.
        audio: ``(N,)`` float mono in [-1, 1], or a media file whose sound is re-encoded (its own rate, mono
            or stereo, on the clock of its video), or None.
        sample_rate: Rate in Hz of an ``audio`` array.
        trim_audio: Sound that outlasts the video ends with the last frame, to the sample; otherwise it is
            written whole. Shorter sound is never padded.
        crf: Quality, lower is better: 0 (lossless) to 51, for VP9 and AV1 63; each encoder has its own scale.
        preset: Speed: x264's names for every encoder, or ``realtime``; see :mod:`lipsync.media.encoders`.
        codec: FFmpeg encoder, or ``hardware`` for the first of the graphics cards' that works, else libx264;
            once the block is entered, the attribute names what is used.
        pix_fmt: Pixel format of the encoder; red, green and blue (``bgr0``, ``gbrp``) are stored as they are.
        audio_codec: ``aac``, ``flac``, ``pcm_s16le`` or ``libopus``.
        color: How the source codes its colours.
        metadata: Tags of the container by name, such as ``{"comment": ...}``; mp4 knows only the usual names.
        threads: Encoder threads. Fixed, because the bytes depend on it and shall not on the machine.

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
        color: Color | None = None,
        metadata: Mapping[str, str] | None = None,
        threads: int = 4,
    ) -> None:
        if width < 1 or height < 1 or fps <= 0:
            raise ValueError(f"width, height and fps must be positive, got {width}, {height}, {fps}")
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
        self.codec = self.requested = codec
        """FFmpeg encoder."""
        self.crf = crf
        self.preset = preset
        self.options = options(SOFTWARE if codec == ANY_HARDWARE else codec, crf, preset)
        self.pix_fmt = pix_fmt
        self.color = stored_color(color, _keeps_bgr(pix_fmt))
        """How the pictures are coded."""
        self.audio_codec = audio_codec
        self.metadata = dict(metadata or {})
        self.threads = threads
        self.frames = 0
        """Frames written so far."""
        self.skipped = 0
        """Frames whose sound was left out."""

    def __enter__(self) -> Self:
        kind = CONTAINERS.get(self.path.suffix.lower())
        if kind is None:
            known = ", ".join(CONTAINERS)
            raise MediaError(f"{self.path}: cannot write this kind of file; name it with one of {known}")
        if self.path.is_dir():
            raise MediaError(f"{self.path}: is a directory, expected the name of a video file")
        self._choose()
        audio = self.audio
        self._track = None if audio is None else SoundTrack(audio, self.sample_rate, self.audio_codec)
        settings = {"fflags": "+bitexact"}  # no random identifiers: same input, same bytes
        if kind in ("mp4", "mov"):
            settings["movflags"] = "+faststart"
            if self._track is not None:  # by default the end of the sound is rounded to milliseconds
                settings["movie_timescale"] = str(self._track.rate)
        with self._explained("cannot be written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self.part.absolute()), "w", format=kind, options=settings)
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

    def skip(self, frames: int = 1) -> None:
        """Leave out the sound of the next ``frames`` frames, which will not be written.

        The frames count at the rate of the file; however many are left out, the sound stays with the picture
        to the sample. The sound before and after fade into each other within 5 ms.
        """
        if frames < 0:
            raise ValueError(f"frames must not be negative, got {frames}")
        self.skipped += frames
        if self._track is not None:
            self._track.skip(self.skipped / self.fps)

    def _choose(self) -> None:
        """Settle the encoder and its layout of the pixels."""
        web = self.codec in WEB_CODECS and (self.audio is None or self.audio_codec == "libopus")
        if self.path.suffix.lower() == ".webm" and not web:
            raise MediaError(
                f"{self.path}: a .webm file holds VP9 or AV1 with Opus; use encoder=webm "
                f"(codec libvpx-vp9, audio_codec libopus), or name it .mp4"
            )
        size = (self.width + self.width % 2, self.height + self.height % 2)
        try:
            chosen = choose(self.codec, *size, self.pix_fmt)
        except MediaError as error:
            raise MediaError(f"{self.path}: {error}") from None
        if chosen != self.codec:
            self.codec, self.options = chosen, options(chosen, self.crf, self.preset)
        self.pix_fmt = stored_format(self.codec, self.pix_fmt)

    def _open_streams(self) -> None:
        try:
            added = self._container.add_stream(self.codec, rate=self.fps, options=self.options)
            self._video = cast("VideoStream", added)
            context = self._video.codec_context
            context.width = self.width + (self.width % 2 if self._needs_even else 0)
            context.height = self.height + (self.height % 2 if self._needs_even else 0)
            context.pix_fmt = self.pix_fmt
            context.time_base = 1 / self.fps
            if context.codec.canonical_name == "hevc" and self.path.suffix.lower() != ".mkv":
                context.codec_tag = "hvc1"  # Apple's players refuse FFmpeg's "hev1"
            context.thread_type = "FRAME"  # PyAV's default, SLICE, costs x264 quality
            context.thread_count = self.threads
            context.colorspace, context.color_range = self.color.matrix, self.color.range
            context.color_primaries, context.color_trc = self.color.primaries, self.color.transfer
            context.open()
            self._converter = VideoReformatter()
            if self._track is not None:
                self._track.attach(self._container)
        except (FFmpegError, OSError, ValueError, OverflowError) as error:
            details = f"{self.width}x{self.height} {self.pix_fmt} with {self.options}"
            raise MediaError(f"{self.path}: {refusal(self.codec, details, error)}") from error

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

    def _converted(self, image: Image) -> VideoFrame:
        if _keeps_bgr(self.pix_fmt):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24")
            return self._converter.reformat(frame, format=self.pix_fmt)
        return from_bgr(self._even(image), self.pix_fmt, self._converter, self.color)

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
                self._track.close()
            self._container.close()
            self.part.replace(self.path)

    def _discard(self) -> None:
        try:
            self._container.close()
        except (FFmpegError, OSError):
            pass  # the trailer of a file that is thrown away
        finally:
            if self._track is not None:
                self._track.close()
            self.part.unlink(missing_ok=True)


def _keeps_bgr(pix_fmt: str) -> bool:
    """Whether the format stores red, green and blue."""
    return any(name in pix_fmt for name in ("rgb", "bgr", "gbr"))
