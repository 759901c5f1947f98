"""A folder of pictures as a video."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media.sequence import SequenceReader

FPS = Fraction(30000, 1001)


@pytest.fixture
def folder(tmp_path, pictures):
    """``folder(names)``: pictures numbered in that order; returns the folder."""

    def write(names, size=(64, 48)):
        root = tmp_path / "in put"
        root.mkdir(exist_ok=True)
        for index, name in enumerate(names):
            image = pictures[0](index, *size)
            kind = "." + name.rsplit(".", 1)[-1]
            (root / name).write_bytes(cv2.imencode(kind, image)[1].tobytes())
        return root

    return write


def labels(reader, pictures):
    return [pictures[1](frame.image) for frame in reader]


@pytest.mark.parametrize(
    "names",
    [
        ["frame1.png", "frame2.png", "frame10.png", "frame011.png", "Frame100.png"],
        ["0.JPG", "1.jpeg", "9.jpg", "10.jpg"],
        ["a.bmp", "a1.bmp", "a1b2.bmp", "a1b10.bmp", "b.bmp", "口 %d 1.bmp", "口 %d 2.bmp"],
        ["00001.webp"],
    ],
)
def test_natural_order_and_times(folder, pictures, names):
    reader = SequenceReader(folder(names), FPS)
    frames = list(reader)
    assert [file.name for file in reader.files] == names
    assert labels(reader, pictures) == list(range(len(names)))
    assert [(frame.index, frame.time) for frame in frames] == [(k, float(k / FPS)) for k in range(len(names))]
    info = reader.info
    assert (info.width, info.height, info.fps, info.frame_count) == (64, 48, FPS, len(names))
    assert info.duration == pytest.approx(len(names) / FPS)
    assert not info.has_audio
    assert frames[0].source == reader.path
    assert reader.corrupt_packets == 0


def test_other_sizes_are_resized_and_transformed(folder, pictures):
    root = folder(["1.png", "2.png"])
    (root / "3.png").write_bytes(cv2.imencode(".png", pictures[0](2, 100, 30))[1].tobytes())
    reader = SequenceReader(root, FPS, transform=lambda image: image[:20])
    assert {frame.image.shape for frame in reader} == {(20, 64, 3)}
    assert labels(reader, pictures) == [0, 1, 2]
    assert (reader.info.width, reader.info.height) == (64, 20)


def noise(kind):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return cv2.imencode(kind, image)[1].tobytes()


@pytest.mark.parametrize("kind", [".png", ".jpg"])
def test_damaged_pictures_are_held_and_counted(folder, pictures, kind):
    root = folder([f"{k}{kind}" for k in range(6)])
    (root / f"0{kind}").write_text("no picture")
    (root / f"3{kind}").write_bytes(noise(kind)[:-300])  # OpenCV alone would show half of it
    (root / f"5{kind}").write_bytes(b"")
    reader = SequenceReader(root, FPS)
    assert labels(reader, pictures) == [1, 1, 2, 2, 4, 4]
    assert reader.corrupt_packets == 3
    assert reader.info.frame_count == 6


def test_a_pass_broken_off_forgets_no_damage(folder):
    root = folder(["1.png", "2.png", "3.png", "4.png"])
    for name in ("2.png", "4.png"):
        (root / name).write_bytes(b"")
    reader = SequenceReader(root, FPS)
    for known in (1, 2):  # before and after a complete pass
        early = iter(reader)
        for _ in range(3):
            next(early)
        early.close()
        assert reader.corrupt_packets == known
        assert sum(1 for _ in reader) == 4
        assert reader.corrupt_packets == 2


def test_pictures_that_vanish_are_held(folder, pictures):
    root = folder(["1.png", "2.png", "3.png"])
    reader = SequenceReader(root, FPS)
    (root / "2.png").unlink()
    assert labels(reader, pictures) == [0, 0, 2]
    assert reader.corrupt_packets == 1


def test_notes_sound_and_hidden_files_are_passed_over(folder, pictures):
    root = folder(["1.png", "2.png"])
    for name in ("manifest.json", "audio.wav", ".hidden.png", "Thumbs.db"):
        (root / name).write_text("x")
    (root / "more.png").mkdir()
    assert labels(SequenceReader(root, FPS), pictures) == [0, 1]


@pytest.mark.parametrize(
    ("names", "others", "match"),
    [
        ([], [], "holds no picture"),
        ([], ["a.txt"], "holds no picture"),
        (["1.png"], ["b.MP4", "a.mp4"], r"videos such as a\.mp4"),
        (["1.png", "cover.jpg"], [], r"several kinds \(1\.png, cover\.jpg\)"),
        ([], ["1.png", "2.png"], "none of its 2 pictures"),
    ],
)
def test_unusable_folders_get_one_line(folder, names, others, match):
    root = folder(names)
    for name in others:
        (root / name).write_text("x")
    with pytest.raises(MediaError, match=match) as caught:
        SequenceReader(root, FPS)
    assert str(caught.value).startswith(str(root))
    assert "\n" not in str(caught.value)


def test_bad_arguments(tmp_path, folder):
    with pytest.raises(MediaError, match="no such folder"):
        SequenceReader(tmp_path / "none", FPS)
    with pytest.raises(ValueError, match="fps"):
        SequenceReader(folder(["1.png"]), Fraction(0))
