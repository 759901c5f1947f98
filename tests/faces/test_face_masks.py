from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsync.errors import ConfigError
from lipsync.faces.align import FFHQ_TEMPLATE
from lipsync.faces.landmarks import POINTS, LandmarkNet
from lipsync.faces.masks import FaceMask, LowerFace, RunningMean, feather_mask
from lipsync.faces.parsing import FACE, Region
from lipsync.faces.shapes import LandmarkMask, ParsedMask
from lipsync.types import Box, Face, Frame, Image, Patch

BOX = Box(60, 40, 220, 240)


class RoundJaw:
    """WFLW points of a face as wide as its box; only those that the mask uses are meaningful."""

    def __init__(self) -> None:
        self.shift = np.zeros(2)
        self.looks = 0

    def points(self, image: Image, box: Box) -> np.ndarray:
        self.looks += 1
        points = np.zeros((POINTS, 2), np.float32)
        angle = np.linspace(0, np.pi, 33)
        x, y = box.center
        points[:33, 0] = x - np.cos(angle) * box.width * 0.4
        points[:33, 1] = y + np.sin(angle) * box.height * 0.42
        points[52] = x, y + 0.02 * box.height
        return points + self.shift.astype(np.float32)


class BlackIsNotFace:
    """A parser for which every pixel above black is skin."""

    def __init__(self) -> None:
        self.asked: list[Collection[Region]] = []

    def probabilities(self, crops: Image, regions: Collection[Region]) -> np.ndarray:
        self.asked.append(regions)
        return (crops.max(axis=-1) > 60).astype(np.float32)


def patch(index: int = 0, box: Box = BOX, image: Image | None = None, face: Face | None = None) -> Patch:
    picture = np.full((300, 320, 3), 150, np.uint8) if image is None else image
    return Patch(Frame(index, index / 25, picture), box, np.zeros((96, 96, 3), np.uint8), face)


def masks() -> list[FaceMask]:
    return [LowerFace(), LandmarkMask(RoundJaw()), ParsedMask(BlackIsNotFace())]


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 0.9), st.floats(0.01, 0.5))
def test_borders_are_zero_and_values_in_range(height: int, width: int, top: float, feather: float) -> None:
    mask = feather_mask(height, width, top=top, feather=feather)
    assert mask.shape == (height, width, 1)
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1
    for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
        assert (edge == 0).all()


def test_lower_centre_is_one_and_upper_half_zero() -> None:
    mask = feather_mask(200, 160)[:, :, 0]
    assert (mask[:101] == 0).all()
    assert (mask[135:165, 30:130] == 1).all()


def test_symmetric_and_without_a_visible_step() -> None:
    mask = feather_mask(192, 192)[:, :, 0]
    np.testing.assert_array_equal(mask, mask[:, ::-1])
    # 0.15 * 192 = 28.8 pixels of smooth step: steepest slope 1.5 / 28.8
    assert np.abs(np.diff(mask, axis=0)).max() < 1.55 / 28.8
    assert np.abs(np.diff(mask, axis=1)).max() < 1.55 / 28.8


def test_the_border_may_fade_faster_than_the_top() -> None:
    mask = feather_mask(200, 200, feather=0.2, border=0.05)[:, :, 0]
    assert mask[150, 10] == 1
    assert mask[110, 100] < 0.2
    np.testing.assert_array_equal(feather_mask(90, 80, border=0.15), feather_mask(90, 80))


