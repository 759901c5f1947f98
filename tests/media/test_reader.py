"""Decoding: times, constant rate, orientation, damage."""

from __future__ import annotations

import gc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media import reader as reader_module
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader, constant_rate
from lipsync.media.still import StillReader, read_image
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import VideoWriter

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), NTSC])
def test_every_frame_once_with_its_own_time(make, pictures, fps):
    path = make("clip.mp4", times=range(30), base=1 / fps, rate=fps)
    frames = list(VideoReader(path))
    assert [frame.index for frame in frames] == list(range(30))
    assert [pictures[1](frame.image) for frame in frames] == list(range(30))
    np.testing.assert_allclose([f.time for f in frames], [float(i / fps) for i in range(30)], atol=1e-9)
    assert frames[0].source == path
    assert frames[0].image.dtype == np.uint8
    assert frames[0].image.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), NTSC])
def test_own_rate_is_the_identity(make, pictures, fps, suffix):
    path = make(f"clip{suffix}", times=range(35), base=1 / fps, rate=fps)
    reader = VideoReader(path, fps=fps)
    assert [pictures[1](frame.image) for frame in reader] == list(range(35))
    assert reader.info.frame_count == 35


@pytest.mark.parametrize("source", [22, 24, 30, 50])
def test_constant_rate_shows_the_latest_frame(make, pictures, source):
    path = make("clip.mp4", times=range(30), base=Fraction(1, source), rate=Fraction(source))
    frames = list(VideoReader(path, fps=Fraction(25)))
    count = int(Fraction(30, source) * 25 + Fraction(1, 2))
    assert len(frames) == count == VideoReader(path, fps=Fraction(25)).info.frame_count
    assert [pictures[1](frame.image) for frame in frames] == [min(29, k * source // 25) for k in range(count)]
    assert [frame.time for frame in frames] == [k / 25 for k in range(count)]


@pytest.mark.parametrize("rate", [25, 1000])
def test_variable_rate_keeps_its_timing(make, pictures, rate):
    times = [0, 40, 200, 210, 220, 600, 640]  # milliseconds
    path = make("vfr.mkv", times=times, base=Fraction(1, 1000), rate=Fraction(rate))
    own = list(VideoReader(path))
    np.testing.assert_allclose([frame.time for frame in own], np.array(times) / 1000, atol=1e-9)
    shown = [pictures[1](frame.image) for frame in VideoReader(path, fps=Fraction(25))]
    assert shown[:17] == [sum(t <= 40 * k for t in times) - 1 for k in range(17)]
    assert 17 <= len(shown) <= 19


def test_times_start_at_zero_where_the_stream_starts_late(make):
    path = make("late.mp4", times=range(5, 15))
    frames = list(VideoReader(path))
    np.testing.assert_allclose([f.time for f in frames], np.arange(10) / 25, atol=1e-9)
    assert len(list(VideoReader(path, fps=Fraction(25)))) == 10


def test_long_ntsc_resampling_does_not_drift():
    items = ((i / NTSC, 1 / NTSC, i) for i in range(30000))
    shown = list(constant_rate(items, Fraction(25)))
    assert len(shown) == 25025
    assert all(shown[k] == int(k * NTSC / 25) for k in range(len(shown)))


def test_constant_rate_edges():
    tick = Fraction(1, 1000)
    assert list(constant_rate([], Fraction(25))) == []
    assert list(constant_rate([(Fraction(0), tick, "a")], Fraction(25))) == ["a"]
    # rounded to milliseconds, 1/30 s is later than output 1 by a third of a tick
    rounded = [(Fraction(round(1000 * i / 30), 1000), Fraction(1, 30), i) for i in range(60)]
    assert list(constant_rate(rounded, Fraction(30), tick / 2)) == list(range(60))
    # 60 -> 25: the last 0.4 of an output step does not make a frame
    fast = [(Fraction(i, 60), Fraction(1, 60), i) for i in range(61)]
    assert len(list(constant_rate(fast, Fraction(25)))) == 25


def test_reader_is_reiterable_and_lazy(make, pictures):
    reader = VideoReader(make("clip.mp4", times=range(20)))
    first = iter(reader)
    assert pictures[1](next(first).image) == 0
    assert len(list(reader)) == len(list(reader)) == 20
    assert pictures[1](next(first).image) == 1


def test_transform_and_info(make):
    reader = VideoReader(make("clip.mp4"), transform=lambda image: cv2.resize(image, (20, 30)))
    assert (reader.info.width, reader.info.height) == (20, 30)
    assert next(iter(reader)).image.shape == (30, 20, 3)


def quadrants() -> np.ndarray:
    """White, red / blue, black."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32], image[:24, 32:], image[24:, :32] = 255, (0, 0, 255), (255, 0, 0)
    return image


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_orientation(make, quarter, mirror):
    path = make("turned.mp4", images=[quadrants()] * 3, rotation=90 * quarter, mirror=mirror)
    # The matrix mirrors the stored picture or the turned one; both agree with FFmpeg for its own matrix.
    expected = np.rot90(quadrants(), quarter)
    expected = expected[:, ::-1] if mirror else expected
    image = next(iter(VideoReader(path))).image
    assert image.shape == expected.shape == (probe(path).height, probe(path).width, 3)
    centres = (slice(12, None, 24), slice(12, None, 24))
    np.testing.assert_allclose(image[centres].astype(int), expected[centres], atol=40)


def test_colours_agree_with_opencv(shared):
    for name in ("grid_s1/bbaf2n.mpg", "wild/portrait_1080x1920.mp4", "wild/vox_224.mp4"):
        path = shared / "data/raw" / name
        _, expected = cv2.VideoCapture(str(path)).read()
        difference = next(iter(VideoReader(path))).image.astype(int) - expected
        # OpenCV truncates: up to 1.5 levels darker
        assert (np.abs(difference.mean(axis=(0, 1)) - 1) < 0.7).all()
        assert np.abs(difference).mean() < 1.6


@pytest.mark.parametrize(
    ("name", "count", "resampled"),
    [
        ("grid_s1/bbaf2n.mpg", 75, 75),
        ("wild/retalk_30fps_700.mp4", 199, 166),
        ("wild/retalk_man_22fps_700.mp4", 135, 153),
        ("wild/vox_224.mp4", 246, 246),
    ],
)
def test_real_clips(shared, name, count, resampled):
    path = shared / "data/raw" / name
    reader = VideoReader(path)
    times = [frame.time for frame in reader]
    assert len(times) == count == reader.info.frame_count
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    assert reader.corrupt_packets == 0
    assert sum(1 for _ in VideoReader(path, fps=Fraction(25))) == resampled


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "it's.mp4", 'say "x".mp4', "a;b,c=d.mp4", "口元 é.mp4", "%d.mp4", "-i.mp4", "[x]*.mp4"],
)
def test_names(make, name):
    assert len(list(VideoReader(make(name)))) == 10


def test_damaged_packets_are_skipped_and_counted(make):
    path = make("clip.ts", times=range(60), codec="mpeg2video")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1500] = bytes(1500)
    path.write_bytes(data)
    frames = list(VideoReader(path))
    assert 30 <= len(frames) < 61
    assert frames[-1].time > 2


def test_refused_packets_are_counted(make, monkeypatch):
    path = make("clip.mp4", times=range(30))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        position, size = packets[12].pos, packets[12].size
    data = bytearray(path.read_bytes())
    data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    reader = VideoReader(path)
    frames = list(reader)
    assert reader.corrupt_packets >= 1
    assert 20 <= len(frames) < 30


def test_truncated_file_gives_what_is_there(make):
    path = make("clip.mkv", times=range(60))
    path.write_bytes(path.read_bytes()[:-600])
    frames = list(VideoReader(path))
    assert 20 < len(frames) < 60


def test_truncated_before_its_index(make):
    path = make("clip.mp4", times=range(60))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(MediaError, match="cannot be opened as media") as caught:
        VideoReader(path)
    assert "\n" not in str(caught.value)


def test_nothing_decodes(make):
    path = make("clip.mp4", times=range(30))
    with av.open(str(path)) as container:
        spans = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in spans:
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(MediaError, match="no frame of the video stream can be decoded"):
        VideoReader(path)


def test_joined_recordings_carry_on(make):
    """Two transport streams in one file: the clock starts anew in the middle."""
    path = make("clip.ts", times=range(50), codec="mpeg2video", waveform=np.full(32000, 0.5))
    path.write_bytes(path.read_bytes() * 2)
    times = [frame.time for frame in VideoReader(path)]
    assert len(times) == pytest.approx(100, abs=1)
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-6)
    assert load_waveform(path).size == pytest.approx(4 * 16000, abs=0.2 * 16000)  # two paddings


def test_change_of_resolution(make, photo):
    images = [cv2.resize(photo, (96, 80))] * 20
    small, large = (
        make("a.ts", codec="mpeg2video"),
        make("b.ts", images=images, times=range(20), codec="mpeg2video"),
    )
    small.write_bytes(small.read_bytes() + large.read_bytes())
    shapes = [frame.image.shape for frame in VideoReader(small)]
    assert len(shapes) > 20
    assert set(shapes) == {(48, 64, 3)}


def test_tags_of_another_encoding(make):
    path = make("clip.mkv", title="CAFE")
    data = path.read_bytes()
    assert b"CAFE" in data
    path.write_bytes(data.replace(b"CAFE", b"CAF\xe9"))
    assert len(list(VideoReader(path))) == 10


def test_bad_rate(make):
    with pytest.raises(ValueError, match="fps"):
        VideoReader(make("clip.mp4"), fps=Fraction(0))


@pytest.mark.parametrize("name", ["face.png", "fäce 口.JPG"])
def test_still(tmp_path, photo, name):
    path = tmp_path / name
    path.write_bytes(cv2.imencode(path.suffix.lower(), photo)[1].tobytes())
    reader = StillReader(path, Fraction(25), count=4)
    assert [(frame.index, frame.time) for frame in reader] == [(k, k / 25) for k in range(4)]
    assert (reader.info.width, reader.info.height, reader.info.frame_count) == (64, 48, 4)
    assert np.abs(next(iter(reader)).image.astype(int) - photo).mean() < 3
    endless = iter(StillReader(path, Fraction(25)))
    assert [next(endless).index for _ in range(100)] == list(range(100))


def test_unusable_images(tmp_path):
    with pytest.raises(MediaError, match="no such image"):
        read_image(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    for name in ("empty.png", "text.png"):
        with pytest.raises(MediaError, match="cannot be decoded as an image"):
            StillReader(tmp_path / name, Fraction(25))


def test_frames_are_freed_without_the_garbage_collector(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(25), preset="ultrafast") as writer:
        for _ in range(30):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    alive = []
    convert = reader_module.to_bgr

    def counting(frame, converter):
        alive.append(sum(isinstance(item, av.VideoFrame) for item in gc.get_objects()))
        return convert(frame, converter)

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reader_module, "to_bgr", counting)
            assert sum(1 for _ in VideoReader(tmp_path / "a.mp4")) == 30
    finally:
        gc.enable()
    assert max(alive) - alive[0] <= 8
