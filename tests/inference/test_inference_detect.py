from __future__ import annotations

from collections.abc import Sequence

import pytest
from inference_stubs import BOX, StubDetector, frames_of

from lipsync.errors import ConfigError, NoFaceError
from lipsync.faces.selection import selection
from lipsync.inference.detect import FirstFace, FixedBox, FollowFace
from lipsync.inference.source import repeated
from lipsync.types import Box, Face, Frame


def test_each_frame_comes_once_with_its_face_and_the_padded_region() -> None:
    frames = frames_of(23)
    items = list(FollowFace(StubDetector(), pads=(1, 20, 3, 4))(frames))
    assert [item.frame.index for item in items] == list(range(23))
    expected = Box(BOX.x1 - 3, BOX.y1 - 1, BOX.x2 + 4, BOX.y2 + 20)
    assert {item.region for item in items} == {expected}
    assert {item.face.box for item in items if item.face} == {BOX}


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
    assert {item.region.y2 for item in items if item.region} == {BOX.y2 + 10}
    assert {item.face.box for item in items if item.face} == {BOX}, "the face stays as it was detected"


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


class Row:
    """Two people, side by side; the one on the left is away for a while."""

    def __init__(self, away: range = range(0)) -> None:
        self.away = away
        self.calls: list[int] = []

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        self.calls.append(len(frames))
        return [
            [
                Face(Box(60, 20, 110, 80), 0.9),
                *([] if frame.index in self.away else [Face(Box(5, 30, 35, 60), 0.9)]),
            ]
            for frame in frames
        ]


@pytest.mark.parametrize(("rule", "left"), [("largest", 60), ("left", 5), ("right", 60), ("center", 60)])
def test_the_face_is_selected_by_a_rule(rule: str, left: int) -> None:
    for stage in (FollowFace(Row(), select=selection(rule)), FirstFace(Row(), select=selection(rule))):
        assert {item.face and item.face.box.x1 for item in stage(frames_of(12))} == {left}


def test_a_face_that_the_rule_does_not_find_is_missing() -> None:
    third = selection("index", 2)
    assert [item.face for item in FollowFace(Row(), select=third)(frames_of(12))] == [None] * 12
    with pytest.raises(NoFaceError, match="no face in frame 0"):
        list(FollowFace(Row(), select=third, must_have_face=True)(frames_of(12)))
    with pytest.raises(NoFaceError, match="no face in frame 0"):
        list(FirstFace(Row(), select=third)(frames_of(12)))


def test_nobody_takes_the_place_of_the_followed_face() -> None:
    def followed(**settings: int) -> list[float | None]:
        stage = FollowFace(Row(range(10, 60)), every=1, smooth=False, select=selection("left"), **settings)
        return [item.face and item.face.box.x1 for item in stage(frames_of(80))]

    assert followed() == [5] * 10 + [None] * 50 + [5] * 20
    assert followed(patience=25) == [5] * 10 + [None] * 25 + [60] * 45


def test_detection_in_batches() -> None:
    one, many = Row(), Row()
    plain = list(FollowFace(one, every=5)(frames_of(101)))
    assert [item.face for item in FollowFace(many, every=5, batch=4)(frames_of(101))] == [
        item.face for item in plain
    ]
    assert max(one.calls) == 1
    assert max(many.calls) == 4


def test_the_way_back_of_a_bounce_goes_on_with_the_same_track() -> None:
    frames = frames_of(21)
    there_and_back = frames + frames[-2::-1] + frames[1:]
    detector = StubDetector()
    items = list(FollowFace(detector, every=10)(there_and_back))
    assert [item.frame for item in items] == there_and_back
    assert len(detector.seen) == 1 + 6, "no detection at the turning points but the scheduled ones"
