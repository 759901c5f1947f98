from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync.faces.detector import MtcnnDetector
from lipsync.faces.selection import selection
from lipsync.faces.tracker import interpolate, track_face
from lipsync.types import Box, Face, FaceFrame, Frame


def face(x: float, size: float = 100, score: float = 0.9) -> Face:
    return Face(Box(x, 50, x + size, 50 + size), score, np.full((5, 2), x, np.float32))


class Scripted:
    """Finds in each frame the faces of a script; keeps which frames it was shown."""

    def __init__(self, faces: Sequence[Sequence[Face]]) -> None:
        self.faces = faces
        self.seen: list[int] = []
        self.calls = 0

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        self.calls += 1
        self.seen += [frame.index for frame in frames]
        return [list(self.faces[frame.index]) for frame in frames]


def frames(count: int, shots: Sequence[int] = ()) -> list[Frame]:
    """Flat pictures whose grey level changes at the first frame of each shot."""
    result = []
    for index in range(count):
        level = 40 + 120 * (sum(index >= shot for shot in shots) % 2)
        result.append(Frame(index, index / 25, np.full((16, 16, 3), level, np.uint8)))
    return result


def left(items: Sequence[FaceFrame]) -> list[float | None]:
    return [None if item.face is None else item.face.box.x1 for item in items]


def test_steady_motion_is_interpolated_from_every_fifth_frame() -> None:
    detector = Scripted([[face(2.0 * i)] for i in range(21)])
    result = list(track_face(frames(21), detector, every=5))
    assert left(result) == pytest.approx([2.0 * i for i in range(21)])
    assert detector.seen == [0, 5, 10, 15, 20]
    assert [item.frame.index for item in result] == list(range(21))
    np.testing.assert_allclose(result[3].face.landmarks, np.full((5, 2), 6.0), atol=1e-4)


def test_every_one_looks_at_all_frames() -> None:
    detector = Scripted([[face(float(i % 3))] for i in range(9)])
    result = list(track_face(frames(9), detector, every=1))
    assert left(result) == [float(i % 3) for i in range(9)]
    assert detector.seen == list(range(9))


def test_last_block_may_be_short() -> None:
    detector = Scripted([[face(1.0 * i)] for i in range(8)])
    assert left(list(track_face(frames(8), detector, every=5))) == pytest.approx([1.0 * i for i in range(8)])
    assert detector.seen == [0, 5, 7]


def test_batches_give_the_same_with_fewer_calls() -> None:
    script = [[face(2.0 * i)] if i % 7 else [] for i in range(60)]
    one, many = Scripted(script), Scripted(script)
    expected = left(list(track_face(frames(60), one, every=3)))
    assert left(list(track_face(frames(60), many, every=3, batch=8))) == expected
    assert many.calls < one.calls


def test_disagreement_between_detections_makes_the_detector_look() -> None:
    # The face runs 40 pixels a frame: 5 frames apart the boxes do not meet, neighbours overlap by 0.43.
    detector = Scripted([[face(40.0 * i)] for i in range(11)])
    result = list(track_face(frames(11), detector, every=5))
    assert left(result) == [40.0 * i for i in range(11)]
    assert sorted(detector.seen) == list(range(11))


def test_missed_scheduled_frame_is_filled_from_its_neighbours() -> None:
    script = [[] if i == 5 else [face(3.0 * i)] for i in range(11)]
    detector = Scripted(script)
    result = list(track_face(frames(11), detector, every=5))
    assert left(result) == pytest.approx([3.0 * i for i in range(11)])
    assert {4, 6} <= set(detector.seen)


def test_short_gap_is_filled_and_long_gap_is_none() -> None:
    def run(gap: int) -> list[float | None]:
        script = [[] if 10 <= i < 10 + gap else [face(1.0 * i)] for i in range(40)]
        return left(list(track_face(frames(40), Scripted(script), every=5, max_gap=6)))

    assert run(6) == pytest.approx([1.0 * i for i in range(40)])
    expected = [None if 10 <= i < 17 else 1.0 * i for i in range(40)]
    result = run(7)
    assert [value is None for value in result] == [value is None for value in expected]
    assert [v for v in result if v is not None] == pytest.approx([v for v in expected if v is not None])


def test_gap_across_a_cut_is_not_filled() -> None:
    script = [[] if 8 <= i < 12 else [face(0.0)] for i in range(20)]
    result = left(list(track_face(frames(20, shots=[10]), Scripted(script), every=5)))
    assert [i for i, value in enumerate(result) if value is None] == [8, 9, 10, 11]


