from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsync.errors import NotScorableError
from lipsync.evaluation.identity import IdentityObserver
from lipsync.evaluation.inputs import Sound, VideoItem
from lipsync.evaluation.mouth import MouthObserver
from lipsync.evaluation.visual import FramePair, VisualPass
from lipsync.faces.detector import AnnotatedDetector
from lipsync.faces.landmarks import INNER_CORNERS, INNER_PAIRS, LandmarkNet
from lipsync.faces.recognition import FaceRecognizer
from lipsync.faces.yunet import YunetDetector
from lipsync.media.probe import probe
from lipsync.media.waveform import save_wav
from lipsync.types import Box, Face

FACE = Face(Box(0, 0, 64, 48), 1.0)
SIZE = (48, 64, 3)
ALONE = {"open_share", "aperture_motion"}
COMPARED = {"lmd", "lmd_percent", "lmd_face_percent", "aperture_error", "aperture_r"}
HEARD = {"aperture_audio_r", "aperture_audio_lag"}


class DrawnLandmarks:
    """Opening of the mouth in hundredths of the eye distance = the picture's grey level."""

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        points = np.zeros((98, 2), np.float32)
        points[60], points[72] = (0, 0), (100, 0)
        points[INNER_CORNERS[0]], points[INNER_CORNERS[1]] = (0, 50), (80, 50)
        for place, (upper, lower) in enumerate(INNER_PAIRS):
            points[upper], points[lower] = (20 * place, 50), (20 * place, 50 + float(image.mean()))
        return points


