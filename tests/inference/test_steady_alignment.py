from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from enhance_stubs import CENTER, HEIGHT, SIDE, WIDTH, composite, landmarks, spaced_frames

from lipsync.faces.align import FFHQ_TEMPLATE, similarity, transform
from lipsync.faces.mtcnn import MtcnnDetector
from lipsync.inference.alignment import SteadyAlignment, five_points
from lipsync.types import Frame


def test_a_shot_cut_ends_a_run() -> None:
    items = [composite(index) for index in range(6)]
    bright = np.full((HEIGHT, WIDTH, 3), 230, np.uint8)
    others = [
        replace(item, frame=Frame(item.frame.index + 6, 0.0, bright), source=bright)
        for item in (composite(index, (176, 116)) for index in range(6))
    ]
    found = list(SteadyAlignment(2.0)(items + others))
    assert [item.run for item in found[:6]] == [found[0].run] * 6
    assert [item.run for item in found[6:]] == [found[0].run + 1] * 6
    np.testing.assert_allclose(found[6].points, landmarks((176, 116)), atol=1e-3)


def jitter(points: list[np.ndarray]) -> float:
    """How far the mouth moves in the crop from frame to frame while the face stands still, in pixels."""
    mouth = np.array([CENTER[0], CENTER[1] + 0.23 * SIDE])
    seen = np.stack([transform(mouth, similarity(each, FFHQ_TEMPLATE)) for each in points])
    return float(np.linalg.norm(np.diff(seen, axis=0), axis=1).mean())


def test_alignment_of_noisy_points_is_several_times_steadier() -> None:
    rng = np.random.default_rng(0)
    noisy = []
    for index in range(200):
        item = composite(index)
        assert item.face is not None
        points = (landmarks() + rng.normal(0, 1, (5, 2))).astype(np.float32)
        noisy.append(replace(item, face=replace(item.face, landmarks=points)))
    steady = [item.points for item in SteadyAlignment(2.0)(noisy)]
    raw = [item.points for item in SteadyAlignment(0.0)(noisy)]
    assert all(points is not None for points in steady + raw)
    # White noise through a Gaussian window of 2 frames changes from frame to frame by 0.13 of what it did.
    assert jitter(steady) < 0.2 * jitter(raw)  # type: ignore[arg-type]


def test_a_face_in_steady_motion_is_not_displaced_even_at_the_ends() -> None:
    items = [composite(index, (CENTER[0] + 3 * index, CENTER[1] + index)) for index in range(20)]
    for item, found in zip(items, SteadyAlignment(2.0)(items), strict=True):
        assert item.face is not None
        np.testing.assert_allclose(found.points, item.face.landmarks, atol=1e-3)
        assert found.composite.frame is item.frame


def test_points_are_guessed_from_the_box_near_where_a_detector_sees_them(
    shared: Path,
) -> None:
    detector = MtcnnDetector()
    for name in ("retalk_woman_590", "retalk_30fps_700"):
        frames = spaced_frames(shared / f"data/raw/wild/{name}.mp4", 2)
        for face, *_ in detector.detect(frames):
            assert face.landmarks is not None
            guessed = five_points(replace(face, landmarks=None))
            eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
            assert np.linalg.norm(guessed - face.landmarks, axis=1).max() < 0.25 * eyes