def test_no_interpolation_across_a_cut() -> None:
    # Both shots show a face at nearly the same place; only the picture tells them apart.
    script = [[face(0.0 if i < 8 else 30.0)] for i in range(16)]
    detector = Scripted(script)
    result = left(list(track_face(frames(16, shots=[8]), detector, every=5)))
    assert result == [0.0] * 8 + [30.0] * 8
    assert {6, 7, 8, 9} <= set(detector.seen)


def test_after_a_cut_the_main_face_is_followed() -> None:
    small, large = face(0.0, 60), face(300.0, 150)
    script = [[small] if i < 6 else [small, large] for i in range(12)]
    result = left(list(track_face(frames(12, shots=[6]), Scripted(script), every=1)))
    assert result == [0.0] * 6 + [300.0] * 6


def test_main_face_is_largest_times_score_then_the_same_one() -> None:
    def both(i: int) -> list[Face]:
        # The other face grows larger than the followed one later on.
        return [face(0.0, 100, 0.9), face(300.0, 60 + 10 * i, 0.8)]

    result = left(list(track_face(frames(15), Scripted([both(i) for i in range(15)]), every=3)))
    assert result == [0.0] * 15


def test_other_face_does_not_replace_a_missed_one() -> None:
    """While the followed face is missed for a few frames, a face in the background is no substitute."""
    far = face(400.0, 50)
    script = [[far] if 6 <= i < 10 else [face(0.0), far] for i in range(20)]
    assert left(list(track_face(frames(20), Scripted(script), every=2))) == [0.0] * 20


def test_other_face_takes_over_from_where_the_followed_one_left() -> None:
    far = face(400.0, 50)
    script = [[face(0.0), far] if i < 6 else [far] for i in range(40)]
    result = left(list(track_face(frames(40), Scripted(script), every=1, max_gap=10)))
    assert result == [0.0] * 6 + [400.0] * 34


def test_stream_that_ends_in_a_gap_uses_what_was_seen() -> None:
    script = [[face(0.0)] if i < 6 else [face(400.0)] if i > 8 else [] for i in range(12)]
    result = left(list(track_face(frames(12), Scripted(script), every=1)))
    assert result == [0.0] * 6 + [None] * 3 + [400.0] * 3


def test_stretch_without_any_face_costs_few_looks() -> None:
    detector = Scripted([[] for _ in range(101)])
    assert left(list(track_face(frames(101), detector, every=10))) == [None] * 101
    assert len(detector.seen) <= 22


def test_face_that_appears_between_two_misses_is_found() -> None:
    script = [[face(0.0)] if 11 <= i <= 19 else [] for i in range(31)]
    result = left(list(track_face(frames(31), Scripted(script), every=10)))
    assert result == [0.0 if 11 <= i <= 19 else None for i in range(31)]


def test_empty_stream() -> None:
    assert list(track_face([], Scripted([]))) == []