class GreyRecognizer:
    dimensions = 2

    def embedding(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        assert np.asarray(points).shape == (5, 2)
        angle = float(image.mean()) / 100
        return np.array([np.cos(angle), np.sin(angle)], np.float32)


def _grey(level: float) -> np.ndarray:
    return np.full(SIZE, int(level), np.uint8)


LEVELS = np.random.default_rng(0).integers(0, 60, 60)


@pytest.fixture
def observer() -> MouthObserver:
    return MouthObserver(DrawnLandmarks())


def _watch(observer, item, levels, references=None, *, face=FACE, comparable=True):
    observer.begin(item, probe(item.path))
    for index, level in enumerate(levels):
        reference = None if references is None or index >= len(references) else _grey(references[index])
        pair = FramePair(
            index, _grey(level), reference, face, None if reference is None else FACE, comparable
        )
        observer.update(pair)
    return observer.finish()


@pytest.fixture
def speech(tmp_path, make_video) -> VideoItem:
    """A silent video and, apart from it, sound whose loudness is that of LEVELS."""
    noise = np.random.default_rng(1).standard_normal(60 * 640)
    save_wav(tmp_path / "s.wav", (noise * np.repeat((LEVELS / 100) ** 2, 640)).astype(np.float32), 16000)
    return VideoItem("a", make_video(tmp_path / "a.mp4", 60, sound=False), sound=Sound(tmp_path / "s.wav"))


def test_a_video_alone(observer, tmp_path, make_video):
    values = _watch(observer, VideoItem("a", make_video(tmp_path / "a.mp4", 30)), [10, 30] * 15)
    assert values["open_share"] == 0.5  # of a width of 80: 0.125 and 0.375
    assert values["aperture_motion"] == pytest.approx(0.2, rel=1e-5)
    assert set(values) == ALONE | HEARD
    assert set(observer.missing) == COMPARED
    assert {column.key for column in observer.columns} == ALONE | HEARD | COMPARED


def test_a_mouth_that_follows_the_sound(observer, speech):
    values = _watch(observer, speech, LEVELS)
    assert values["aperture_audio_r"] > 0.95
    assert values["aperture_audio_lag"] == 0
    late = VideoItem("a", speech.path, sound=Sound(speech.sound.path, shift=3))
    values = _watch(observer, late, LEVELS)
    assert values["aperture_audio_lag"] == 3
    assert abs(values["aperture_audio_r"]) < 0.5


def test_other_sounds_make_the_floor_and_known_shifts_do_not(observer, speech, tmp_path):
    noise = (np.random.default_rng(5).standard_normal(16000 * 3) * 0.1).astype(np.float32)
    save_wav(tmp_path / "other.wav", noise, 16000)
    probes = {"shuffled": Sound(tmp_path / "other.wav"), "shifted:2": Sound(shift=2)}
    own = _watch(observer, replace(speech, probes=probes), LEVELS)
    assert set(observer.probed) == {"shuffled"}
    assert set(observer.probed["shuffled"]) == HEARD
    assert observer.probed["shuffled"]["aperture_audio_r"] < own["aperture_audio_r"] - 0.5


def test_a_reference_of_another_length(observer, speech):
    item = VideoItem("a", speech.path, reference=speech.path)
    references = LEVELS[:40] + 5
    values = _watch(observer, item, LEVELS, references)
    assert values["aperture_error"] == pytest.approx(0.05, abs=1e-6)
    assert values["aperture_r"] == pytest.approx(1)
    assert values["lmd"] > 0
    assert values["lmd_percent"] == pytest.approx(values["lmd"], rel=1e-5)
    assert set(observer.missing) == HEARD
    assert "has no audio stream" in observer.missing["aperture_audio_r"]


def test_a_reference_that_says_something_else_is_not_compared(observer, speech):
    item = VideoItem("a", speech.path, reference=speech.path, paired=False, sound=speech.sound)
    values = _watch(observer, item, LEVELS, LEVELS, comparable=False)
    assert set(values) == ALONE | HEARD
    assert "something else" in observer.missing["lmd"]


def test_too_few_frames_leave_out_correlations_only(observer, speech):
    values = _watch(
        observer, VideoItem("a", speech.path, speech.path, sound=speech.sound), LEVELS[:3], LEVELS
    )
    assert set(values) == ALONE | COMPARED - {"aperture_r"}
    assert "at least 25" in observer.missing["aperture_r"]
    assert set(_watch(observer, speech, LEVELS[:1])) == {"open_share"}


def test_no_face_is_the_reason_and_nothing_remains_of_the_video_before(observer, speech):
    _watch(observer, speech, LEVELS)
    with pytest.raises(NotScorableError, match="no face"):
        _watch(observer, speech, LEVELS, face=None)


def test_identity_compares_every_nth_frame(speech):
    landmarks = DrawnLandmarks()
    observer = IdentityObserver(GreyRecognizer(), landmarks, every=10)
    item = VideoItem("a", speech.path, reference=speech.path, paired=False)
    levels = np.where(np.arange(60) % 10, 250, 20)
    values = _watch(observer, item, levels, np.where(np.arange(30) % 10, 0, 80), comparable=False)
    assert values == {"csim": pytest.approx(np.cos(0.6), abs=1e-6)}
    with pytest.raises(NotScorableError, match="no reference"):
        _watch(observer, VideoItem("a", speech.path), levels)
    with pytest.raises(NotScorableError, match="no compared frame"):
        _watch(observer, item, levels, levels, face=None)
    with pytest.raises(ValueError, match="at least 1"):
        IdentityObserver(GreyRecognizer(), every=0)


def test_identity_without_points_says_which_detectors_give_them(speech):
    observer = IdentityObserver(GreyRecognizer())
    item = VideoItem("a", speech.path, reference=speech.path)
    with pytest.raises(NotScorableError, match=r"detector=yunet, or give metrics\.landmarks=FILE"):
        _watch(observer, item, LEVELS, LEVELS)


@pytest.mark.shared
def test_a_real_clip_beside_itself_and_another(shared: Path):
    weights = shared / "weights"
    landmarks = LandmarkNet(weights / "PFLD_GhostOne_112_1_opt_sim.onnx")
    observers = [
        MouthObserver(landmarks),
        IdentityObserver(FaceRecognizer(weights / "w600k_mbf.onnx"), landmarks, every=25),
    ]
    watch = VisualPass(observers, YunetDetector(weights / "face_detection_yunet_2023mar.onnx"))
    folder = shared / "data" / "corpus" / "main" / "grid_s1"
    clip, other = folder / "bbaf2n.mp4", folder / "bbaf3s.mp4"
    info = probe(clip)
    assert info.fps == Fraction(25)
    same, reasons, *_ = watch.measure(VideoItem("a", clip, clip), info)
    assert reasons == {}
    assert same["lmd"] == same["aperture_error"] == 0
    assert same["csim"] == pytest.approx(1)
    assert same["aperture_r"] == pytest.approx(1)
    assert {column.key for observer in observers for column in observer.columns} <= set(same)
    differs, *_ = watch.measure(VideoItem("a", clip, other), info)
    assert differs["lmd_percent"] > 0.5
    assert 0.6 < differs["csim"] < 0.99


def test_what_has_no_value_is_noted_with_the_video(
    observer: MouthObserver, make_video, tmp_path: Path
) -> None:
    """That there is no reference goes without saying."""
    for item in (
        VideoItem("a", make_video(tmp_path / "a.mp4", 12, sound=False)),
        VideoItem("b", make_video(tmp_path / "b.mp4", 12, sound=False), tmp_path / "a.mp4", paired=False),
    ):
        content = {"fps": "25/1", "faces": [[[8, 8, 56, 40, 0.9, None]]]}
        item.path.with_name(f"{item.path.stem}.faces.json").write_text(json.dumps(content))
        notes = VisualPass([observer], AnnotatedDetector()).measure(item, probe(item.path)).notes
        assert len(notes) == 1
        assert notes[0].startswith("aperture_audio_r, aperture_audio_lag: ")
        assert notes[0].endswith("has no audio stream")
