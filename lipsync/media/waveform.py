"""Sound of any media file as samples on the clock of its video."""

from __future__ import annotations

import wave
from collections.abc import Iterator
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
from lipsync.media.probe import LONGEST_GAP, audio_stream, decode, first_video, open_media, ratio, reason

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Samples = npt.NDArray[np.float32]

_JITTER = Fraction(1, 25)
"""Seconds by which timestamps may wander before silence is inserted (one frame of video)."""
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
    source = audio_format(path).rate
    mono = np.concatenate([chunk.mean(axis=0) for chunk in decode_audio(path)])
    if source != rate:
        mono = _resample(mono, source, rate)
    return np.clip(mono, -1, 1)


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
    with open_media(path) as container:
        return _format(audio_stream(container, Path(path)))


def decode_audio(path: str | Path) -> Iterator[Samples]:
    """Stream the sound in chunks ``(channels, n)`` float32 at its own rate, aligned as in load_waveform.

    Raises:
        MediaError: As :func:`load_waveform`, once the chunks are asked for.
    """
    path = Path(path)
    with open_media(path) as container:
        stream = audio_stream(container, path)
        limit = _stated_end(container, stream)
        written = 0
        tail: list[Samples] = []
        for chunk in _placed(container, stream, path):
            room = chunk.shape[1] if limit is None else max(0, limit - written)
            inside, outside = chunk[:, :room], chunk[:, room:]
            if inside.size:
                yield inside
            written += inside.shape[1]
            tail.append(outside)
            if sum(part.shape[1] for part in tail) > LONGEST_PADDING:
                # More than a codec pads: the container understates its length.
                yield from (part for part in tail if part.size)
                limit, tail = None, []
        if written == 0:
            raise MediaError(f"{path}: the audio stream holds no sound")


def _format(stream: AudioStream) -> AudioFormat:
    return AudioFormat(stream.codec_context.sample_rate, min(2, stream.codec_context.channels))


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


def _placed(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[Samples]:
    """Samples from the origin on without gaps: silence where nothing was recorded, overlaps dropped."""
    rate, channels = _format(stream)
    origin = _origin(container, stream)
    position = 0  # samples yielded since the origin
    due: int | None = None  # where the next decoded sample belongs by counting
    for time, samples in _decoded(container, stream, path):
        origin = time if origin is None else origin
        start = due or 0
        if time is not None:
            stated = round((time - (origin or 0)) * rate)
            step = Fraction(stated - start, rate)
            if step <= LONGEST_GAP and (step > _JITTER if due is not None else step >= -LONGEST_GAP):
                start = stated
        for gap in range(position, start, rate):
            yield np.zeros((channels, min(rate, start - gap)), dtype=np.float32)
        yield samples[:, max(0, position - start) :]
        due = start + samples.shape[1]
        position = max(position, due)


def _decoded(
    container: InputContainer, stream: AudioStream, path: Path
) -> Iterator[tuple[Fraction | None, Samples]]:
    """Time on the container's clock and ``(channels, n)`` float32 samples of each decoded frame."""
    rate, channels = _format(stream)
    layout = "mono" if channels == 1 else "stereo"
    shape: tuple[str, str, int] | None = None
    try:
        for packet in container.demux(stream):
            # A damaged packet leaves a gap in the timestamps, which the caller fills.
            for frame in decode(packet) or ():
                found = (frame.format.name, frame.layout.name, frame.sample_rate)
                if found != shape:  # broadcasts change their layout midway
                    resampler, shape = AudioResampler("fltp", layout, rate), found
                base = ratio(frame.time_base)
                time = None if frame.pts is None or base is None else frame.pts * base
                for converted in resampler.resample(frame):
                    yield time, converted.to_ndarray().astype(np.float32, copy=False)
    except (FFmpegError, OSError) as error:
        raise MediaError(f"{path}: reading the sound failed ({reason(error)})") from error


def _resample(mono: Samples, source: int, rate: int) -> Samples:
    """Band-limited resampling by FFmpeg's swresample, without delay."""
    resampler = AudioResampler("flt", "mono", rate)
    parts: list[Samples] = []
    for start in range(0, mono.size, source):
        piece = np.ascontiguousarray(mono[None, start : start + source])
        frame = AudioFrame.from_ndarray(piece, "flt", "mono")
        frame.sample_rate = source
        parts.extend(out.to_ndarray()[0].astype(np.float32, copy=False) for out in resampler.resample(frame))
    parts.extend(out.to_ndarray()[0].astype(np.float32, copy=False) for out in resampler.resample(None))
    length = round(Fraction(mono.size * rate, source))
    result: Samples = np.concatenate(parts)[:length]
    return np.pad(result, (0, length - result.size))
