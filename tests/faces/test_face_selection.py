from __future__ import annotations

import numpy as np
import pytest

from lipsync.errors import ConfigError
from lipsync.faces.selection import Chosen, FacePath, ShotChoice, apart, selection
from lipsync.types import Box, Face, Frame

FRAME = Frame(0, 0.0, np.zeros((100, 400, 3), np.uint8))


def face(x: float, side: float = 40, score: float = 0.9) -> Face:
    return Face(Box(x - side / 2, 50 - side / 2, x + side / 2, 50 + side / 2), score)


FACES = [face(190, 50), face(380, 60), face(30, 40), face(300, 45)]


@pytest.mark.parametrize(
    ("name", "index", "expected"),
    [
        ("largest", 0, 380),
        ("center", 0, 190),
        ("left", 0, 30),
        ("right", 0, 380),
        ("index", 0, 30),
        ("index", 2, 300),
        ("index", 4, None),
    ],
)
def test_rules(name: str, index: int, expected: float | None) -> None:
    found = selection(name, index)(FRAME, FACES)
    assert (found and found.box.center[0]) == expected


@pytest.mark.parametrize("name", ["largest", "center", "left", "right", "index"])
def test_no_rule_finds_a_face_where_there_is_none(name: str) -> None:
    assert selection(name)(FRAME, []) is None


def test_a_doubtful_large_face_is_not_the_main_one() -> None:
    found = selection("largest")(FRAME, [face(100, 50, 0.5), face(200, 40, 0.9)])
    assert found is not None
    assert found.box.center[0] == 200


def test_center_goes_by_both_axes() -> None:
    high = Face(Box(180, -100, 220, -60), 0.9)
    found = selection("center")(FRAME, [high, face(150)])
    assert found is not None
    assert found.box.center[0] == 150


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="'top' is unknown: use largest, center, left, right or index"):
        selection("top")
    with pytest.raises(ConfigError, match="-1"):
        selection("index", -1)


def path(start: float, stop: float, x: float, to: float | None = None) -> FacePath:
    return FacePath((start, stop), (face(x).box, face(x if to is None else to).box))


def test_a_path_is_interpolated_and_ends() -> None:
    walk = path(1.0, 2.0, 100, 200)
    assert [box and box.center[0] for box in map(walk.at, (0.9, 1.0, 1.25, 2.0, 2.1))] == [
        None, 100, 125, 200, None,
    ]  # fmt: skip
    assert [box and box.center[0] for box in (walk.at(0.9, 0.2), walk.at(2.1, 0.2))] == [100, 200]


def test_paths_taken_together_never_meet() -> None:
    first, beside, later = path(0, 5, 100), path(1, 9, 300), path(6, 9, 110)
    assert apart([first, beside, later]) == (first, later)


def at(choice: Chosen, time: float, *faces: Face) -> float | None:
    found = choice(Frame(0, time, FRAME.image), faces)
    return found and found.box.center[0]


def test_the_chosen_face_of_each_shot_is_selected_at_any_time() -> None:
    choice = Chosen(
        (
            ShotChoice(0.0, 2, (path(0.0, 1.9, 100),)),
            ShotChoice(2.0, 2, (path(2.0, 3.9, 300), path(4.5, 5.0, 200))),
            ShotChoice(5.2, 1),
        )
    )
    both = face(105), face(305, 60)
    times = [0.0, 1.96, 2.0, 3.0, 5.3]
    expected = [105, 105, 305, 305, 305]
    assert [at(choice, time, *both) for time in times] == expected
    assert [at(choice, time, *both) for time in reversed(times)] == expected[::-1], "passes may run backwards"
    assert at(choice, 4.6, *both) is None, "the speaker is elsewhere"
    assert at(choice, 4.6, *both, face(205)) == 205
    assert at(choice, 1.0, face(305)) is None
    assert at(choice, 1.0) is None


def test_two_paths_close_in_time_are_kept_apart() -> None:
    choice = Chosen((ShotChoice(0.0, 2, (path(0.0, 1.0, 100), path(1.2, 2.0, 300))),))
    faces = face(100), face(300)
    assert [at(choice, time, *faces) for time in (0.9, 1.1, 1.3)] == [100, 100, 300]


def test_notes_are_collected() -> None:
    assert Chosen((ShotChoice(0.0, 1), ShotChoice(1.0, 2, note="not judged"))).notes == ("not judged",)
