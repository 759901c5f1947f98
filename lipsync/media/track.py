"""The sound of a video that is being written: decoded or given samples, cut and encoded on demand."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame

from lipsync.media.waveform import AudioFormat, audio_format, decode_audio

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer

AUDIO_CODECS = {"aac": "fltp", "flac": "s16", "pcm_s16le": "s16", "libopus": "flt"}
"""FFmpeg encoders of sound and the samples they take; the 16-bit ones lose nothing more."""
TAPER = Fraction(1, 200)
"""Seconds over which two pieces of sound that a cut brings together are faded into each other."""

_RATES = {
    "aac": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "libopus": (8000, 12000, 16000, 24000, 48000),
}

Samples = npt.NDArray[np.float32]


class SoundTrack:
    """The sound of one file.

    Args:
        audio: ``(N,)`` float mono in [-1, 1], or a media file.
        sample_rate: Rate in Hz of an ``audio`` array.
        codec: One of :data:`AUDIO_CODECS`.

    Raises:
        MediaError: The file is unreadable or has no sound.
        ValueError: The array is empty, not one-dimensional or not floating point.
    """

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
        self.rate = source if source in _RATES.get(codec, (source,)) else 48000
        """Of the encoded sound, Hz: rates that the encoder lacks become 48 kHz."""
        self.position = 0
        """Samples encoded."""
        self.left_out = 0
        """Samples of the source that were passed over."""
        self._rest = np.zeros((self.format.channels, 0), np.float32)  # of the latest chunk, not yet due
        self._cut = _Cut(self._rest, math.ceil(TAPER * source))

    def attach(self, container: OutputContainer) -> None:
        """Add the stream."""
        self.stream = cast("AudioStream", container.add_stream(self.codec, rate=self.rate))
        self.stream.codec_context.layout = self.layout
        self.stream.codec_context.format = AUDIO_CODECS[self.codec]
        if self.codec in _RATES:
            self.stream.codec_context.bit_rate = self.format.channels * (
                64000 if self.rate <= 24000 else 96000
            )

    @property
    def layout(self) -> str:
        """FFmpeg's name of the channel layout."""
        return "mono" if self.format.channels == 1 else "stereo"

    def write(self, container: OutputContainer, until: Fraction | None = None) -> None:
        """Encode the sound up to ``until`` seconds of the file that is written, or all of it."""
        end = sys.maxsize if until is None else math.floor(until * self.format.rate)
        while self.position < end:
            chunk = self._next(end - self.position)
            if chunk is None:
                return
            frame = self._frame(self._cut.joined(chunk))
            frame.sample_rate = self.format.rate
            frame.time_base = Fraction(1, self.format.rate)
            frame.pts = self.position
            self.position += chunk.shape[1]
            container.mux(self.stream.encode(frame))

    def skip(self, total: Fraction) -> None:
        """Pass over sound, so that ``total`` seconds have been passed over since the beginning.

        A total, because each step rounded by itself would drift from the picture. Where sound was written
        before and is written after, the two fade into each other over :data:`TAPER`; no length changes.
        """
        due = math.floor(total * self.format.rate + Fraction(1, 2))
        while self.left_out < due:
            chunk = self._next(due - self.left_out)
            if chunk is None:
                return
            self.left_out += chunk.shape[1]
            if self.position:
                self._cut.passed_over(chunk)

    def flush(self, container: OutputContainer) -> None:
        """Encode what the encoder still holds."""
        container.mux(self.stream.encode(None))

    def close(self) -> None:
        """Let go of the file that the sound comes from, which may not have been read to its end."""
        if isinstance(self.chunks, Generator):
            self.chunks.close()

    def _next(self, most: int) -> Samples | None:
        """The next samples of the source, at most so many; None at its end."""
        chunk = self._rest if self._rest.size else next(self.chunks, None)
        if chunk is None:
            return None
        chunk, self._rest = np.split(chunk, [most], axis=1)
        return chunk

    def _frame(self, chunk: Samples) -> AudioFrame:
        kind = AUDIO_CODECS[self.codec]
        if kind == "fltp":
            return AudioFrame.from_ndarray(np.ascontiguousarray(chunk), kind, self.layout)
        interleaved = np.ascontiguousarray(chunk.T).reshape(1, -1)
        if kind == "flt":
            return AudioFrame.from_ndarray(interleaved, kind, self.layout)
        whole = np.clip(np.round(interleaved * 32768.0), -32768, 32767).astype(np.int16)  # as save_wav rounds
        return AudioFrame.from_ndarray(whole, kind, self.layout)


class _Cut:
    """Fades what would have followed the sound before a cut into the sound after it."""

    def __init__(self, nothing: Samples, length: int) -> None:
        self.length = length
        self.tail = nothing
        """``(channels, n)``, the first samples that were passed over."""
        self.used = 0
        """How many of them were faded out."""

    def passed_over(self, chunk: Samples) -> None:
        """Take notice of samples that are left out."""
        if self.used:  # the sound went on after the cut before, which may not have faded out
            self.tail, self.used = self.joined(chunk[:, : self.length]), 0
        elif self.tail.shape[1] < self.length:
            room = self.length - self.tail.shape[1]
            self.tail = np.concatenate([self.tail, chunk[:, :room]], axis=1)

    def joined(self, chunk: Samples) -> Samples:
        """The samples after the cut with the rest of the tail faded out in them."""
        steps = self.tail.shape[1]
        size = min(steps - self.used, chunk.shape[1])
        if size <= 0:
            return chunk
        weight = np.arange(self.used + 1, self.used + size + 1, dtype=np.float32) / (steps + 1)
        faded = chunk.copy()
        faded[:, :size] *= weight
        faded[:, :size] += self.tail[:, self.used : self.used + size] * (1 - weight)
        self.used += size
        return faded


def _pieces(waveform: npt.NDArray[np.floating], size: int) -> Iterator[Samples]:
    """``(1, size)`` float32 pieces of a mono waveform, clipped to [-1, 1]."""
    for start in range(0, waveform.size, size):
        yield np.clip(waveform[None, start : start + size], -1, 1).astype(np.float32)
