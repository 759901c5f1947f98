"""Which encoder is chosen, what it is told, and what happens where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync.errors import ConfigError, MediaError
from lipsync.media import encoders
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import VideoWriter

LISTED = {name for name in encoders.HARDWARE if name in av.codecs_available}


@pytest.fixture(autouse=True)
def _probe_afresh() -> Iterator[None]:
    encoders.available.cache_clear()
    yield
    encoders.available.cache_clear()


def write(path: Path, images: list[np.ndarray], audio: np.ndarray | None = None, **options) -> VideoWriter:
    height, width = images[0].shape[:2]
    with VideoWriter(path, width, height, Fraction(25), audio, **options) as writer:
        for image in images:
            writer.write(image)
    return writer


@pytest.fixture
def moving(photo: np.ndarray) -> list[np.ndarray]:
    large = np.tile(photo, (4, 4, 1))
    return [np.roll(large, 3 * shift, axis=1) for shift in range(12)]


@pytest.mark.parametrize("working", [(), *((name,) for name in encoders.HARDWARE), encoders.HARDWARE])
def test_the_first_that_works_is_chosen(monkeypatch, working):
    asked = []

    def available(codec: str, *size: object) -> bool:
        asked.append((codec, *size))
        return codec in working

    monkeypatch.setattr(encoders, "available", available)
    chosen = encoders.choose("hardware", 1280, 720)
    assert chosen == (working[0] if working else "libx264")
    assert [name for name, *_ in asked] == list(
        encoders.HARDWARE[: encoders.HARDWARE.index(chosen) + 1] if working else encoders.HARDWARE
    )
    assert asked[0][1:] == (1280, 720, "yuv420p")


def test_an_explicit_encoder_is_not_replaced(monkeypatch):
    monkeypatch.setattr(encoders, "available", lambda *_: False)
    assert encoders.choose("libx265", 64, 48) == "libx265"
    with pytest.raises(MediaError, match=r"no_such: this FFmpeg has no such encoder; use libx264"):
        encoders.choose("no_such", 64, 48)
    with pytest.raises(MediaError, match="no such encoder"):
        encoders.choose("aac", 64, 48)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def test_probing_encodes(codec):
    assert encoders.available(codec) is (codec in av.codecs_available)


def test_probing_finds_what_does_not_work():
    assert not encoders.available("no_such")
    assert not encoders.available("aac")
    assert not encoders.available("libx264", pix_fmt="bgr0")
    assert not encoders.available("libx264", 641, 361)


def test_hardware_writes_a_file_anyway(tmp_path, moving):
    writer = write(tmp_path / "out.mp4", moving, codec="hardware")
    assert writer.codec == encoders.choose("hardware", 256, 192)
    if writer.codec == "libx264":
        plain = write(tmp_path / "plain.mp4", moving)
        assert writer.path.read_bytes() == plain.path.read_bytes()
    assert probe(writer.path).frame_count == 12


def test_a_broken_card_falls_back(monkeypatch, tmp_path, moving):
    """The encoder opens, but fails when it gets frames."""
    real = encoders._encodes

    def encodes(codec: str, *rest: object) -> bool:
        if codec in encoders.HARDWARE:
            raise av.error.ExternalError(542398533, "Generic error in an external library")
        return real(codec, *rest)

    monkeypatch.setattr(encoders, "_encodes", encodes)
    assert write(tmp_path / "out.mp4", moving, codec="hardware").codec == "libx264"


def test_a_stand_in_for_a_card_is_used(monkeypatch, tmp_path, moving):
    monkeypatch.setattr(encoders, "HARDWARE", ("no_such", "libx265", "libvpx-vp9"))
    writer = write(tmp_path / "out.mp4", moving, codec="hardware", crf=10)
    assert writer.codec == "libx265"
    assert writer.options["crf"] == "10"
    with av.open(str(writer.path)) as container:
        assert container.streams.video[0].codec_context.name == "hevc"


@pytest.mark.parametrize("codec", sorted(LISTED))
def test_a_missing_card_is_one_line(tmp_path, codec):
    if encoders.available(codec, 256, 192):
        pytest.skip(f"{codec} works here")
    with pytest.raises(MediaError, match=f"{codec} does not accept.*use encoder.codec=libx264") as caught:
        write(tmp_path / "out.mp4", [np.zeros((192, 256, 3), np.uint8)], codec=codec)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_encoder_is_one_line(tmp_path):
    with pytest.raises(MediaError, match=r"out\.mp4: encoder\.codec=h264_best: .*use libx264") as caught:
        write(tmp_path / "out.mp4", [np.zeros((48, 64, 3), np.uint8)], codec="h264_best")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ("libx264", {"crf": "18", "preset": "medium", "x264-params": "mbtree=0"}),
        ("h264_nvenc", {"preset": "p4", "tune": "hq", "rc": "vbr", "cq": "18", "b": "0"}),
        ("h264_videotoolbox", {"flags": "+qscale", "global_quality": str(118 * 65)}),
        ("h264_qsv", {"preset": "medium", "global_quality": "18"}),
        (
            "h264_amf",
            {"rc": "cqp", "qp_i": "18", "qp_p": "18", "usage": "transcoding", "quality": "balanced"},
        ),
        ("libaom-av1", {"crf": "18", "b": "0", "cpu-used": "3", "row-mt": "1"}),
        ("ffv1", {}),
    ],
)
def test_the_same_quality_in_each_language(codec, expected):
    assert encoders.options(codec, 18, "medium") == expected


def test_web_codecs_have_quality_and_speed():
    for codec in encoders.WEB_CODECS:
        quick, slow = (encoders.options(codec, 30, preset) for preset in (encoders.REALTIME, "placebo"))
        assert quick["crf"] == slow["crf"] == "30"
        assert quick != slow


@pytest.mark.parametrize(
    "codec", [*encoders.HARDWARE, "libx264", "libx265", "libvpx-vp9", "libsvtav1", "libaom-av1"]
)
def test_every_preset_has_a_name(codec):
    for preset in (*encoders.PRESETS, encoders.REALTIME):
        assert all(isinstance(value, str) for value in encoders.options(codec, 0, preset).values())
    if "preset" in encoders.options(codec, 18, "medium") and codec != "libx264":
        assert encoders.options(codec, 18, "own")["preset"] == "own"


CARDS = [f"{kind}_{card}" for kind in ("h264", "hevc") for card in ("nvenc", "qsv", "amf")]


def opening(codec: str, **extra: str) -> Exception | None:
    context = av.CodecContext.create(codec, "w")
    context.width, context.height = 640, 360
    context.pix_fmt = encoders.stored_format(codec, "yuv420p")
    context.time_base = Fraction(1, 25)
    context.options = {**encoders.options(codec, 18, "fast"), **extra}
    try:
        context.open()
    except (av.error.FFmpegError, OSError) as error:
        return error
    return None


@pytest.mark.parametrize(
    "codec", ["h264_nvenc", "hevc_nvenc", "h264_qsv", "hevc_qsv", "h264_amf", "hevc_amf"]
)
def test_ffmpeg_knows_the_values(codec):
    """FFmpeg checks them before it looks for the card."""
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg was built without {codec}")
    refused = av.error.ArgumentError
    assert not isinstance(opening(codec), refused)
    for name in set(encoders.options(codec, 18, "fast")) - {"usage"}:
        assert isinstance(opening(codec, **{name: "nonsense"}), refused), name


def test_quality_has_bounds(tmp_path):
    for codec, highest in (("libx264", 51), ("hardware", 51), ("h264_nvenc", 51), ("libvpx-vp9", 63)):
        assert encoders.highest_crf(codec) == highest
        encoders.options(codec, highest, "medium")
        with pytest.raises(ConfigError, match=f"encoder.crf={highest + 1}: give a whole number from 0"):
            VideoWriter(tmp_path / "out.mkv", 64, 48, Fraction(25), codec=codec, crf=highest + 1)


@pytest.mark.parametrize("crf", ["high", "18", 17.5, True, None])
def test_quality_is_a_whole_number(tmp_path, crf):
    with pytest.raises(ConfigError, match=f"^encoder.crf={crf}: give a whole number from 0 .* to 51$"):
        VideoWriter(tmp_path / "out.mp4", 64, 48, Fraction(25), crf=crf)


def test_a_preset_may_be_a_number(tmp_path, moving):
    assert encoders.options("libsvtav1", 30, 5) == encoders.options("libsvtav1", 30, "5")
    by_number = write(tmp_path / "number.mp4", moving, preset=5).path  # x264 numbers its presets, too
    by_name = write(tmp_path / "name.mp4", moving, preset="medium").path
    assert by_number.read_bytes() == by_name.read_bytes()
    with pytest.raises(ConfigError, match=r"^encoder\.preset=None: give one of ultrafast"):
        VideoWriter(tmp_path / "out.mp4", 64, 48, Fraction(25), preset=None)


def test_cards_that_take_only_nv12_get_it():
    assert encoders.stored_format("libx264", "yuv420p") == "yuv420p"
    assert encoders.stored_format("libx264rgb", "bgr0") == "bgr0"
    if "h264_qsv" in av.codecs_available:
        assert encoders.stored_format("h264_qsv", "yuv420p") == "nv12"


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize(
    ("codec", "preset", "suffix"),
    [
        ("libx264", "realtime", ".mp4"),
        ("libx265", "ultrafast", ".mp4"),
        ("libvpx-vp9", "realtime", ".webm"),
        ("libvpx-vp9", "veryfast", ".mkv"),
        ("libsvtav1", "realtime", ".mp4"),
    ],
)
def test_software_encoders_keep_the_picture(tmp_path, moving, codec, preset, suffix):
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg was built without {codec}")
    writer = write(tmp_path / f"out{suffix}", moving, codec=codec, preset=preset)
    frames = [frame.image for frame in VideoReader(writer.path)]
    assert len(frames) == 12
    assert min(psnr(a, b) for a, b in zip(frames, moving, strict=True)) > 33


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_hevc_carries_the_tag_that_apple_plays(tmp_path, moving, suffix):
    writer = write(tmp_path / f"out{suffix}", moving, codec="libx265", preset="ultrafast")
    data = writer.path.read_bytes()
    assert b"hvc1" in data
    assert b"hev1" not in data


def test_realtime_is_better_than_the_quickest(tmp_path, moving):
    """At the size of a file that is smaller already, the picture is better."""
    size, quality = {}, {}
    for preset, crf in (("ultrafast", 18), ("realtime", 16)):
        path = write(tmp_path / f"{preset}.mp4", moving, preset=preset, crf=crf).path
        size[preset] = path.stat().st_size
        quality[preset] = np.mean([psnr(f.image, m) for f, m in zip(VideoReader(path), moving, strict=True)])
    assert size["realtime"] < 0.9 * size["ultrafast"]
    assert quality["realtime"] > quality["ultrafast"]


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_webm_holds_sound(tmp_path, moving, rate):
    sound = np.zeros(rate // 2, np.float32)
    sound[rate // 4] = 0.9
    options = {"codec": "libvpx-vp9", "audio_codec": "libopus", "preset": "ultrafast"}
    writer = write(tmp_path / "out.webm", moving, sound, sample_rate=rate, **options)
    heard = load_waveform(writer.path, rate)
    assert abs(int(np.abs(heard).argmax()) - rate // 4) <= 3
    assert abs(heard.size - sound.size) <= rate // 400


@pytest.mark.parametrize("options", [{}, {"codec": "libvpx-vp9"}, {"audio_codec": "libopus"}])
def test_webm_says_what_it_holds(tmp_path, options):
    with pytest.raises(MediaError, match=r"out\.webm: .* holds VP9 or AV1 with Opus; use encoder=webm "):
        write(tmp_path / "out.webm", [np.zeros((48, 64, 3), np.uint8)], np.zeros(99, np.float32), **options)