@pytest.mark.parametrize("settings", [{"every": 0}, {"max_gap": -1}, {"batch": 0}])
def test_bad_settings_are_refused_at_once(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        track_face([], Scripted([]), **settings)


def test_interpolation_without_landmarks() -> None:
    bare = Face(Box(0, 0, 10, 10), 0.5)
    middle = interpolate(bare, face(10.0), 0.5)
    assert middle.landmarks is None
    assert middle.score == pytest.approx(0.7)


def named(detector_script: Sequence[Sequence[Face]], **settings: object) -> list[float | None]:
    shots = settings.pop("shots", ())
    stream = frames(len(detector_script), shots)  # type: ignore[arg-type]
    return left(list(track_face(stream, Scripted(detector_script), **settings)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "first", "second"), [("left", 0.0, 150.0), ("right", 300.0, 450.0)])
def test_the_rule_is_asked_at_the_beginning_of_every_shot(name: str, first: float, second: float) -> None:
    script = [[face(0.0), face(300.0)] if i < 6 else [face(450.0), face(150.0)] for i in range(14)]
    result = named(script, shots=[6], every=3, select=selection(name))
    assert result == [first] * 6 + [second] * 8


def test_the_rule_is_not_asked_again_inside_a_shot() -> None:
    # From frame 4 on somebody stands further left.
    script = [[face(200.0)] if i < 4 else [face(20.0), face(200.0)] for i in range(20)]
    assert named(script, every=5, select=selection("left")) == [200.0] * 20


def test_an_index_out_of_range_waits() -> None:
    script = [[face(0.0)] if i < 9 else [face(0.0), face(200.0)] for i in range(20)]
    assert named(script, every=1, select=selection("index", 1)) == [None] * 9 + [200.0] * 11


def test_waiting_for_a_face_costs_few_looks() -> None:
    detector = Scripted([[face(0.0)] for _ in range(101)])
    result = list(track_face(frames(101), detector, every=10, select=selection("index", 1)))
    assert left(result) == [None] * 101
    assert len(detector.seen) <= 22


@pytest.mark.parametrize("every", [1, 3, 5])
@pytest.mark.parametrize("speed", [4.0, 7.0, 11.0])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("rule", ["left", "right"])
def test_two_who_cross_are_not_mixed_up(every: int, speed: float, hidden: bool, rule: str) -> None:
    def both(i: int) -> list[Face]:
        one, other = face(speed * i), face(400.0 - speed * i, 100, 0.8)
        # Behind the other one it is not seen at all.
        return [other] if hidden and one.box.iou(other.box) > 0.4 else [one, other]

    count = int(400 / speed)
    result = named([both(i) for i in range(count)], every=every, select=selection(rule))
    truth = [speed * i if rule == "left" else 400.0 - speed * i for i in range(count)]
    for i in (*range(10), *range(count - 10, count)):
        assert result[i] == pytest.approx(truth[i], abs=1e-3)


def test_of_two_equal_overlaps_the_more_similar_size_is_taken() -> None:
    # Two boxes with an overlap of 2/3 each: one as large as before beside it, one larger around it.
    before = Face(Box(100, 100, 200, 200), 0.9)
    shifted = Face(Box(120, 100, 220, 200), 0.9)
    around = Face(Box(100 - 11.24, 100 - 11.24, 200 + 11.24, 200 + 11.24), 0.9)
    assert before.box.iou(shifted.box) == pytest.approx(before.box.iou(around.box), abs=0.001)
    result = list(track_face(frames(2), Scripted([[before], [around, shifted]]), every=1))
    assert result[1].face is shifted


def test_nobody_takes_the_place_of_a_face_that_turned_away() -> None:
    def script(i: int) -> list[Face]:
        return [face(400.0)] if 10 <= i < 40 else [face(0.0), face(400.0)]

    everyone = [script(i) for i in range(60)]
    faithful = named(everyone, every=1, max_gap=6, select=selection("left"), patience=None)
    assert faithful == [0.0] * 10 + [None] * 30 + [0.0] * 20
    waiting = named(everyone, every=5, max_gap=6, select=selection("left"), patience=None)
    assert waiting == [0.0] * 10 + [None] * 30 + [0.0] * 20
    patient = named(everyone, every=1, max_gap=6, select=selection("left"), patience=20)
    assert patient == [0.0] * 10 + [None] * 20 + [400.0] * 30


def test_a_counting_rule_finds_its_face_again() -> None:
    script = [
        [face(0.0), face(400.0)] if 10 <= i < 30 else [face(x) for x in (0.0, 200.0, 400.0)]
        for i in range(40)
    ]
    result = named(script, every=1, max_gap=6, select=selection("index", 1), patience=None)
    assert result == [200.0] * 10 + [None] * 20 + [200.0] * 10


def test_patience_ends_with_the_shot() -> None:
    script = [[face(0.0), face(400.0)] if i < 8 else [face(400.0)] for i in range(40)]
    result = named(script, shots=[30], every=1, max_gap=4, select=selection("left"), patience=None)
    assert result == [0.0] * 8 + [None] * 22 + [400.0] * 10


def test_a_mistake_of_the_detector_at_the_start_does_not_shut_out_the_face() -> None:
    script = [[face(0.0, 30), face(200.0)] if i < 2 else [face(200.0)] for i in range(40)]
    result = named(script, every=1, max_gap=4, select=selection("left"), patience=None)
    assert result[2:] == [200.0] * 38


def test_a_face_detected_twice_is_one_person() -> None:
    # The second box upon the face is not somebody else, so it may carry the track on.
    script = [[face(0.0), face(30.0)] if i < 5 else [] if i < 15 else [face(30.0)] for i in range(30)]
    result = named(script, every=1, max_gap=4, patience=None)
    assert result[15:] == [30.0] * 15


SIGHTS = st.lists(st.sampled_from(["", "a", "b", "ab", "ba", "c"]), max_size=60)
SHOTS = st.sets(st.integers(0, 59), max_size=4)
PLACES = {"a": face(0.0), "b": face(400.0, 80), "c": face(30.0)}  # c overlaps a


@settings(max_examples=150, deadline=None)
@given(
    SIGHTS,
    st.integers(1, 7),
    st.integers(0, 8),
    st.integers(1, 3),
    st.tuples(st.sampled_from(["largest", "right", "index"]), st.sampled_from([0, 5, None]), SHOTS),
)
def test_one_item_a_frame_in_order_with_bounded_look_ahead(
    sights: list[str], every: int, max_gap: int, batch: int, rule: tuple[str, int | None, set[int]]
) -> None:
    name, patience, shots = rule
    chosen = {"select": selection(name, 1), "patience": patience}
    script = [[PLACES[name] for name in sight] for sight in sights]
    given = frames(len(script), sorted(shots))
    read = 0

    def stream() -> Iterator[Frame]:
        nonlocal read
        for frame in given:
            read += 1
            yield frame

    result = []
    for item in track_face(stream(), Scripted(script), every=every, max_gap=max_gap, batch=batch, **chosen):
        assert read - len(result) <= every * batch + max_gap
        result.append(item)
    assert [item.frame for item in result] == given
    again = list(track_face(given, Scripted(script), every=every, max_gap=max_gap, batch=batch, **chosen))
    assert left(again) == left(result)
    if every == 1 and max_gap == 0 and patience == 0 and name != "index":
        assert [item.face is None for item in result] == [not faces for faces in script]


def test_real_clips_joined_by_a_cut(clip) -> None:
    joined = [*clip("raw/wild/hdtf_512_a.mp4", 13), *clip("raw/wild/hdtf_512_b.mp4", 13)]
    stream = [Frame(i, i / 25, frame.image) for i, frame in enumerate(joined)]
    tracked = list(track_face(stream, MtcnnDetector()))
    exact = MtcnnDetector().detect(stream)
    assert all(item.face for item in tracked)
    overlaps = [item.face.box.iou(faces[0].box) for item, faces in zip(tracked, exact, strict=True)]
    assert min(overlaps) > 0.85
    assert np.mean(overlaps) > 0.94


class Quick(Scripted):
    """Finds again what the script holds near where it is expected."""

    def __init__(self, faces: Sequence[Sequence[Face]]) -> None:
        super().__init__(faces)
        self.glanced: list[int] = []

    def refind(self, frame: Frame, faces: Sequence[Face]) -> list[Face | None]:
        self.glanced.append(frame.index)
        there = self.faces[frame.index]
        return [next((f for f in there if f.box.iou(face.box) > 0.4), None) for face in faces]


def test_known_faces_are_glanced_at_between_full_looks() -> None:
    detector = Quick([[face(i)] for i in range(41)])
    result = list(track_face(frames(41), detector, every=5, glances=3))
    assert left(result) == pytest.approx([float(i) for i in range(41)])
    assert detector.seen == [0, 20, 40]
    assert detector.glanced == [5, 10, 15, 25, 30, 35]


def test_without_glances_and_in_batches_the_detector_looks() -> None:
    for options in ({}, {"glances": 3, "batch": 2}):
        detector = Quick([[face(i)] for i in range(21)])
        list(track_face(frames(21), detector, every=5, **options))
        assert detector.glanced == []


def test_a_face_that_is_not_found_again_is_looked_for() -> None:
    script = [[face(0)]] * 8 + [[face(300)]] * 13  # jumps within the shot
    detector = Quick(script)
    result = list(track_face(frames(21), detector, every=5, glances=9, max_gap=3))
    assert 10 in detector.glanced
    assert 10 in detector.seen
    assert left(result)[12:] == [300.0] * 9


def test_a_cut_is_looked_at_whole() -> None:
    detector = Quick([[face(0)]] * 8 + [[face(10)]] * 13)
    list(track_face(frames(21, shots=[8]), detector, every=5, glances=9))
    assert 10 not in detector.glanced
    assert detector.glanced == [5, 15, 20]


def test_who_leaves_beside_the_followed_face_makes_the_detector_look() -> None:
    script = [[face(0), face(400, size=60)]] * 8 + [[face(0)]] * 13
    detector = Quick(script)
    result = list(track_face(frames(21), detector, every=5, glances=9))
    assert left(result) == [0.0] * 21
    assert 10 in detector.seen


def test_glances_hold_on_real_clips(clip) -> None:
    """The quick look gives what detection gives, at a third of its time on the whole."""
    watched = clip("raw/wild/retalk_30fps_700.mp4", 60)
    detector = MtcnnDetector()
    full = [item.face for item in track_face(iter(watched), detector, every=5)]
    quick = [item.face for item in track_face(iter(watched), detector, every=5, glances=7)]
    overlaps = [a.box.iou(b.box) for a, b in zip(full, quick, strict=True) if a and b]
    assert len(overlaps) == 60
    assert np.mean(overlaps) > 0.97
    assert min(overlaps) > 0.9
