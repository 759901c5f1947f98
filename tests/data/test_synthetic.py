"""The generated corpus: the same every time, in sync, and measurable through a codec."""

from __future__ import annotations

import hashlib
import json
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsync.audio.mel import log_mel
from lipsync.data.filelist import read_filelist
from lipsync.data.synthetic import (
    SyntheticClip,
    draw_clip,
    make_corpus,
    make_photo_clip,
    measure_aperture,
    photo_clip,
    write_clip,
)
from lipsync.errors import ConfigError
from lipsync.faces.annotated import AnnotatedDetector
from lipsync.faces.mtcnn import MtcnnDetector
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.types import Box, Frame, Image


def face_crop(image: Image, box: Box, size: int = 96) -> Image:
    x1, y1, x2, y2 = box.rounded()
    return cv2.resize(image[max(y1, 0) : y2, max(x1, 0) : x2], (size, size)).astype(np.uint8)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def loudness(clip: SyntheticClip) -> np.ndarray:
    """Root mean square of the 40 ms of sound that are played while a frame is shown."""
    step = round(16000 / clip.fps)
    return np.sqrt(np.square(clip.waveform[: len(clip) * step].reshape(-1, step)).mean(axis=1)) ** 0.7


def digest(clip: SyntheticClip) -> str:
    content = hashlib.sha256(clip.waveform.tobytes())
    for image in clip.frames():
        content.update(image.tobytes())
    return content.hexdigest()


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    first = digest(draw_clip(0, 0, 0.4, seed=3, size=64))
    assert digest(draw_clip(0, 0, 0.4, seed=3, size=64)) == first
    others = [(0, 0, 4), (1, 0, 3), (0, 1, 3)]
    assert first not in [digest(draw_clip(a, b, 0.4, seed=seed, size=64)) for a, b, seed in others]


@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001)])
def test_lengths_and_ranges(fps: Fraction | int) -> None:
    clip = draw_clip(0, 0, 1.5, size=64, fps=fps)
    assert len(clip) == round(1.5 * fps) == len(clip.faces) == len(clip.landmarks)
    assert clip.waveform.shape == (24000,)
    assert clip.waveform.dtype == np.float32
    assert 0.3 < np.abs(clip.waveform).max() <= 1
    assert clip.aperture.min() >= 0
    assert clip.aperture.max() <= 1
    image = next(clip.frames())
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8


def test_mouth_moves_and_follows_the_sound() -> None:
    for number in range(4):
        clip = draw_clip(number, number, 4.0, size=64)
        assert clip.aperture.std() > 0.15
        assert correlation(clip.aperture, loudness(clip)) > 0.8


def test_mouth_shape_can_be_read_from_the_mel_only_at_the_right_time() -> None:
    """A linear readout of the 16-step window that begins with a frame predicts its aperture and rounding."""
    features, apertures, roundings = [], [], []
    for number in range(24):
        clip = draw_clip(number % 6, number, 3.0, size=64)
        mel = log_mel(clip.waveform)
        features += [mel[:, int(3.2 * f) : int(3.2 * f) + 6].ravel() for f in range(70)]
        apertures += clip.aperture[:70].tolist()
        roundings += clip.rounding[:70].tolist()

    def held_out_score(target: list[float], shift: int) -> float:
        x = np.column_stack([np.array(features), np.ones(len(features))])
        y = np.roll(np.array(target), shift)
        train = np.arange(len(y)) < len(y) * 3 // 4
        gram = x[train].T @ x[train] + 300.0 * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x[train].T @ y[train])
        return correlation(x[~train] @ weights, y[~train])

    assert held_out_score(apertures, 0) > 0.85
    assert held_out_score(roundings, 0) > 0.55
    assert held_out_score(apertures, 5) < 0.5


@pytest.mark.parametrize("offset", [4, -3])
def test_offset_has_the_sign_of_syncnet(offset: int) -> None:
    """Positive: the sound runs ahead, so frame ``i`` belongs to the sound at frame ``i - offset``."""
    clip = draw_clip(0, 7, 6.0, size=64, av_offset=offset)
    sound, mouth = loudness(clip), clip.aperture
    inner = np.arange(10, len(clip) - 10)
    scores = {lag: correlation(mouth[inner], sound[inner - lag]) for lag in range(-8, 9)}
    assert max(scores, key=lambda lag: scores[lag]) == offset


def test_aperture_is_measured_through_h264_and_resizing(tmp_path: Path) -> None:
    for number in range(3):
        clip = draw_clip(number, number, 2.0)
        path = write_clip(clip, tmp_path / f"{number}.mp4")
        images = [frame.image for frame in VideoReader(path)]
        assert len(images) == len(clip)
        crops = [face_crop(image, box) for image, box in zip(images, clip.faces, strict=True)]
        assert correlation(measure_aperture(crops), clip.aperture) > 0.95
        blurred = [cv2.GaussianBlur(crop, (0, 0), 1.5) for crop in crops]
        assert correlation(measure_aperture(blurred), clip.aperture) > 0.92


def test_measured_aperture_does_not_depend_on_the_size_of_the_crop() -> None:
    clip = draw_clip(2, 2, 0.6)
    pairs = list(zip(clip.frames(), clip.faces, strict=True))
    small = measure_aperture([face_crop(image, box, 96) for image, box in pairs])
    large = measure_aperture([face_crop(image, box, 256) for image, box in pairs])
    np.testing.assert_allclose(small, large, atol=0.012)
    assert measure_aperture([]).shape == (0,)


