"""A video backwards: the frames of a forward pass, whatever the container, in flat memory."""

from __future__ import annotations

import gc
import weakref
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media import backwards as backwards_module
from lipsync.media import reader as reader_module
from lipsync.media.backwards import _fingerprint
from lipsync.media.reader import VideoReader
from lipsync.media.sequence import SequenceReader

FPS = Fraction(25)
RATES = {"23.976": Fraction(24000, 1001), "25": FPS, "29.97": Fraction(30000, 1001)}
CONTAINERS = [
    (".mp4", "libx264"),
    (".mkv", "libx264"),
    (".ts", "libx264"),
    (".mp4", "mpeg4"),
    (".avi", "mpeg4"),
    (".avi", "mjpeg"),
    (".mpg", "mpeg1video"),
    (".mpg", "mpeg2video"),
    (".ts", "mpeg2video"),
]


def moving(count: int, size: tuple[int, int] = (70, 50)) -> list[np.ndarray]:
    """Pictures with motion and a little noise, so that each depends on those before."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (size[1], size[0] + 4 * count, 3), dtype=np.uint8)
    wide = cv2.GaussianBlur(noise, (9, 9), 0)
    return [
        np.ascontiguousarray(wide[:, (3 * k) % (4 * count) :][:, : size[0]])
        + rng.integers(0, 8, (size[1], size[0], 3), dtype=np.uint8)
        for k in range(count)
    ]


def coding(codec: str, gop: int, bframes: int) -> dict:
    """Arguments of ``make`` for a GOP; the MPEG codecs and the x264 here leave it open."""
    options = {"g": str(gop), "bf": str(bframes), "sc_threshold": "1000000000"}
    if codec == "libx264":
        options = {
            "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:b-adapt=0:open-gop=1"
        }
    if codec == "mjpeg":
        return {"codec": codec, "pix_fmt": "yuvj420p"}
    return {"codec": codec, "codec_options": options}


def digest(frames) -> list[tuple]:
    return [(f.index, f.time, f.image.shape, f.image.tobytes(), f.source) for f in frames]


def assert_reversed(path: Path, fps: Fraction, transform=None) -> VideoReader:
    """Backwards after a forward pass and without one; returns the reader."""
    reader = VideoReader(path, fps, transform)
    forward = digest(reader)
    state = reader.corrupt_packets, reader.missing_frames
    for each in (reader, VideoReader(path, fps, transform)):
        back = digest(each.backwards())
        assert [item[:3] for item in back] == [item[:3] for item in reversed(forward)]
        assert back == forward[::-1]
    assert (reader.corrupt_packets, reader.missing_frames) == state
    return reader


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """``decoded[0]``: how many frames the decoder has made."""
    count = [0]
    decode = reader_module.decode

    def counting(packet):
        frames = decode(packet)
        count[0] += len(frames or ())
        return frames

    monkeypatch.setattr(reader_module, "decode", counting)
    return count


@pytest.fixture
def short(monkeypatch):
    """Stretches of ten frames, so that short files have many of them."""
    monkeypatch.setattr(backwards_module, "MOST_FRAMES", 10)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
@pytest.mark.parametrize(("gop", "bframes"), [(7, 2), (12, 0), (250, 2)])
def test_equals_the_forward_pass_reversed(make, suffix, codec, gop, bframes):
    bframes = 0 if suffix == ".avi" else bframes
    path = make(f"clip{suffix}", times=range(64), images=moving(64), **coding(codec, gop, bframes))
    assert_reversed(path, FPS)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("rate", RATES)
def test_rates(make, rate, suffix):
    path = make(
        f"clip{suffix}",
        times=range(50),
        base=1 / RATES[rate],
        rate=RATES[rate],
        images=moving(50),
        **coding("mpeg4" if suffix == ".avi" else "libx264", 20, 0 if suffix == ".avi" else 2),
    )
    for fps in (RATES[rate], FPS, Fraction(10), Fraction(60)):
        assert_reversed(path, fps)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate(make, suffix):
    times = [0, *(int(t) for t in np.cumsum(np.random.default_rng(1).integers(3, 200, 59)))]
    path = make(
        f"clip{suffix}",
        times=times,
        base=Fraction(1, 1000),
        images=moving(60),
        **coding("libx264", 15, 2),
    )
    for fps in (FPS, Fraction(30000, 1001)):
        assert_reversed(path, fps)


@pytest.mark.usefixtures("short")
def test_streams_that_start_late_or_hold_one_frame(make):
    assert_reversed(make("late.mp4", times=range(50, 90), images=moving(40), **coding("libx264", 16, 2)), FPS)
    for suffix, codec in CONTAINERS:
        reader = assert_reversed(
            make(f"one{suffix}", times=[0], images=moving(1), **coding(codec, 12, 0)), FPS
        )
        assert len(list(reader.backwards())) == 1


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p10le", "gray"])
def test_pixel_formats(make, pix_fmt):
    assert_reversed(make("clip.mkv", times=range(30), images=moving(30), codec="ffv1", pix_fmt=pix_fmt), FPS)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("quarter", "mirror"), [(1, False), (2, True), (3, False)])
def test_rotation_and_transform(make, quarter, mirror):
    path = make(
        "turned.mp4", times=range(40), images=moving(40), rotation=90 * quarter, mirror=mirror,
        **coding("libx264", 16, 2),
    )  # fmt: skip
    reader = assert_reversed(path, FPS, lambda image: cv2.resize(image, (31, 22))[2:])
    assert next(iter(reader.backwards())).image.shape == (20, 31, 3)


@pytest.fixture
def one_thread(monkeypatch):
    """With several threads, forward passes over damaged files differ from one another."""
    opened = reader_module.video_stream

    def alone(container, path):
        stream = opened(container, path)
        stream.codec_context.thread_count = 1
        return stream

    monkeypatch.setattr(reader_module, "video_stream", alone)


@pytest.mark.usefixtures("short", "one_thread")
@pytest.mark.parametrize("kept", [0.4, 0.6, 0.9])
@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_truncated(make, suffix, codec, kept):
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    images = moving(60, (160, 120))
    path = make(f"clip{suffix}", times=range(60), images=images, options=options, **coding(codec, 20, 0))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert_reversed(path, FPS)


@pytest.mark.usefixtures("short", "one_thread")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_flipped_bytes(make, suffix, codec, seed):
    path = make(f"clip{suffix}", times=range(60), images=moving(60), **coding(codec, 20, 0))
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(len(data) // 4, len(data) * 3 // 4, 4):
        data[at] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    assert_reversed(path, FPS)


@pytest.mark.usefixtures("short")
def test_clock_that_is_reset(make):
    path = make("clip.ts", times=range(50), images=moving(50), **coding("mpeg2video", 12, 2))
    path.write_bytes(path.read_bytes() * 2)
    reader = assert_reversed(path, FPS)
    assert len(list(reader.backwards())) > 90


@pytest.mark.usefixtures("short")
def test_file_without_timestamps(make):
    path = make("clip.h264", times=range(40), images=moving(40), **coding("libx264", 12, 0))
    assert len(list(assert_reversed(path, FPS).backwards())) >= 40


@pytest.mark.parametrize("container", [c for c in CONTAINERS if c[0] != ".avi"])
@pytest.mark.parametrize("gop", [12, 250])
def test_few_frames_are_decoded(make, decoded, monkeypatch, container, gop):
    suffix, codec = container
    monkeypatch.setattr(backwards_module, "MOST_FRAMES", 46)
    path = make(f"clip{suffix}", times=range(300), images=moving(300), **coding(codec, gop, 2))
    reader = VideoReader(path, FPS)
    count = len(list(reader))
    decoded[0] = 0
    assert [frame.index for frame in reader.backwards()] == list(reversed(range(count)))
    assert count <= decoded[0] < (3 if gop == 12 else 6) * count


@pytest.mark.parametrize("bytes_", [None, 64 * 48 * 3 // 2 * 7])
def test_bounded_number_of_frames_is_held(make, monkeypatch, bytes_):
    """Neither decoded frames nor images pile up, however long the file and its GOP."""
    monkeypatch.setattr(backwards_module, "MOST_FRAMES", 32)
    if bytes_ is not None:  # at least seven frames without the padding of their rows
        monkeypatch.setattr(backwards_module, "MOST_BYTES", bytes_)
    limit = 32 if bytes_ is None else 7
    images: list[weakref.ref] = []
    most = [0, 0]

    def counting(image: np.ndarray) -> np.ndarray:
        if len(images) % 10 == 0:  # looking at all objects takes long
            most[0] = max(most[0], sum(isinstance(item, av.VideoFrame) for item in gc.get_objects()))
        copy = image.copy()
        images.append(weakref.ref(copy))
        most[1] = max(most[1], sum(ref() is not None for ref in images))
        return copy

    path = make("clip.mp4", times=range(150), **coding("libx264", 1000, 2))
    reader = VideoReader(path, FPS, counting)
    gc.collect()
    gc.disable()
    try:
        assert sum(1 for _ in reader.backwards()) == 150
    finally:
        gc.enable()
    assert len(images) == 150  # the pass that counts the frames converts none
    assert most[0] <= limit + 8
    assert most[1] <= 3


def test_one_image_for_a_frame_that_is_shown_twice(make):
    path = make("clip.mp4", times=range(10), base=Fraction(1, 10), rate=Fraction(10))
    frames = list(VideoReader(path, Fraction(20)).backwards())
    assert len({id(frame.image) for frame in frames}) == 10


def test_closing_early_releases_the_file(make, monkeypatch):
    opened: list[weakref.ref] = []
    open_media = reader_module.open_media

    class Watched:
        def __init__(self, path):
            self.manager = open_media(path)
            self.open = False

        def __enter__(self):
            self.open = True
            return self.manager.__enter__()

        def __exit__(self, *error):
            self.open = False
            return self.manager.__exit__(*error)

    def watching(path):
        opened.append(watched := Watched(path))
        return watched

    path = make("clip.mp4", times=range(100), **coding("libx264", 30, 2))
    monkeypatch.setattr(reader_module, "open_media", watching)
    frames = VideoReader(path, FPS).backwards()
    assert [next(frames).index for _ in range(60)] == list(range(99, 39, -1))
    frames.close()
    assert opened
    assert not any(watched.open for watched in opened)


def test_seeks_to_the_wrong_place_are_noticed(make, monkeypatch):
    """Too late, far too early, or into the middle of a GOP: other places are tried, then the beginning."""
    monkeypatch.setattr(backwards_module, "MOST_FRAMES", 10)
    path = make("clip.mkv", times=range(120), images=moving(120), **coding("libx264", 25, 2))
    sought = reader_module._Pass.sought
    for wrong in (lambda stamp: stamp + 1500, lambda stamp: 0, lambda stamp: 10**9, lambda stamp: -(10**6)):
        monkeypatch.setattr(
            reader_module._Pass, "sought", lambda run, stamp, wrong=wrong: sought(run, max(0, wrong(stamp)))
        )
        assert_reversed(path, FPS)


def test_other_picture_of_the_same_time_is_noticed(make, monkeypatch):
    """Decoders that start midway, as in streams of intra refresh, show something else at the right time."""
    monkeypatch.setattr(backwards_module, "MOST_FRAMES", 10)
    path = make(
        "clip.mkv", times=range(120), images=moving(120),
        codec_options={"x264-params": "keyint=30:intra-refresh=1:bframes=0"},
    )  # fmt: skip
    assert_reversed(path, FPS)


def test_file_that_changes(make):
    path = make("clip.mp4", times=range(60), **coding("libx264", 12, 0))
    reader = VideoReader(path, FPS)
    assert len(list(reader)) == 60
    path.write_bytes(make("other.mp4", times=range(20)).read_bytes())
    with pytest.raises(MediaError, match=r"changed while it was being read"):
        list(reader.backwards())


def test_damaged_file_of_which_less_decodes_the_next_time(make):
    path = make("clip.mkv", times=range(60), images=moving(60), codec="mjpeg", pix_fmt="yuvj420p")
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packet = bytes([p for p in container.demux(container.streams.video[0]) if p.size][30])
    path.write_bytes(data.replace(packet, b"\xff" * len(packet)))
    reader = VideoReader(path, FPS)
    forward = list(reader)
    assert reader.corrupt_packets
    path.write_bytes(path.read_bytes()[: len(data) * 3 // 4])
    back = list(reader.backwards())[::-1]
    assert [frame.index for frame in back] == [frame.index for frame in forward]
    assert digest(back)[:25] == digest(forward)[:25]


def test_needs_a_constant_rate(make):
    with pytest.raises(ValueError, match="constant rate"):
        VideoReader(make("clip.mp4")).backwards()


@pytest.mark.parametrize("width", [3, 8, 21, 64])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "bgr24", "yuv420p10le", "gray", "yuyv422"])
def test_fingerprint_sees_every_sample_and_no_padding(width, pix_fmt):
    if pix_fmt == "yuyv422":
        width += width % 2
    frame = av.VideoFrame(width, 10, pix_fmt)
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = 100
    before = _fingerprint(frame)
    inside = 0
    for plane in frame.planes:
        samples = np.frombuffer(plane, np.uint8)
        for at in range(plane.line_size):  # in the third row
            samples[2 * plane.line_size + at] += 1
            changed = _fingerprint(frame) != before
            samples[2 * plane.line_size + at] -= 1
            inside += changed
    coded = width + 2 * ((width + 1) // 2)
    bytes_ = {"yuv420p": coded, "nv12": coded, "yuv420p10le": 2 * coded}
    bytes_ |= {"bgr24": 3 * width, "gray": width, "yuyv422": 2 * width}
    assert inside == bytes_[pix_fmt]


@pytest.mark.parametrize("name", ["grid_s1/bbaf2n.mpg", "wild/retalk_man_22fps_700.mp4", "wild/vox_224.mp4"])
def test_real_clips(shared, name):
    assert_reversed(shared / "data/raw" / name, FPS, lambda image: cv2.resize(image, (64, 64)))


@pytest.mark.slow
def test_all_real_clips(shared):
    for folder in ("wild", "grid_s1"):
        for path in sorted((shared / "data/raw" / folder).iterdir())[:8]:
            assert_reversed(path, VideoReader(path).info.fps, lambda image: cv2.resize(image, (64, 64)))


@pytest.mark.parametrize("damaged", [[], [0, 1], [4], [3, 4, 5], [8, 9]])
def test_folder_of_pictures(tmp_path, pictures, damaged):
    for index in range(10):
        data = cv2.imencode(".png", pictures[0](index))[1].tobytes()
        (tmp_path / f"{index}.png").write_bytes(b"damage" if index in damaged else data)
    reader = SequenceReader(tmp_path, FPS, transform=lambda image: image[:20])
    forward = list(reader)
    back = list(reader.backwards())
    assert digest(back) == digest(forward)[::-1]
    assert reader.corrupt_packets == len(damaged)
    assert len({id(frame.image) for frame in back}) == len({id(frame.image) for frame in forward})
