from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipsync.errors import CheckpointError
from lipsync.faces.landmarks import (
    EYE_CORNERS,
    INNER_CORNERS,
    INNER_PAIRS,
    MOUTH,
    MOUTH_CORNERS,
    LandmarkNet,
    five_points,
)
from lipsync.faces.yunet import YunetDetector
from lipsync.types import Box


@pytest.fixture(scope="module")
def net(shared: Path) -> LandmarkNet:
    return LandmarkNet(shared / "weights" / "PFLD_GhostOne_112_1_opt_sim.onnx")


@pytest.fixture(scope="module")
def detector(shared: Path) -> YunetDetector:
    return YunetDetector(shared / "weights" / "face_detection_yunet_2023mar.onnx")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["hdtf_512_a", "retalk_woman_524", "vox_224"])
def test_points_agree_with_the_detector(net, detector, clip, name):
    frame = clip(f"raw/wild/{name}.mp4", 1)[0]
    face = detector.detect([frame])[0][0]
    points = net.points(frame.image, face.box)
    assert points.shape == (98, 2)
    assert points.dtype == np.float32
    eyes = np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]])
    gaps = np.linalg.norm(five_points(points) - face.landmarks, axis=1) / eyes
    assert gaps.max() < 0.15
    np.testing.assert_array_equal(points, net.points(frame.image, face.box))


@pytest.mark.shared
def test_points_stand_in_the_order_of_wflw(net, detector, clip):
    frame = clip("raw/wild/hdtf_512_a.mp4", 1)[0]
    points = net.points(frame.image, detector.detect([frame])[0][0].box)
    outer, inner = points[76:88], points[88:96]
    assert outer[:, 0].argmin() == MOUTH_CORNERS[0] - 76
    assert outer[:, 0].argmax() == MOUTH_CORNERS[1] - 76
    assert inner[:, 0].argmin() == INNER_CORNERS[0] - 88
    assert inner[:, 0].argmax() == INNER_CORNERS[1] - 88
    for upper, lower in INNER_PAIRS:
        assert points[upper, 1] < points[lower, 1]
        assert abs(points[upper, 0] - points[lower, 0]) < 0.2 * np.ptp(inner[:, 0])
    low, high = outer.min(axis=0) - 2, outer.max(axis=0) + 2
    assert ((points[MOUTH] >= low) & (points[MOUTH] <= high)).all()


@pytest.mark.shared
def test_points_hardly_depend_on_how_the_box_is_drawn(net, detector, clip):
    frame = clip("raw/wild/retalk_woman_524.mp4", 1)[0]
    box = detector.detect([frame])[0][0].box
    expected = net.points(frame.image, box)
    side, eyes = box.height, np.linalg.norm(expected[60] - expected[72])
    other = box.padded(0.04 * side, -0.03 * side, 0.05 * side, -0.05 * side)
    moved = net.points(frame.image, other)
    assert np.linalg.norm(moved - expected, axis=1)[MOUTH].mean() / eyes < 0.02


@pytest.mark.shared
def test_points_move_with_the_picture(net, detector, clip):
    frame = clip("raw/wild/vox_224.mp4", 1)[0]
    box = detector.detect([frame])[0][0].box
    wide = np.pad(frame.image, ((30, 0), (50, 0), (0, 0)))
    moved = net.points(wide, Box(box.x1 + 50, box.y1 + 30, box.x2 + 50, box.y2 + 30))
    assert np.abs(moved - net.points(frame.image, box) - [50, 30]).max() < 0.5
    with pytest.raises(ValueError, match="empty"):
        net.points(wide, Box(5, 5, 5, 5))


@pytest.mark.shared
def test_networks_with_other_points_are_refused(shared):
    with pytest.raises(CheckpointError, match=r"w600k_mbf\.onnx: gives 256 points; .* 98 points of WFLW"):
        LandmarkNet(shared / "weights" / "w600k_mbf.onnx")
    with pytest.raises(CheckpointError, match="does not accept pictures of 112 x 112"):
        LandmarkNet(shared / "weights" / "face_detection_yunet_2023mar.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"<html>sign in", "web page"),
        (b"\x00\x01 not a network", "cannot read it as ONNX"),
    ],
)
def test_files_that_are_no_network_are_refused_in_one_line(tmp_path, capfd, content, message):
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        LandmarkNet(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
