"""Sound as the ``ffmpeg`` program extracts it: by the clock of the file, 16-bit mono, perhaps through MP3."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.error import FFmpegError
from av.packet import Packet

from lipsync.errors import MediaError
from lipsync.media.probe import audio_stream, decode, open_media, ratio, reason
from lipsync.media.waveform import LONGEST_PADDING
from lipsync.types import Waveform

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

RATE = 16000
MP3_DELAY = 1105
"""Samples by which an MP3 encoder and decoder delay the sound; an AVI file does not say so."""
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def program_sound(path: str | Path) -> Waveform:
    """The first audio stream as ``-ac 1 -ar 16000 -acodec pcm_s16le`` gives it, ``(N,)`` of whole 1/32768.

    Sample 0 is the start of the file; sound that starts later is preceded by silence.

    Raises:
        MediaError: The file is missing, unreadable, has no audio stream or holds no sound.
    """
    with open_media(path) as container:
        stream = audio_stream(container, path)
        return _mono(_silence(container, stream, RATE), _frames(container, stream, path), path)


def program_sound_by_mp3(path: str | Path) -> Waveform:
    """As :func:`program_sound`, but stored in between as the MP3 that the program puts into an AVI file.

    The sound comes later by :data:`MP3_DELAY` samples at :func:`mp3_rate`.

    Raises:
        MediaError: As :func:`program_sound`.
    """
    with open_media(path) as container:
        stream = audio_stream(container, path)
        rate = _nearest(stream.codec_context.sample_rate)
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        encoder = av.CodecContext.create("libmp3lame", "w")
        encoder.sample_rate, encoder.layout, encoder.format = rate, layout, "fltp"
        encoder.bit_rate = 0  # left to LAME, as the program does
        encoder.time_base = Fraction(1, rate)
        silence = _silence(container, stream, rate)
        coded = _coded(encoder, silence, _frames(container, stream, path), (layout, rate))
        return _mono(0, coded, path)


def mp3_rate(path: str | Path) -> int | None:
    """Sample rate of that MP3, Hz; None for a file without sound.

    Raises:
        MediaError: The file is missing or unreadable.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        return _nearest(audio_stream(container, path).codec_context.sample_rate)


def mp3_video_lag(rate: int, fps: Fraction) -> int:
    """Frames by which an AVI file shows all but its first frame later, to make room for the MP3's delay.

    The program moves both streams by the whole MP3 blocks that begin before the video, rounded up to whole
    frames, because AVI knows no negative times.
    """
    block = 1152 if rate >= 32000 else 576
    return math.ceil(Fraction(round(MP3_DELAY / block) * block, rate) * fps)


def _nearest(rate: int) -> int:
    return min(_MP3_RATES, key=lambda known: abs(known - rate))


def _silence(container: InputContainer, stream: AudioStream, rate: int) -> int:
    """Samples of silence before the first one."""
    base = ratio(stream.time_base)
    if stream.start_time is None or base is None:
        return 0
    start = stream.start_time * base - Fraction(container.start_time or 0, av.time_base)
    return max(0, round(start * rate))


def _stated_end(stream: AudioStream) -> int | None:
    """Samples of the sound by its stated duration."""
    base = ratio(stream.time_base)
    if stream.duration is None or base is None:
        return None
    return round(stream.duration * base * stream.codec_context.sample_rate)


def _frames(container: InputContainer, stream: AudioStream, path: str | Path) -> Iterator[AudioFrame]:
    end, position = _stated_end(stream), 0
    try:
        for packet in container.demux(stream):
            for frame in decode(packet) or ():
                count = frame.samples
                if end is None or position + count <= end or position > end + LONGEST_PADDING:
                    yield frame
                elif position < end:
                    yield _first(frame, end - position)
                position += count
    except (FFmpegError, OSError) as error:
        raise MediaError(f"{path}: reading the sound failed ({reason(error)})") from error


def _first(frame: AudioFrame, samples: int) -> AudioFrame:
    values: np.ndarray[Any, Any] = frame.to_ndarray()
    values = values[:, : samples * (1 if frame.format.is_planar else frame.layout.nb_channels)]
    part = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), frame.format.name, frame.layout.name)
    part.sample_rate = frame.sample_rate
    return part


def _resampled(
    frames: Iterable[AudioFrame], sample_format: str, layout: str, rate: int
) -> Iterator[AudioFrame]:
    """By one swresample a run of frames of one kind: broadcasts change their layout midway."""
    resampler: AudioResampler | None = None
    kind: tuple[str, str, int] | None = None
    for frame in frames:
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or found != kind:
            if resampler is not None:
                yield from resampler.resample(None)
            resampler, kind = AudioResampler(sample_format, layout, rate), found
        frame.pts = None
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def _coded(
    encoder: AudioCodecContext, silence: int, frames: Iterable[AudioFrame], kind: tuple[str, int]
) -> Iterator[AudioFrame]:
    layout, rate = kind
    decoder = cast("AudioCodecContext", av.CodecContext.create("mp3float", "r"))

    def samples() -> Iterator[AudioFrame]:
        channels = 1 if layout == "mono" else 2
        if silence:
            quiet = av.AudioFrame.from_ndarray(np.zeros((channels, silence), np.float32), "fltp", layout)
            quiet.sample_rate = rate
            yield quiet
        yield from _resampled(frames, "fltp", layout, rate)

    position = 0
    for frame in samples():
        frame.pts, frame.time_base = position, Fraction(1, rate)
        position += frame.samples
        for packet in encoder.encode(frame):
            yield from decoder.decode(_bare(packet))
    for packet in encoder.encode(None):
        yield from decoder.decode(_bare(packet))
    yield from decoder.decode(None)


def _bare(packet: Packet[AudioStream]) -> Packet[AudioStream]:
    """Without the note on how many samples to skip, for which AVI has no place."""
    return cast("Packet[AudioStream]", Packet(bytes(packet)))


def _mono(silence: int, frames: Iterable[AudioFrame], path: str | Path) -> Waveform:
    parts: list[np.ndarray[Any, np.dtype[np.int16]]] = [np.zeros(silence, np.int16)]
    parts.extend(
        frame.to_ndarray()[0].astype(np.int16, copy=False)
        for frame in _resampled(frames, "s16", "mono", RATE)
    )
    if len(parts) == 1:
        raise MediaError(f"{path}: the audio stream holds no sound")
    result: Waveform = np.concatenate(parts).astype(np.float32) / np.float32(32768)
    return result
