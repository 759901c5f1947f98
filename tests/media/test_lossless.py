"""Lossless settings give back every bit of picture and sound."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lipsync.cli.app import config_dir
from lipsync.errors import ConfigError
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import audio_format, decode_audio, load_waveform
from lipsync.media.writer import LOSSLESS, VideoWriter

FFV1 = {"codec": "ffv1", "pix_fmt": "bgr0", "audio_codec": "pcm_s16le"}


def noise(count: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def sixteen_bits(samples: int) -> np.ndarray:
    """All that 16 bits hold, both ends included."""
    values = np.random.default_rng(samples).integers(-32768, 32768, samples)
    values[:2] = -32768, 32767
    return (values / 32768).astype(np.float32)


def write(path: Path, images: np.ndarray, fps: Fraction, audio: object = None, **options: object) -> Path:
    with VideoWriter(path, images.shape[2], images.shape[1], fps, audio, **options) as writer:
        for image in images:
            writer.write(image)
    return path


@pytest.mark.parametrize("size", [(64, 48), (51, 37), (192, 192)])
@pytest.mark.parametrize(("suffix", "options"), [(".mp4", LOSSLESS), (".mkv", LOSSLESS), (".mkv", FFV1)])
def test_pictures_come_back_bit_for_bit(
    tmp_path: Path, photo: np.ndarray, size: tuple[int, int], suffix: str, options: dict[str, object]
) -> None:
    images = noise(12, *size)
    images[3] = np.resize(photo, images[3].shape)
    for index, pure in enumerate(np.eye(3, dtype=np.uint8) * 255):
        images[4 + index] = pure  # where a conversion to Y'CbCr would show most
    path = write(tmp_path / f"out{suffix}", images, Fraction(25), **options)
    np.testing.assert_array_equal([frame.image for frame in VideoReader(path)], images)
    info = probe(path)
    assert (info.width, info.height) == size, "odd sizes are not padded"


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("samples", [1000, 16000, 33333])
@pytest.mark.parametrize(("suffix", "options"), [(".mp4", LOSSLESS), (".mkv", LOSSLESS), (".mkv", FFV1)])
def test_sound_comes_back_bit_for_bit(
    tmp_path: Path, rate: int, samples: int, suffix: str, options: dict[str, object]
) -> None:
    sound = sixteen_bits(samples)
    path = write(
        tmp_path / f"out{suffix}", noise(4, 32, 32), Fraction(25), sound, sample_rate=rate, **options
    )
    np.testing.assert_array_equal(load_waveform(path, rate), sound)


def test_sound_of_a_file_keeps_both_channels(tmp_path: Path, make: Callable[..., Path]) -> None:
    both = np.stack([sixteen_bits(8000), np.zeros(8000, np.float32)])
    source = make("source.mkv", waveform=both, audio_rate=44100, audio_codec="flac")
    path = write(tmp_path / "out.mp4", noise(4, 32, 32), Fraction(25), source, **LOSSLESS)
    assert audio_format(path) == (44100, 2)
    np.testing.assert_array_equal(np.concatenate(list(decode_audio(path)), axis=1), both)


@pytest.mark.parametrize("fps", [Fraction(60000, 1001), Fraction(30000, 1001), Fraction(1350, 61)])
def test_mp4_keeps_every_rate(tmp_path: Path, fps: Fraction) -> None:
    images = noise(30, 32, 32)
    path = write(tmp_path / "out.mp4", images, fps, **LOSSLESS)
    assert (probe(path).fps, probe(path).frame_count) == (fps, 30)
    np.testing.assert_array_equal([frame.image for frame in VideoReader(path, fps=fps)], images)


def test_trimmed_sound_ends_with_the_last_frame(tmp_path: Path) -> None:
    sound = sixteen_bits(20000)
    path = write(tmp_path / "out.mp4", noise(5, 32, 32), Fraction(25), sound, trim_audio=True, **LOSSLESS)
    np.testing.assert_array_equal(load_waveform(path), sound[:3200])


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    images, sound = noise(60, 64, 48), sixteen_bits(16000)
    files = [
        write(tmp_path / name, images, Fraction(25), sound, metadata={"comment": "twice"}, **LOSSLESS)
        for name in ("a.mp4", "b.mp4")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_configuration_is_the_constant() -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        encoder = instantiate(compose("infer", ["encoder=lossless", "face=f", "audio=a"]).encoder)
    assert isinstance(encoder, partial)
    assert (encoder.func, encoder.keywords) == (VideoWriter, LOSSLESS)


def test_unknown_sound_codecs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.audio_codec=opus: give one of aac, flac"):
        VideoWriter(tmp_path / "out.mp4", 32, 32, Fraction(25), audio_codec="opus")
