from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lipsync.errors import DataError
from lipsync.faces.detector import AnnotatedDetector, FaceDetector
from lipsync.types import Box, Frame

IMAGE = np.zeros((8, 8, 3), np.uint8)


def write(folder: Path, content: object, name: str = "clip") -> Path:
    (folder / f"{name}.faces.json").write_text(json.dumps(content))
    return folder / f"{name}.mp4"


def boxes(count: int) -> list:
    return [[[i, 0, i + 10, 10, 0.5, None], [i, 5, i + 20, 30, 0.8, [[i, 1]] * 5]] for i in range(count)]


def test_entry_follows_the_time_and_best_comes_first(tmp_path: Path) -> None:
    source = write(tmp_path, {"fps": "30000/1001", "faces": boxes(40)})
    detector = AnnotatedDetector()
    assert isinstance(detector, FaceDetector)
    # Frames of the video at 25 fps: the nearest annotated frame is meant.
    found = detector.detect([Frame(i, i / 25, IMAGE, source) for i in range(30)])
    assert [faces[0].box.x1 for faces in found] == [round(i / 25 * 30000 / 1001) for i in range(30)]
    first = found[0][0]
    assert first.score == 0.8
    assert first.box == Box(0, 5, 20, 30)
    assert first.landmarks is not None
    assert first.landmarks.shape == (5, 2)
    assert found[0][1].landmarks is None


def test_frames_of_two_videos(tmp_path: Path) -> None:
    one = write(tmp_path, {"fps": "25/1", "faces": boxes(2)}, "one")
    two = write(tmp_path, {"fps": "25/1", "faces": [[], []]}, "two.part")
    detector = AnnotatedDetector()
    counts = [len(detector.detect([Frame(0, 0.0, IMAGE, source)])[0]) for source in (one, two, one)]
    assert counts == [2, 0, 2]


def test_single_entry_holds_for_a_still_image(tmp_path: Path) -> None:
    source = write(tmp_path, {"fps": "25/1", "faces": boxes(1)})
    assert len(AnnotatedDetector().detect([Frame(99, 3.96, IMAGE, source)])[0]) == 2


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"clip\.faces\.json: no such file") as error:
        AnnotatedDetector().detect([Frame(0, 0.0, IMAGE, tmp_path / "clip.mp4")])
    assert "\n" not in str(error.value)


def test_frame_beyond_the_annotation(tmp_path: Path) -> None:
    source = write(tmp_path, {"fps": "25/1", "faces": boxes(3)})
    with pytest.raises(DataError, match="has 3 entries"):
        AnnotatedDetector().detect([Frame(3, 0.12, IMAGE, source)])


def test_frame_without_source() -> None:
    with pytest.raises(DataError, match="comes from no file"):
        AnnotatedDetector().detect([Frame(0, 0.0, IMAGE)])


@pytest.mark.parametrize(
    "content",
    [
        {"faces": [[]]},
        {"fps": "0/1", "faces": [[]]},
        {"fps": "1/0", "faces": [[]]},
        {"fps": "25/1", "faces": []},
        {"fps": "25/1", "faces": [[[1, 2, 3]]]},
        {"fps": "25/1", "faces": [[[1, 2, 3, 4, 0.5, [[1, 2]]]]]},
        [1, 2],
    ],
)
def test_malformed_files_are_named(tmp_path: Path, content: object) -> None:
    source = write(tmp_path, content)
    with pytest.raises(DataError, match=r"clip\.faces\.json"):
        AnnotatedDetector().detect([Frame(0, 0.0, IMAGE, source)])


def test_text_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "clip.faces.json").write_text("{")
    with pytest.raises(DataError, match="malformed"):
        AnnotatedDetector().detect([Frame(0, 0.0, IMAGE, tmp_path / "clip.mp4")])
