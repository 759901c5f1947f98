from __future__ import annotations

import numpy as np
import pytest

from lipsync.faces.smoothing import reference_boxes, reference_smoothing, smooth_boxes
from lipsync.types import Box, Face, FaceFrame, Frame

IMAGE = np.zeros((4, 4, 3), np.uint8)


def item(index: int, x: float | None, landmarks: bool = True) -> FaceFrame:
    frame = Frame(index, index / 25, IMAGE)
    if x is None:
        return FaceFrame(frame, None)
    points = np.full((5, 2), x, np.float32) if landmarks else None
    return FaceFrame(frame, Face(Box(x, 2 * x, x + 100, 2 * x + 120), 0.9 - index / 1000, points))


def left(items: list[FaceFrame]) -> list[float | None]:
    return [None if entry.face is None else entry.face.box.x1 for entry in items]


@pytest.mark.parametrize("case", range(9))
def test_reference_boxes_equal_the_reference(parity, case: int) -> None:
    fixture = parity("face_boxes")[0]["cases"][case]
    boxes = reference_boxes(
        np.array(fixture["detections_x1y1x2y2"]),
        tuple(fixture["frame_hw"]),
        tuple(fixture["pads_top_bottom_left_right"]),
        fixture["nosmooth"],
    )
    assert boxes.tolist() == fixture["result_y1y2x1x2"]


def test_every_parity_case_is_covered(parity) -> None:
    assert len(parity("face_boxes")[0]["cases"]) == 9


def test_reference_smoothing_leaves_its_input() -> None:
    boxes = np.arange(40).reshape(10, 4)
    before = boxes.copy()
    reference_smoothing(boxes)
    assert (boxes == before).all()


def test_steady_motion_is_not_displaced() -> None:
    given = [item(i, 3.0 * i) for i in range(12)]
    smoothed = list(smooth_boxes(given))
    for before, after in zip(given, smoothed, strict=True):
        assert after.frame is before.frame
        assert after.face is not None
        assert before.face is not None
        assert after.face.box.x1 == pytest.approx(before.face.box.x1)
        assert after.face.box.y2 == pytest.approx(before.face.box.y2)
        assert after.face.score == before.face.score
        np.testing.assert_allclose(after.face.landmarks, before.face.landmarks, atol=1e-4)


def test_mean_of_five_in_the_middle_and_shrinking_ends() -> None:
    xs = [0.0, 5.0, 1.0, 7.0, 2.0, 9.0]
    result = left(list(smooth_boxes(item(i, x) for i, x in enumerate(xs))))
    expected = [0.0, 2.0, 3.0, 24 / 5, 6.0, 9.0]
    assert result == pytest.approx(expected)


def test_smoothing_stops_at_gaps_and_jumps() -> None:
    xs = [0.0, 10.0, None, 20.0, 30.0, 500.0, 510.0, None]
    result = left(list(smooth_boxes(item(i, x) for i, x in enumerate(xs))))
    assert result == xs  # runs of two frames have no neighbour on both sides


def test_smoothing_reduces_jitter() -> None:
    xs = 50 + np.random.default_rng(0).standard_normal(200)
    result = np.array(left(list(smooth_boxes(item(i, float(x)) for i, x in enumerate(xs)))), float)
    assert result[2:-2].std() < 0.6 * xs.std()


def test_look_ahead_is_half_the_window() -> None:
    read = 0

    def stream():
        nonlocal read
        for i in range(50):
            read = i
            yield item(i, float(i))

    for index, _ in enumerate(smooth_boxes(stream(), window=7)):
        assert read <= index + 3


def test_landmarks_stay_where_a_neighbour_has_none() -> None:
    smoothed = list(smooth_boxes([item(0, 0.0), item(1, 6.0, landmarks=False), item(2, 0.0), item(3, 3.0)]))
    assert smoothed[1].face is not None
    assert smoothed[1].face.landmarks is None
    assert smoothed[2].face is not None
    np.testing.assert_array_equal(smoothed[2].face.landmarks, np.zeros((5, 2)))


def test_window_of_one_changes_nothing() -> None:
    given = [item(i, float(i * i)) for i in range(5)]
    assert left(list(smooth_boxes(given, window=1))) == left(given)


@pytest.mark.parametrize("window", [0, 2, -1])
def test_even_windows_are_refused_at_once(window: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        smooth_boxes([], window)
