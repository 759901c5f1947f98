from __future__ import annotations

from itertools import pairwise

import numpy as np

from lipsync.faces.shots import CutFinder


def test_cut_between_two_clips(clip) -> None:
    frames = [
        *clip("raw/wild/hdtf_512_a.mp4", 30),
        *clip("raw/wild/retalk_30fps_700.mp4", 30),
        *clip("raw/wild/hdtf_512_b.mp4", 30),
    ]
    finder = CutFinder()
    assert [i for i, frame in enumerate(frames) if finder(frame.image)] == [30, 60]


def test_cuts_inside_a_compilation(clip) -> None:
    """Five shots and a fade-in; the numbers, the first frames of the later shots, were checked by eye."""
    finder = CutFinder()
    frames = clip("corpus/main/ta_woman/transcribe_anything.mp4", 245)
    assert [i for i, frame in enumerate(frames) if finder(frame.image)] == [78, 150, 202, 243]


def test_a_pan_that_speeds_up_is_no_cut() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (8, 40, 3), dtype=np.uint8)
    wide = texture.repeat(32, axis=0).repeat(32, axis=1)
    offsets = np.cumsum(np.arange(40))  # up to 39 of 256 pixels a frame
    differences = [
        np.abs(wide[:, a : a + 256].astype(int) - wide[:, b : b + 256]).mean() for a, b in pairwise(offsets)
    ]
    assert max(differences) > 40  # far above the threshold
    finder = CutFinder()
    assert not any(finder(wide[:, offset : offset + 256]) for offset in offsets)


def test_first_frame_begins_no_new_shot() -> None:
    assert CutFinder()(np.full((9, 7, 3), 255, np.uint8)) is False


def test_cut_after_cut_is_found() -> None:
    finder = CutFinder()
    levels = [0, 0, 100, 0, 0]
    assert [finder(np.full((20, 20, 3), level, np.uint8)) for level in levels] == [
        False,
        False,
        True,
        True,
        False,
    ]
