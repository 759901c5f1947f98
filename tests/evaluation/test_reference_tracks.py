from __future__ import annotations

import numpy as np
import pytest

from lipsync.evaluation.shots import ShotFinder
from lipsync.evaluation.tracks import CropRegion, crop_regions, cut, link_tracks
from lipsync.types import Box


def _scene(seed, count):
    random = np.random.default_rng(seed)
    faces = []
    for frame in range(count):
        boxes = []
        if not 60 <= frame < 75:
            corners = np.array([100 + 0.5 * frame, 80, 260 + 0.5 * frame, 260]) + random.standard_normal(4)
            boxes.append(Box(*corners.tolist()))
        if frame >= 40 and frame % 9:
            boxes.append(Box(*(np.array([420, 100, 560, 250]) + random.standard_normal(4)).tolist()))
        faces.append(boxes)
    return faces


def test_parity_with_the_reference(parity):
    _, arrays = parity("syncnet_tracks")
    tracks = link_tracks(_scene(601, 180))
    assert len(tracks) == 2
    for index, track in enumerate(tracks):
        np.testing.assert_array_equal(track.frames, arrays[f"frame_{index}"])
        np.testing.assert_allclose(track.boxes, arrays[f"bbox_{index}"], rtol=1e-12)
        regions = [[r.pad, r.y1, r.y2, r.x1, r.x2] for r in crop_regions(track)]
        np.testing.assert_array_equal(regions, arrays[f"crop_{index}"])


def test_frame_numbers_start_at_the_shot():
    track = link_tracks(_scene(601, 180), first=1000)[0]
    assert (track.start, track.stop) == (1000, 1180)


@pytest.mark.parametrize(("count", "kept"), [(99, 0), (100, 0), (101, 1)])
def test_short_tracks_are_dropped(count, kept):
    assert len(link_tracks([[Box(0, 0, 150, 150)]] * count)) == kept


@pytest.mark.parametrize(("size", "kept"), [(100, 0), (101, 1)])
def test_small_faces_are_dropped(size, kept):
    assert len(link_tracks([[Box(0, 0, size, 50)]] * 120)) == kept


@pytest.mark.parametrize(("gap", "lengths"), [(24, [264]), (25, [120, 120])])
def test_a_long_gap_splits_a_track(gap, lengths):
    face = [Box(0, 0, 150, 150)]
    tracks = link_tracks([face] * 120 + [[]] * gap + [face] * 120)
    assert [len(track.frames) for track in tracks] == lengths


def test_cut_equals_padding_the_whole_frame():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for _ in range(50):
        pad = int(random.integers(5, 90))
        y1, x1 = (int(v) for v in random.integers(0, 2 * pad + 50, 2))
        region = CropRegion(pad, y1, y1 + int(random.integers(1, 120)), x1, x1 + int(random.integers(1, 120)))
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), constant_values=110)
        np.testing.assert_array_equal(
            cut(image, region), padded[region.y1 : region.y2, region.x1 : region.x2]
        )


def _shots(levels):
    finder = ShotFinder()
    for level in levels:
        finder.push(np.full((48, 64, 3), level, dtype=np.uint8))
    return finder.bounds()


def test_shots():
    assert _shots([20] * 30) == [(0, 30)]
    assert _shots([20] * 30 + [220] * 30) == [(0, 30), (30, 60)]
    assert _shots([]) == []


def test_cuts_close_to_the_one_before_are_ignored():
    assert _shots([20] * 30 + [220] * 10 + [20] * 30) == [(0, 30), (30, 70)]


def test_the_first_cut_may_come_at_any_time():
    assert _shots([20] * 5 + [220] * 30) == [(0, 5), (5, 35)]


def test_a_change_below_the_threshold_is_no_cut():
    # grey levels change the value channel only: a third of the step counts
    assert _shots([20] * 30 + [20 + 84] * 30) == [(0, 60)]
    assert _shots([20] * 30 + [20 + 96] * 30) == [(0, 30), (30, 60)]
