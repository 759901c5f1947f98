"""Sound of any media file as samples on the clock of its video."""

from __future__ import annotations

import math
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from lipsync.errors import MediaError
from lipsync.files import replacing
from lipsync.media.probe import (
    audio_stream,
    decode,
    first_video,
    open_media,
    packets,
    ratio,
    reason,
    stated_duration,
)
from lipsync.media.timeline import placed

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Samples = npt.NDArray[np.float32]

_JITTER = Fraction(1, 25)
"""Seconds by which timestamps may wander before silence is inserted (one frame of video)."""
_ROUNDED_END = Fraction(1, 10)
"""Seconds by which the stated length may be off in a whole file."""
LONGEST_PADDING = 4096
"""Samples that the last packet of a codec may carry beyond the end of the sound."""


class AudioFormat(NamedTuple):
    """Rate in Hz and channel count (1 or 2) of decoded sound."""

    rate: int
    channels: int


def load_waveform(path: str | Path, rate: int = 16000) -> Samples:
    """The first audio stream, mixed to mono and resampled.

    Sample 0 is the start of the video stream where the file has one (late sound is padded with silence,
    early sound trimmed), otherwise the start of the sound. Encoder delay and padding are removed; gaps that
    damaged packets leave are filled with silence.

    Args:
        path: Any file FFmpeg can decode.
        rate: Sample rate of the result, Hz.

    Returns:
        ``(N,)`` float32 in [-1, 1], the mean of the channels.

    Raises:
        MediaError: The file is missing, unreadable, has no audio stream or holds no sound.
    """
    return AudioReader(path).load(rate)


def save_wav(path: str | Path, waveform: npt.NDArray[np.floating], rate: int) -> None:
    """Write mono 16-bit PCM; the file appears under its name only when complete.

    Args:
        path: Target; missing folders are created.
        waveform: ``(N,)`` in [-1, 1]; values outside are clipped.
        rate: Sample rate, Hz.

    Raises:
        MediaError: The target cannot be written.
        ValueError: The waveform is not one-dimensional floating point.
    """
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"waveform must be (N,) floating point, got {waveform.shape} {waveform.dtype}")
    path = Path(path)
    samples = np.clip(np.round(waveform * 32768.0), -32768, 32767).astype("<i2")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, wave.open(str(part), "wb") as file:
            file.setparams((1, 2, rate, samples.size, "NONE", "not compressed"))
            file.writeframes(samples.tobytes())
    except OSError as error:
        raise MediaError(f"{path}: cannot be written ({reason(error)})") from error


def audio_format(path: str | Path) -> AudioFormat:
    """Rate and channels (more than two count as two) that :func:`decode_audio` yields.

    Raises:
        MediaError: The file is unreadable or has no audio stream.
    """
    return AudioReader(path).format


def decode_audio(path: str | Path) -> Iterator[Samples]:
    """Stream the sound in chunks ``(channels, n)`` float32 at its own rate, aligned as in load_waveform.

    Raises:
        MediaError: As :func:`load_waveform`, once the chunks are asked for.
    """
    yield from AudioReader(path)


