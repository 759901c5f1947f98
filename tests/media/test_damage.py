"""Damaged files: everything that decodes is delivered, at its time, and the loss is counted."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media import reader as reader_module
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader
from lipsync.media.still import read_image
from lipsync.media.timeline import placed
from lipsync.media.waveform import AudioReader, load_waveform

FPS = Fraction(25)


def noisy(count: int) -> list[np.ndarray]:
    """Pictures of which every packet is large."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


def spans(path, kind: str = "video") -> list[tuple[int, int]]:
    """Position and size of every packet in the file."""
    data = path.read_bytes()
    found, at = [], 0
    with av.open(str(path)) as container:
        for packet in container.demux(getattr(container.streams, kind)[0]):
            if packet.size:
                at = data.index(bytes(packet), at)
                found.append((at, packet.size))
                at += packet.size
    return found


def overwrite(path, parts) -> None:
    data = bytearray(path.read_bytes())
    for position, size in parts:
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)


def cut(path, kept: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("fps", [None, FPS, Fraction(30)])
def test_truncated_behind_its_index(make, kept, fps):
    """An MP4 with its index in front: what is there plays, and the reader says how much is gone."""
    path = make("clip.mp4", times=range(100), options={"movflags": "faststart"}, images=noisy(100))
    cut(path, kept)
    reader = VideoReader(path, fps)
    seconds = sum(1 for _ in reader) / (fps or FPS)
    assert 4 * kept - 0.7 < seconds < 4
    assert reader.missing_frames == pytest.approx(100 - seconds * 25, abs=1.1)
    assert reader.corrupt_packets <= 3  # the packet that is cut, and what refers to it


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mkv", "libx264"), (".avi", "mpeg4"), (".ts", "mpeg2video"), (".mpg", "mpeg1video")],
)
@pytest.mark.parametrize("kept", [0.1, 0.37, 0.9])
def test_truncated_anywhere(make, suffix, codec, kept):
    path = make(f"clip{suffix}", times=range(100), codec=codec, images=noisy(100))
    cut(path, kept)
    reader = VideoReader(path)
    count = sum(1 for _ in reader)
    assert 100 * kept - 12 < count < 100 * kept + 12
    if suffix == ".mkv":  # FFmpeg takes the length of the others from what is there
        assert reader.missing_frames == pytest.approx(100 - count, abs=1)


@pytest.mark.parametrize("sound", [None, "longer"])
@pytest.mark.parametrize("start", [0, 25])
@pytest.mark.parametrize(
    "kind",
    [
        (".mkv", "libx264", "aac"),
        (".webm", "libvpx", "libopus"),
        (".mp4", "libx264", "aac"),
        (".ts", "libx264", "aac"),
        (".flv", "flv", "libmp3lame"),
        (".asf", "mpeg4", "libmp3lame"),
        (".nut", "mpeg4", "libmp3lame"),
    ],
)
def test_a_whole_file_misses_nothing(make, kind, start, sound):
    rate = 48000
    suffix, codec, audio = kind
    path = make(
        f"clip{suffix}",
        times=range(start, start + 75),
        codec=codec,
        audio_codec=audio,
        audio_rate=rate,
        waveform=None if sound is None else np.zeros(4 * rate),
    )
    reader = VideoReader(path, FPS)
    assert sum(1 for _ in reader) == 75
    assert (reader.corrupt_packets, reader.missing_frames) == (0, 0)
    # NUT does not state the last picture; three state only the length of the file, here of the sound.
    longest = 101 if sound and start == 0 and suffix in (".flv", ".asf", ".nut") else 75
    assert 74 <= reader.info.frame_count <= longest