def test_measured_aperture_of_a_plain_face_is_zero() -> None:
    assert measure_aperture([np.full((96, 96, 3), 150, np.uint8)]) == 0


def test_corpus_has_the_layout_of_lrs2(tmp_path: Path) -> None:
    root = make_corpus(tmp_path / "corpus", clips=6, speakers=3, seconds=0.6, size=64)
    videos = sorted(path.relative_to(root / "main").as_posix() for path in root.glob("main/*/*.mp4"))
    assert videos == [f"speaker{n % 3:02d}/{n:05d}.mp4" for n in (0, 3, 1, 4, 2, 5)]
    lists = {split: read_filelist(root / "filelists" / f"{split}.txt") for split in ("train", "val", "test")}
    assert lists["train"] == ["speaker00/00000", "speaker00/00003", "speaker01/00001", "speaker01/00004"]
    assert lists["val"] == ["speaker02/00002"]
    assert lists["test"] == ["speaker02/00005"]
    info = probe(root / "main" / videos[0])
    assert (info.width, info.height, info.fps, info.has_audio) == (64, 64, 25, True)
    assert not list(root.rglob("*.part"))


@pytest.mark.parametrize(
    ("clips", "speakers", "expected"), [(1, 1, (1, 0, 0)), (3, 1, (1, 1, 1)), (3, 3, (1, 1, 1))]
)
def test_small_corpora_still_have_something_to_train_on(
    tmp_path: Path, clips: int, speakers: int, expected: tuple[int, int, int]
) -> None:
    root = make_corpus(tmp_path, clips=clips, speakers=speakers, seconds=0.2, size=64)
    lines = [
        len((root / "filelists" / f"{s}.txt").read_text().splitlines()) for s in ("train", "val", "test")
    ]
    assert tuple(lines) == expected


def test_sidecars_agree_with_the_video(tmp_path: Path) -> None:
    clip = draw_clip(1, 1, 1.0, size=96, av_offset=2)
    path = write_clip(clip, tmp_path / "a.mp4")
    frames = list(VideoReader(path))
    faces = AnnotatedDetector().detect(frames)
    for index, (face,) in enumerate(faces):
        assert face.box.iou(clip.faces[index]) > 0.99
        assert face.landmarks is not None
        np.testing.assert_allclose(face.landmarks, clip.landmarks[index], atol=0.01)
    mouth = json.loads((tmp_path / "a.mouth.json").read_text())
    assert mouth["av_offset"] == 2
    np.testing.assert_allclose(mouth["aperture"], clip.aperture, atol=1e-4)
    assert len(mouth["boxes"]) == len(mouth["rounding"]) == len(clip)


def test_sound_in_the_file_is_the_generated_one(tmp_path: Path) -> None:
    clip = draw_clip(0, 0, 2.0, size=64)
    decoded = load_waveform(write_clip(clip, tmp_path / "a.mp4"))
    count = min(len(decoded), len(clip.waveform))
    assert abs(len(decoded) - len(clip.waveform)) <= 1024
    lags = range(-400, 401, 8)
    inner = slice(4000, count - 4000)
    scores = [correlation(clip.waveform[inner], np.roll(decoded[:count], -lag)[inner]) for lag in lags]
    assert abs(lags[int(np.argmax(scores))]) <= 8
    assert max(scores) > 0.9


def test_real_detector_finds_the_true_boxes() -> None:
    detector = MtcnnDetector()
    for clip in (draw_clip(0, 0, 0.2), draw_clip(4, 4, 0.2), photo_clip(0.2)):
        (best, *_) = detector.detect([Frame(0, 0.0, next(clip.frames()))])[0]
        assert best.box.iou(clip.faces[0]) > 0.6


def test_photo_opens_its_mouth_with_the_sound(tmp_path: Path) -> None:
    clip = photo_clip(2.0, seed=1, size=128)
    path = make_photo_clip(tmp_path / "photo.mp4", 2.0, seed=1, size=128)
    images = [frame.image for frame in VideoReader(path)]
    crops = [face_crop(image, box) for image, box in zip(images, clip.faces, strict=True)]
    assert correlation(measure_aperture(crops), clip.aperture) > 0.95
    assert (tmp_path / "photo.faces.json").is_file()


def test_photo_mode_without_scikit_image_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ConfigError, match=r"pip install lipsync\[photo\]"):
        next(photo_clip(0.1).frames())


def test_impossible_arguments(tmp_path: Path) -> None:
    for wrong in ({"clips": 0}, {"speakers": 0}, {"size": 63}):
        with pytest.raises(ValueError, match="need clips >= 1"):
            make_corpus(tmp_path, **wrong)  # type: ignore[arg-type]


def test_long_clips_have_the_same_bytes(tmp_path: Path) -> None:
    """Longer than the encoder's look-ahead, where x264 with its defaults does not repeat itself."""
    clip = draw_clip(0, 2, 3.0)
    files = [tmp_path / f"{i}.mp4" for i in range(4)]
    for file in files:
        write_clip(clip, file)
    assert len({file.read_bytes() for file in files}) == 1
