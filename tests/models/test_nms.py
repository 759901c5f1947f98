from __future__ import annotations

import numpy as np
import pytest

from lipsync.models.nms import nms


def naive_nms(boxes: np.ndarray, threshold: float, side: float) -> list[int]:
    def iou(a: np.ndarray, b: np.ndarray) -> float:
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + side)
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + side)
        union = sum((c[2] - c[0] + side) * (c[3] - c[1] + side) for c in (a, b)) - width * height
        return width * height / union

    keep: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -boxes[i, 4]):
        if all(iou(boxes[i], boxes[k]) <= threshold for k in keep):
            keep.append(i)
    return keep


@pytest.mark.parametrize("plus_one", [False, True])
def test_nms_equals_the_definition(plus_one: bool) -> None:
    rng = np.random.default_rng(0)
    corners = rng.random((200, 2)) * 60
    boxes = np.hstack((corners, corners + 2 + rng.random((200, 2)) * 20, rng.random((200, 1))))
    found = nms(boxes.astype(np.float64), 0.3, plus_one=plus_one)
    assert list(found) == naive_nms(boxes, 0.3, float(plus_one))
    assert 5 < len(found) < 200


def test_nms_of_nothing_is_nothing() -> None:
    assert nms(np.zeros((0, 5), dtype=np.float32), 0.3).shape == (0,)


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    boxes = np.array(
        [[0, 0, 10, 10, 0.6], [1, 0, 11, 10, 0.9], [40, 0, 50, 10, 0.7], [42, 2, 46, 6, 0.8]], np.float32
    )
    assert nms(boxes, 0.5).tolist() == [1, 3, 2]
    assert nms(boxes, 0.5, relative_to="smaller").tolist() == [1, 3]
    assert nms(boxes[:0], 0.5).tolist() == []