def test_a_pass_broken_off_forgets_no_damage(make):
    path = make("clip.mp4", times=range(100), options={"movflags": "faststart"}, images=noisy(100))
    every = spans(path)
    overwrite(path, every[10:12])
    position, size = every[80]
    path.write_bytes(path.read_bytes()[: position + size // 2])
    reader = VideoReader(path, FPS)
    early = iter(reader)
    for _ in range(40):
        next(early)
    early.close()
    assert reader.missing_frames == 0
    met = reader.corrupt_packets
    assert met >= 1
    assert sum(1 for _ in reader) > 70
    whole = reader.corrupt_packets, reader.missing_frames
    assert whole[0] >= met
    assert whole[1] >= 15
    for count in (1, 40):
        again = iter(reader)
        for _ in range(count):
            next(again)
        again.close()
        assert (reader.corrupt_packets, reader.missing_frames) == whole
    reader.corrupt_packets = 10**6  # a complete pass has the last word
    assert sum(1 for _ in reader) > 70
    assert (reader.corrupt_packets, reader.missing_frames) == whole


def test_pictures_that_cannot_be_converted_are_one_line(make, monkeypatch):
    path = make("clip.mp4")

    def refuse(frame, converter):
        raise av.error.OSError(95, "Operation not supported")

    monkeypatch.setattr(reader_module, "to_bgr", refuse)
    with pytest.raises(MediaError, match="yuv420p cannot be converted") as caught:
        next(iter(VideoReader(path)))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("lost", [range(12, 20), range(8), range(50, 60), [57], [20, 41, 58]])
def test_damage_does_not_shorten_the_video(make, pictures, suffix, lost):
    """The last good picture is held at a constant rate, so the sound stays in step."""
    images = [pictures[0](index % 40) for index in range(60)]
    path = make(f"clip{suffix}", times=range(60), codec="mjpeg", pix_fmt="yuvj420p", images=images)
    every = spans(path)
    overwrite(path, [every[index] for index in lost])
    good = [index for index in range(60) if index not in lost]
    own = VideoReader(path)
    frames = list(own)
    assert [pictures[1](frame.image) for frame in frames] == [index % 40 for index in good]
    np.testing.assert_allclose([frame.time for frame in frames], np.array(good) / 25, atol=1e-3)
    held = VideoReader(path, FPS)
    expected = [max((index for index in good if index <= k), default=good[0]) % 40 for k in range(60)]
    assert [pictures[1](frame.image) for frame in held] == expected
    assert own.corrupt_packets == held.corrupt_packets == len(lost)
    assert own.missing_frames == held.missing_frames == 0


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_damage_near_the_end_costs_no_other_frame(make, monkeypatch, codec):
    """FFmpeg's frame threads lose what follows a damaged packet among the last that they hold."""
    path = make("clip.mp4", times=range(60), codec=codec, images=noisy(60))
    every = spans(path)
    overwrite(path, [every[-2], every[-12]])
    opened = reader_module.video_stream
    times = {}
    for threads in (1, 3, 16):

        def with_threads(container, source, threads=threads):
            stream = opened(container, source)
            stream.codec_context.thread_count = threads
            return stream

        monkeypatch.setattr(reader_module, "video_stream", with_threads)
        reader = VideoReader(path)
        times[threads] = [frame.time for frame in reader]
        assert 1 <= reader.corrupt_packets <= 3
        assert sum(1 for _ in VideoReader(path, FPS)) == 60
    assert times[1] == times[3] == times[16]
    assert len(times[1]) >= 56


def test_damaged_first_pictures_keep_the_clock(make, pictures):
    path = make("clip.mp4", times=range(60), codec="mjpeg", pix_fmt="yuvj420p", waveform=np.zeros(38400))
    overwrite(path, spans(path)[:30])
    frames = list(VideoReader(path, FPS))
    assert len(frames) == 60
    assert [pictures[1](frame.image) for frame in frames[:36]] == [30] * 31 + [31, 32, 33, 34, 35]


@pytest.mark.parametrize(
    ("times", "starts"),
    [
        ([0, 40, 80, 2_000_000, 160, 200], [0, 40, 80, 120, 160, 200]),
        ([0, 40, 80, 30_000, 160, 200], [0, 40, 80, 120, 160, 200]),
        ([2_000_000, 40, 80, 120], [0, 40, 80, 120]),
        ([0, 40, 80, 120, 2_000_000], [0, 40, 80, 120, 160]),
        ([0, 40, None, None, 160], [0, 40, 80, 120, 160]),
        ([0, 40, 40, 120], [0, 40, 40, 120]),
        ([0, 40, 80, 60, 160], [0, 40, 80, 120, 160]),
        ([0, 40, 400, 440], [0, 40, 400, 440]),  # a gap
        ([0, 40, 4000, 4040], [0, 40, 4000, 4040]),
        ([0, 40, 80, 9_000_000, 9_000_040], [0, 40, 80, 120, 160]),  # a clock that was reset
        ([5000, 5040, 0, 40, 80], [0, 40, 80, 120, 160]),
        ([0, 40, 9_000_000, 9_000_040, 160, 200], [0, 40, 80, 120, 160, 200]),  # and back again
    ],
)
def test_timestamps_are_believed_within_reason(times, starts):
    step = Fraction(1, 25)
    items = [
        (None if time is None else Fraction(time, 1000), step, index) for index, time in enumerate(times)
    ]
    origin = None if times[0] and times[0] < 10_000 else Fraction(0)
    result = list(placed(items, origin, Fraction(5)))
    assert [float(time * 1000) for time, _, _ in result] == starts
    assert [index for _, _, index in result] == list(range(len(times)))


def test_false_duration_does_not_stretch_the_last_picture():
    items = [(Fraction(0), Fraction(1, 25), "a"), (Fraction(1, 25), Fraction(10**6), "b")]
    assert list(placed(items, Fraction(0), Fraction(2)))[-1][1] <= 10


def test_sound_joins_without_gap_except_for_long_ones():
    step = Fraction(1, 50)
    stamps = [0, 21, 39, 60, 500, 520, 5_000_000, 560]
    items = [(Fraction(stamp, 1000), step, None) for stamp in stamps]
    starts = [int(time * 1000) for time, _, _ in placed(items, Fraction(0), Fraction(1), Fraction(1, 25))]
    assert starts == [0, 20, 40, 60, 500, 520, 540, 560]


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [
        ("libx264", "yuv420p10le"),
        ("libx264", "yuv444p"),
        ("libx264", "gray"),
        ("ffv1", "bgr0"),
        ("ffv1", "gray16le"),
        ("png", "rgba"),
        ("png", "rgb24"),
        ("ffv1", "yuva420p"),
        ("prores_ks", "yuv422p10le"),
        ("mjpeg", "yuvj422p"),
    ],
)
@pytest.mark.parametrize("shape", [(48, 64), (50, 66)])
def test_pixel_formats(make, photo, codec, pix_fmt, shape):
    image = cv2.resize(photo, shape[::-1])
    suffix = "mov" if codec == "png" else "mkv"
    path = make(f"clip.{suffix}", images=[image] * 3, times=range(3), codec=codec, pix_fmt=pix_fmt)
    frames = list(VideoReader(path))
    assert [frame.image.shape for frame in frames] == [(*shape, 3)] * 3
    grey = pix_fmt.startswith("gray")
    expected = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, -1) if grey else image
    assert np.abs(frames[1].image.astype(int) - expected).mean() < (
        12 if grey else 6
    )  # no one states the range of grey
    assert probe(path).color.range in (0, 1, 2)