@pytest.mark.parametrize(
    "settings", [{"top": 1.0}, {"top": -0.1}, {"feather": 0.0}, {"feather": 0.6}, {"border": 0.0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        feather_mask(10, 10, **settings)


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: type(mask).__name__)
@pytest.mark.parametrize(
    "box", [BOX, Box(0, 0, 320, 300), Box(250, 200, 320, 300), Box(3, 3, 12, 14), Box(3, 3, 4, 5)]
)
def test_every_mask_keeps_its_promises(mask: FaceMask, box: Box) -> None:
    found = mask(patch(box=box))
    assert found.shape == (box.height, box.width, 1)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    assert not found[: int(mask.top * box.height)].any()
    for edge in (found[0], found[-1], found[:, 0], found[:, -1]):
        assert not edge.any()
    if box == BOX:
        assert found[140, 80, 0] > 0.95, "the mouth"


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: type(mask).__name__)
def test_the_top_can_be_moved(mask: FaceMask) -> None:
    made: Any = type(mask)
    arguments = [part for part in (getattr(mask, name, None) for name in ("landmarks", "parser")) if part]
    other = made(*arguments, top=0.65)
    assert other.top == 0.65
    assert not other(patch())[:131].any()
    with pytest.raises(ConfigError, match="top=1"):
        made(*arguments, top=1)


def test_a_patch_without_a_box_is_refused() -> None:
    frame = Frame(0, 0.0, np.zeros((9, 9, 3), np.uint8))
    for mask in masks():
        with pytest.raises(ValueError, match="without a box"):
            mask(Patch(frame))


def test_the_landmark_mask_ends_at_the_jaw() -> None:
    mask = LandmarkMask(RoundJaw())(patch())[:, :, 0]
    assert (mask[105:196, [4, -5]] == 0).all(), "beside the jaw"
    assert (mask[185:, :40] == 0).all(), "below the jaw's bend"
    assert mask[182, 80] > 0.3, "the chin"
    wider = LandmarkMask(RoundJaw(), grow=0.1)(patch())[:, :, 0]
    assert wider.sum() > 1.05 * mask.sum()
    assert (wider >= mask - 1e-6).all()


def test_points_are_averaged_over_time_until_the_stream_jumps() -> None:
    jaw = RoundJaw()
    mask = LandmarkMask(jaw, memory=4)
    first = mask(patch(0))
    jaw.shift = np.array([12.0, 0.0])
    second, third = mask(patch(1)), mask(patch(2))
    moved = LandmarkMask(jaw)(patch(0))
    steps = [float(np.abs(step).sum()) for step in (second - first, third - second, moved - first)]
    assert 0 < steps[1] < steps[0] < 0.7 * steps[2]
    np.testing.assert_allclose(mask(patch(9)), moved, atol=1e-6)  # OpenCV rounds by the memory's alignment
    assert jaw.looks == 5


def test_the_shape_moves_with_the_box_without_lag() -> None:
    mask = LandmarkMask(RoundJaw(), memory=8)
    first = mask(patch(0))
    second = mask(patch(1, box=Box(65, 44, 225, 244)))
    np.testing.assert_allclose(second, first, atol=0.02)


def test_the_parsed_mask_leaves_out_what_is_not_face() -> None:
    image = np.full((300, 320, 3), 150, np.uint8)
    image[190:, 150:] = 0  # something dark in front of half of the chin
    parser = BlackIsNotFace()
    mask = ParsedMask(parser)(patch(image=image))[:, :, 0]
    assert (mask[152:, 92:] == 0).all()
    assert mask[160:180, 30:60].min() > 0.9
    assert parser.asked == [FACE | {Region.NECK}]


def test_the_parsed_mask_finds_its_way_back_from_a_turned_crop() -> None:
    image = np.full((300, 320, 3), 150, np.uint8)
    image[:, 150:] = 0
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ((FFHQ_TEMPLATE - FFHQ_TEMPLATE.mean(axis=0)) * 0.5) @ turn.T + [140, 150]
    face = Face(BOX, 1.0, points.astype(np.float32))
    mask = ParsedMask(BlackIsNotFace())(patch(image=image, face=face))[:, :, 0]
    assert (mask[:, 92:] == 0).all()
    assert mask[150, 60:80].min() > 0.9


def test_settings_of_the_shapes_are_checked() -> None:
    with pytest.raises(ConfigError, match="memory=0"):
        LandmarkMask(RoundJaw(), memory=0)
    with pytest.raises(ConfigError, match="grow=-1"):
        LandmarkMask(RoundJaw(), grow=-1)
    for name in ("top", "feather", "grow", "memory"):
        with pytest.raises(ConfigError, match=f"^mask {name}=abc: give a number$"):
            LandmarkMask(RoundJaw(), **{name: "abc"})  # type: ignore[arg-type]
    for name in ("top", "feather", "memory"):
        with pytest.raises(ConfigError, match=f"^mask {name}=nan: give a number$"):
            ParsedMask(BlackIsNotFace(), **{name: float("nan")})  # type: ignore[arg-type]
    for name in ("top", "feather"):
        with pytest.raises(ConfigError, match=f"^mask {name}=None: give a number$"):
            LowerFace(**{name: None})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="beard"):
        ParsedMask(BlackIsNotFace(), regions=["beard"])
    parser = BlackIsNotFace()
    ParsedMask(parser, regions=["skin", "lower lip"])(patch())
    assert parser.asked == [{Region.SKIN, Region.LOWER_LIP}]


def test_the_running_mean_is_plain_at_first_and_then_forgets() -> None:
    mean = RunningMean(3)
    found = [float(mean(patch(i), np.array([value], np.float32))[0]) for i, value in enumerate([3, 6, 9, 0])]
    np.testing.assert_allclose(found, [3, 4.5, 6, 4])
    elsewhere = patch(4, box=Box(0, 0, 20, 20))
    assert mean(elsewhere, np.array([8], np.float32))[0] == 8


@pytest.mark.shared
def test_landmarks_of_a_real_face_make_a_mask_of_its_lower_half(shared: Path, clip: Any) -> None:
    from lipsync.faces.yunet import YunetDetector

    (frame,) = clip("raw/wild/hdtf_512_a.mp4", 1)
    (face,) = YunetDetector(shared / "weights" / "face_detection_yunet_2023mar.onnx").detect([frame])[0][:1]
    box = Box(*(float(value) for value in face.box.rounded()))
    assert face.landmarks is not None
    found = Patch(frame, box, np.zeros((96, 96, 3), np.uint8), face)
    net = LandmarkNet(shared / "weights" / "PFLD_GhostOne_112_1_opt_sim.onnx")
    mask = LandmarkMask(net)(found)[:, :, 0]
    x, y = (face.landmarks[3:].mean(axis=0) - [box.x1, box.y1]).astype(int)
    assert mask[y, x] == 1, "the mouth"
    height, width = mask.shape
    assert mask[-height // 8 :, : width // 8].max() < 0.2, "below the jaw's corner"
    assert 0.2 < mask.mean() < 0.45