class AudioReader:
    """The first audio stream of a file; every iteration decodes it anew, in chunks ``(channels, n)`` float32.

    Raises:
        MediaError: The file is missing, unreadable or has no audio stream; while iterating: it has no sound.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.corrupt_packets = 0
        """Packets that the decoder refused in the latest iteration; known when it ends. They are silent."""
        self.missing_seconds = 0.0
        """Between the end of the sound and the end that the container states, in the latest iteration; the
        file was truncated. 0 below a tenth of a second and where no end is stated."""
        with open_media(self.path) as container:
            self.format = _format(audio_stream(container, self.path))

    def __iter__(self) -> Iterator[Samples]:
        self.corrupt_packets, self.missing_seconds = 0, 0.0
        damage = _Damage()
        try:
            yield from _chunks(self.path, damage)
        finally:
            self.corrupt_packets = damage.corrupt_packets
            self.missing_seconds = float(damage.missing) if damage.missing > _ROUNDED_END else 0.0

    def load(self, rate: int) -> Samples:
        """All of it, as :func:`load_waveform` describes; needing the memory of the result only."""
        mono: Iterator[Samples] = (chunk.mean(axis=0) for chunk in self)
        if self.format.rate != rate:
            mono = _resampled(mono, self.format.rate, rate)
        return np.clip(np.concatenate(list(mono)), -1, 1)


@dataclass(slots=True)
class _Damage:
    corrupt_packets: int = 0
    missing: Fraction = Fraction(0)


def _chunks(path: Path, damage: _Damage) -> Iterator[Samples]:
    """The sound up to the end that the container states: without the padding of the last packet."""
    with open_media(path) as container:
        stream = audio_stream(container, path)
        stated = limit = _stated_end(container, stream)
        written = 0
        tail: list[Samples] = []
        for chunk in _joined(container, stream, path, damage):
            room = chunk.shape[1] if limit is None else max(0, limit - written)
            inside, outside = chunk[:, :room], chunk[:, room:]
            if inside.size:
                yield inside
            written += inside.shape[1]
            tail.append(outside)
            if sum(part.shape[1] for part in tail) > LONGEST_PADDING:
                # More than a codec pads: the container understates its length.
                yield from (part for part in tail if part.size)
                written += sum(part.shape[1] for part in tail)
                limit, tail = None, []
        if written == 0:
            raise MediaError(f"{path}: the audio stream holds no sound")
        if stated is not None:
            damage.missing = Fraction(max(0, stated - written), _format(stream).rate)


def _format(stream: AudioStream) -> AudioFormat:
    return AudioFormat(stream.codec_context.sample_rate, max(1, min(2, stream.codec_context.channels)))


def _origin(container: InputContainer, stream: AudioStream) -> Fraction | None:
    """The instant of sample 0 on the clock of the container, None where nothing states it."""
    video = first_video(container)
    for candidate in (video, stream):
        base = None if candidate is None else ratio(candidate.time_base)
        if candidate is not None and candidate.start_time is not None and base is not None:
            return candidate.start_time * base
    return None


def _stated_end(container: InputContainer, stream: AudioStream) -> int | None:
    """Samples from the origin to the end that the container states for the sound."""
    origin = _origin(container, stream)
    base = ratio(stream.time_base)
    if origin is None or not stream.duration or base is None:
        return None
    end = ((stream.start_time or 0) + stream.duration) * base
    return max(0, round((end - origin) * stream.codec_context.sample_rate))


def _joined(container: InputContainer, stream: AudioStream, path: Path, damage: _Damage) -> Iterator[Samples]:
    """Samples from the origin on without gaps: silence where nothing was recorded, overlaps dropped."""
    rate, channels = _format(stream)
    origin = _origin(container, stream)
    late = 0 if origin is None else (stream.start_time or 0) * (ratio(stream.time_base) or 0) - origin
    end = stated_duration(container, stream)
    position = 0  # samples yielded since the origin
    items = _decoded(container, stream, path, damage)
    for time, _, samples in placed(items, origin, end + late if end else None, _JITTER):
        start = math.floor(time * rate + Fraction(1, 2))
        for gap in range(position, start, rate):
            yield np.zeros((channels, min(rate, start - gap)), dtype=np.float32)
        yield samples[:, max(0, position - start) :]
        position = max(position, start + samples.shape[1])


def _decoded(
    container: InputContainer, stream: AudioStream, path: Path, damage: _Damage
) -> Iterator[tuple[Fraction | None, Fraction, Samples]]:
    """Time on the container's clock, seconds and ``(channels, n)`` float32 samples of each decoded frame."""
    rate, channels = _format(stream)
    layout = "mono" if channels == 1 else "stereo"
    shape: tuple[str, str, int] | None = None
    unread = 0
    for packet in packets(container, stream, path):
        frames = None if packet is None else decode(packet)
        if packet is None:
            unread += 1  # at the end of the file these are missing, not corrupt
        elif packet.size:
            damage.corrupt_packets += unread + (frames is None)
            unread = 0
        # A damaged packet leaves a gap in the timestamps, which the caller fills.
        for frame in frames or ():
            found = (frame.format.name, frame.layout.name, frame.sample_rate)
            if found != shape:  # broadcasts change their layout midway
                resampler, shape = AudioResampler("fltp", layout, rate), found
            base = ratio(frame.time_base)
            time = None if frame.pts is None or base is None else frame.pts * base
            try:
                converted = [out.to_ndarray() for out in resampler.resample(frame)]
            except FFmpegError:  # a damaged header: a layout or rate that is none
                damage.corrupt_packets += 1
                shape = None
                continue
            for samples in converted:
                yield time, Fraction(samples.shape[1], rate), samples.astype(np.float32, copy=False)


def _resampled(chunks: Iterable[Samples], source: int, rate: int) -> Iterator[Samples]:
    """Band-limited resampling of mono sound by FFmpeg's swresample, without delay."""
    resampler = AudioResampler("flt", "mono", rate)
    taken = given = 0
    for mono in chunks:
        for start in range(0, mono.size, source):
            piece = np.ascontiguousarray(mono[None, start : start + source])
            frame = AudioFrame.from_ndarray(piece, "flt", "mono")
            frame.sample_rate = source
            for out in resampler.resample(frame):
                yield out.to_ndarray()[0].astype(np.float32, copy=False)
                given += out.samples
        taken += mono.size
    length = round(Fraction(taken * rate, source))
    flushed = [out.to_ndarray()[0].astype(np.float32, copy=False) for out in resampler.resample(None)]
    rest = np.concatenate([*flushed, np.zeros(max(0, length - given), np.float32)])
    yield rest[: max(0, length - given)]