@pytest.mark.parametrize("shape", [(47, 63), (1, 1), (2, 300), (33, 8)])
def test_odd_sizes(make, photo, shape):
    image = cv2.resize(photo, shape[::-1])
    path = make("clip.mkv", images=[image] * 2, times=range(2), codec="ffv1", pix_fmt="yuv444p")
    assert [frame.image.shape for frame in VideoReader(path)] == [(*shape, 3)] * 2


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_one_frame(make, pictures, suffix):
    path = make(f"clip{suffix}", times=range(1), codec="mpeg2video" if suffix == ".ts" else "mpeg4")
    for fps in (None, FPS):
        reader = VideoReader(path, fps)
        assert [pictures[1](frame.image) for frame in reader] == [0]
        assert reader.missing_frames == 0


def test_interlaced(make, pictures):
    path = make("clip.ts", times=range(20), codec="mpeg2video", codec_options={"flags": "+ildct+ilme"})
    assert [pictures[1](frame.image) for frame in VideoReader(path, FPS)] == list(range(20))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_is_damaged_midway_is_silent_there(make, suffix):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000) / 16000)
    path = make(f"clip{suffix}", times=range(75), waveform=tone, codec="mpeg4")
    whole = load_waveform(path)
    every = spans(path, "audio")
    overwrite(path, every[len(every) // 3 : len(every) // 2])
    reader = AudioReader(path)
    damaged = reader.load(16000)
    assert reader.corrupt_packets >= (len(every) // 2 - len(every) // 3) // 2
    assert abs(damaged.size - whole.size) <= 1024
    np.testing.assert_allclose(damaged[-8000:], whole[-8000:][: damaged.size], atol=0.02)
    assert np.abs(whole - damaged[: whole.size]).max() > 0.3


def test_sound_that_ends_early(make):
    path = make(
        "clip.mp4",
        times=range(10),
        waveform=np.zeros(64000),
        options={"movflags": "faststart"},
        codec="mpeg4",
    )
    with av.open(str(path)) as container:
        last = [p.pos for p in container.demux(container.streams.audio[0]) if p.size][20]
    path.write_bytes(path.read_bytes()[:last])
    reader = AudioReader(path)
    length = reader.load(16000).size
    assert length == pytest.approx(20 * 1024, abs=2048)
    assert reader.missing_seconds == pytest.approx(4 - length / 16000, abs=0.07)
    assert AudioReader(make("whole.mp4", times=range(10), waveform=np.zeros(64000))).missing_seconds == 0


def test_cut_wav(tmp_path, make):
    path = make("a.wav", times=[], waveform=np.full(32000, 0.5), audio_codec="pcm_s16le")
    cut(path, 0.5)
    assert load_waveform(path).size == pytest.approx(16000, abs=100)


def test_files_of_the_other_kind(make):
    for call, path, match in (
        (
            VideoReader,
            make("voice.wav", times=[], waveform=np.zeros(800), audio_codec="pcm_s16le"),
            "no video",
        ),
        (load_waveform, make("mute.mp4"), "no audio"),
    ):
        with pytest.raises(MediaError, match=match) as caught:
            call(path)
        assert "\n" not in str(caught.value)


def png_header(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize("header", [png_header, jpeg_header])
def test_absurd_pictures_are_refused_before_they_take_memory(tmp_path, header):
    path = tmp_path / "large.img"
    path.write_bytes(header(60000, 60000))
    with pytest.raises(MediaError, match="60000x60000"):
        read_image(path)
    path.write_bytes(header(8192, 8193))  # as large as a video may be, and one row
    with pytest.raises(MediaError, match="8192x8193"):
        read_image(path)


def test_absurd_rates_are_refused(make):
    path = make("a.wav", times=[], waveform=np.zeros(800), audio_codec="pcm_s16le")
    data = bytearray(path.read_bytes())
    data[24:28] = (7).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(MediaError, match="states 7 samples a second"):
        load_waveform(path)
