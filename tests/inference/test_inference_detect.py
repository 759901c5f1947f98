from __future__ import annotations

import pytest
from inference_stubs import BOX, StubDetector, frames_of

from lipsync.errors import ConfigError, NoFaceError
from lipsync.inference.detect import FirstFace, FixedBox, FollowFace
from lipsync.inference.source import repeated
from lipsync.types import Box


def test_each_frame_comes_once_with_its_padded_face() -> None:
    frames = frames_of(23)
    items = list(FollowFace(StubDetector(), pads=(1, 20, 3, 4))(frames))
    assert [item.frame.index for item in items] == list(range(23))
    expected = Box(BOX.x1 - 3, BOX.y1 - 1, BOX.x2 + 4, BOX.y2 + 20)
    assert {item.face.box for item in items if item.face} == {expected}


def test_the_detector_runs_on_a_schedule() -> None:
    detector = StubDetector()
    items = list(FollowFace(detector, every=5)(frames_of(51)))
    assert len(items) == 51
    assert len(detector.seen) <= 12


def test_frames_without_a_face_pass_through() -> None:
    faces = list(FollowFace(StubDetector(lambda time: time < 0.99), every=1)(frames_of(60)))
    assert [item.face is not None for item in faces] == [True] * 25 + [False] * 35


def test_a_missing_face_can_be_an_error_that_names_the_frame() -> None:
    stage = FollowFace(StubDetector(lambda time: time < 0.99), every=1, must_have_face=True)
    with pytest.raises(NoFaceError, match=r"clip.mp4: no face in frame 25 \(at 1.00 s\).*box=") as caught:
        list(stage(frames_of(60)))
    assert "\n" not in str(caught.value)


def test_each_pass_of_a_looped_video_is_followed_afresh() -> None:
    detector = StubDetector()
    frames = list(repeated(frames_of(10), 25, "loop"))
    items = list(FollowFace(detector, every=5)(frames))
    assert [item.frame.index for item in items] == list(range(25))
    assert {0, 10, 20} <= set(detector.seen), "every pass begins with a detection"


def test_a_still_is_detected_once() -> None:
    detector = StubDetector()
    items = list(FirstFace(detector, pads=(0, 10, 0, 0))(frames_of(9)))
    assert [item.frame.index for item in items] == list(range(9))
    assert detector.seen == [0]
    assert {item.face.box.y2 for item in items if item.face} == {BOX.y2 + 10}


def test_a_still_without_a_face_fails_at_once() -> None:
    with pytest.raises(NoFaceError, match="no face in frame 0"):
        next(FirstFace(StubDetector(lambda time: False))(frames_of(3)))


def test_a_fixed_box_is_used_as_it_is() -> None:
    items = list(FixedBox((10, 50, 20, 70))(frames_of(3)))
    assert {item.face.box for item in items if item.face} == {Box(20, 10, 70, 50)}
    assert len(items) == 3


def test_a_fixed_box_must_hold_something() -> None:
    with pytest.raises(ConfigError, match=r"box=\[50, 50, 0, 10\]"):
        FixedBox((50, 50, 0, 10))
    with pytest.raises(ConfigError, match="outside the picture of 128x120"):
        list(FixedBox((200, 300, 0, 10))(frames_of(1)))


def test_a_face_outside_the_picture_counts_as_none() -> None:
    detector = StubDetector(box=Box(500, 500, 600, 600))
    assert [item.face for item in FollowFace(detector)(frames_of(6))] == [None] * 6
