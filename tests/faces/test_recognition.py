from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipsync.errors import CheckpointError
from lipsync.faces.recognition import FaceRecognizer
from lipsync.faces.yunet import YunetDetector

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def recognizer(shared: Path) -> FaceRecognizer:
    return FaceRecognizer(shared / "weights" / "w600k_mbf.onnx")


@pytest.fixture(scope="module")
def embedded(shared: Path, recognizer, clip):
    detector = YunetDetector(shared / "weights" / "face_detection_yunet_2023mar.onnx")

    def embed(name: str, index: int) -> np.ndarray:
        frame = clip(f"raw/wild/{name}.mp4", 2, max(1, index))[-1 if index else 0]
        return recognizer.embedding(frame.image, detector.detect([frame])[0][0].landmarks)

    return embed


def test_one_person_is_like_itself_and_unlike_others(recognizer, embedded):
    first, later = embedded("retalk_woman_524", 0), embedded("retalk_woman_524", 40)
    other = embedded("retalk_man_22fps_700", 0)
    assert first.shape == (recognizer.dimensions,) == (512,)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert float(first @ later) > 0.7
    assert abs(float(first @ other)) < 0.3


def test_size_and_tilt_of_the_face_hardly_matter(shared, recognizer, clip):
    detector = YunetDetector(shared / "weights" / "face_detection_yunet_2023mar.onnx")
    frame = clip("raw/wild/retalk_woman_524.mp4", 1)[0]
    points = detector.detect([frame])[0][0].landmarks
    expected = recognizer.embedding(frame.image, points)
    turned = np.ascontiguousarray(frame.image[::-1, ::-1])
    height, width = frame.image.shape[:2]
    found = recognizer.embedding(turned, [width - 1, height - 1] - points)
    assert float(expected @ found) > 0.99


def test_networks_of_another_kind_are_refused(shared):
    with pytest.raises(CheckpointError, match=r"gives 196 numbers; .*512 \(ArcFace\) or 128 \(SFace\)"):
        FaceRecognizer(shared / "weights" / "PFLD_GhostOne_112_1_opt_sim.onnx")
