"""Small media files made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

WIDTH, HEIGHT = 64, 48
STEP = 6  # grey levels between consecutive pictures: far more than the codec moves them


def grey(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A flat picture that tells its index (modulo 40)."""
    return np.full((height, width, 3), 8 + STEP * (index % 40), np.uint8)


def label(image: np.ndarray) -> int:
    """The index that a decoded :func:`grey` picture tells."""
    return round((float(image.mean()) - 8) / STEP)


@pytest.fixture(scope="session")
def pictures() -> tuple[Callable[..., np.ndarray], Callable[[np.ndarray], int]]:
    """``(grey, label)``: numbered pictures and how to read the number."""
    return grey, label


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A smooth colour picture, 64x48, black and white included."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    luma = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX).astype(int)
    return np.stack([np.clip(luma + shift, 0, 255) for shift in (-12, 0, 15)], axis=-1).astype(np.uint8)


def add_video(container, codec: str, rate: Fraction, base: Fraction, shape: tuple[int, ...]):
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = base
    return stream


def encode_video(container, stream, times: Sequence[int], base: Fraction, images) -> None:
    for time, image in zip(times, images, strict=False):
        frame = av.VideoFrame.from_ndarray(image, "bgr24")
        frame.pts, frame.time_base = time, base
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def encode_audio(container, stream, waveform: np.ndarray, rate: int, start: int) -> None:
    frame = av.AudioFrame.from_ndarray(np.atleast_2d(waveform).astype(np.float32), "fltp", stream.layout.name)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """``make(name, times=, base=, ...)`` -> a file written with PyAV alone, one picture per timestamp."""

    def write(
        name: str,
        *,
        times: Sequence[int] = range(10),
        base: Fraction = Fraction(1, 25),
        rate: Fraction = Fraction(25),
        images: Sequence[np.ndarray] | None = None,
        rotation: float | None = None,
        mirror: bool = False,
        waveform: np.ndarray | None = None,
        audio_rate: int = 16000,
        audio_start: int = 0,
        audio_codec: str = "aac",
        codec: str = "libx264",
        title: str | None = None,
        pix_fmt: str = "yuv420p",
        options: dict[str, str] | None = None,
        codec_options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        images = [grey(i) for i in range(len(times))] if images is None else images
        with av.open(str(path), "w", options=options or {}) as container:
            if title is not None:
                container.metadata["title"] = title
            if images:
                stream = add_video(container, codec, rate, base, images[0].shape)
                stream.pix_fmt = pix_fmt
                stream.codec_context.options = codec_options or {}
                if rotation is not None and not hasattr(stream, "set_display_rotation"):
                    pytest.skip("PyAV before 17.1 cannot write a display matrix")
                if rotation is not None:
                    stream.set_display_rotation(rotation, hflip=mirror)
            if waveform is not None:
                sound = container.add_stream(audio_codec, rate=audio_rate)
                sound.codec_context.layout = "mono" if waveform.ndim == 1 else "stereo"
            if images:
                encode_video(container, stream, times, base, images)
            if waveform is not None:
                encode_audio(container, sound, waveform, audio_rate, audio_start)
        return path

    return write
