from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from enhance_stubs import (
    CENTER,
    HEIGHT,
    SIZE,
    Bright,
    Ovals,
    composite,
    enhancer,
    faceless,
    in_crop,
    landmarks,
    region_of,
    spaced_frames,
)
from torch import nn

from lipsync.errors import ConfigError
from lipsync.faces.align import FFHQ_TEMPLATE, inverse, similarity, transform, warp
from lipsync.faces.mtcnn import MtcnnDetector
from lipsync.faces.parsing import FACE, FaceParser, Region
from lipsync.inference.enhance import FaceEnhancer
from lipsync.inference.region_masks import RegionMasks
from lipsync.inference.restore import GFPGANRestorer
from lipsync.models.gfpgan import GFPGANv1Clean
from lipsync.types import Box, Composite


@pytest.mark.parametrize("region", ["lip", "face"])
@pytest.mark.parametrize("degrees", [0, 25])
def test_pixels_outside_the_region_keep_their_bytes(region: str, degrees: float) -> None:
    item = composite(0, degrees=degrees)
    before = item.frame.image.copy()
    stage = enhancer(region)
    (frame,) = stage([item])
    changed = in_crop(frame, item)
    # The mask of these small crops has pixels of eight.
    allowed = cv2.dilate(region_of("face").astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert not changed[~allowed].any()
    assert changed[region_of("lip")].all(), "the lips must be restored"
    assert changed[:260].any() == (region == "face"), "lip leaves the eyes alone"
    assert stage.parser.calls == 1, "one pass of the network for all regions"  # type: ignore[attr-defined]
    np.testing.assert_array_equal(item.frame.image, before, err_msg="the composite's image must not change")


def test_the_middle_of_the_mask_shows_the_restored_picture_and_weight_scales_it() -> None:
    item = composite(0)
    x, y = (round(float(value)) for value in landmarks()[3:].mean(axis=0))
    before = int(item.frame.image[y, x, 0])
    smooth = replace(item, frame=replace(item.frame, image=np.full_like(item.frame.image, before)))
    (full,) = enhancer("face")([smooth])
    (half,) = enhancer("face", weight=0.5)([smooth])
    assert full.image[y, x].tolist() == [before + 60] * 3
    assert half.image[y, x].tolist() == [before + 30] * 3
    (none,) = enhancer("face", weight=0)([item])
    assert none is item.frame


def test_a_generator_without_a_mask_counts_as_painting_the_whole_box() -> None:
    item = composite(0, masked=False)
    (frame,) = enhancer("lip")([item])
    changed = in_crop(frame, item)
    assert changed[region_of("lip")].all()
    assert not changed[:270].any(), "nothing above the nose, whatever the box"
    assert changed[380:].any()


def test_lip_restores_less_than_face_and_only_what_was_painted() -> None:
    item = composite(0)
    assert item.mask is not None
    narrow = item.mask.copy()
    narrow[:, : narrow.shape[1] // 2] = 0
    (frame,) = enhancer("lip")([replace(item, mask=narrow)])
    changed = in_crop(frame, item)
    around_lips = cv2.dilate(region_of("lip").astype(np.uint8), np.ones((81, 81), np.uint8)) > 0
    assert not changed[:, :200][~around_lips[:, :200]].any()
    assert changed[400:440, 300:330].all()


def test_frames_without_a_face_or_paint_pass_through_and_cost_nothing() -> None:
    lip = enhancer("lip")
    items = [faceless(0), composite(1, strength=0.0), faceless(2)]
    assert [frame is item.frame for frame, item in zip(lip(items), items, strict=True)] == [True] * 3
    assert lip.restorer.batches == []  # type: ignore[attr-defined]
    (frame,) = enhancer("face")([composite(1, strength=0.0)])
    assert (frame.image != composite(1).frame.image).any(), "face restores what was not painted, too"


def test_a_tiny_face_passes_through() -> None:
    item = composite(0, side=18.0)
    assert next(enhancer("face")([item])) is item.frame
    item = composite(0, side=24.0)
    assert next(enhancer("face")([item])) is not item.frame


def walk(count: int) -> list[Composite]:
    """A face that drifts and shakes, gone for one frame."""
    rng = np.random.default_rng(3)
    items = []
    for index in range(count):
        x, y = CENTER[0] + index + rng.normal(), CENTER[1] + rng.normal()
        items.append(faceless(index) if index == 7 else composite(index, (x, y)))
    return items


@pytest.mark.parametrize("region", ["lip", "face"])
def test_the_same_stream_gives_the_same_bytes_in_any_batches(region: str) -> None:
    runs = [list(enhancer(region, batch_size=size)(walk(17))) for size in (1, 4, 4, 50)]
    assert [frame.index for frame in runs[0]] == list(range(17))
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            np.testing.assert_array_equal(one.image, two.image)
    again = enhancer(region)
    for one, two in zip(again(walk(17)), again(walk(17)), strict=True):
        np.testing.assert_array_equal(one.image, two.image, err_msg="an enhancer can be used again")


def test_batches_reach_the_restorer() -> None:
    bright = Bright()
    list(FaceEnhancer(bright, Ovals(), "face", batch_size=4)([composite(i) for i in range(10)]))
    assert bright.batches == [4, 4, 2]


@pytest.mark.parametrize(
    "second",
    [
        [composite(index + 3) for index in range(10, 18)],
        [faceless(10), *(composite(index) for index in range(11, 19))],
        [composite(index, (80, 130)) for index in range(10, 18)],
    ],
    ids=["index", "no face", "box"],
)
def test_nothing_is_carried_over_a_jump(second: list[Composite]) -> None:
    first = walk(7) + [composite(i, (178, 112)) for i in range(7, 10)]
    frames = list(enhancer("face")(first + second))
    for one, two in zip(frames, [*enhancer("face")(first), *enhancer("face")(second)], strict=True):
        np.testing.assert_array_equal(one.image, two.image)


def test_memory_does_not_grow_with_the_clip() -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = [0, 0]
    given = 0

    def source() -> Iterator[Composite]:
        for index in range(60):
            item = composite(index)
            alive.append(weakref.ref(item.frame.image))
            most[0] = max(most[0], sum(reference() is not None for reference in alive))
            most[1] = max(most[1], index + 1 - given)
            yield item

    stage = enhancer("lip", batch_size=4)
    for _ in stage(source()):
        given += 1
    bound = 4 + stage.steady.look_ahead
    assert given == 60
    assert stage.steady.look_ahead == 5
    assert most[0] <= bound + 2
    assert most[1] <= bound + 2


def test_the_mask_is_averaged_over_time_and_starts_anew_after_a_jump() -> None:
    class Blinking(Ovals):
        def oval(self, crops: np.ndarray, regions: Collection[Region]) -> np.ndarray:
            found = super().oval(crops, regions)
            return found * np.linspace(0.7, 0.45, len(crops), dtype=np.float32)[:, None, None]

    crops = np.zeros((6, SIZE, SIZE, 3), np.uint8)
    painted = [np.ones((SIZE, SIZE), np.float32)] * 6

    def middle(memory: float, places: list[tuple[int, int]]) -> list[float]:
        masks = RegionMasks(Blinking(), "face", 0.03, memory)(crops, places, painted)
        return [float(mask[SIZE // 2, SIZE // 2]) for mask in masks]

    places = [(0, index) for index in range(6)]
    plain, averaged = middle(0.0, places), middle(0.8, places)
    np.testing.assert_allclose(plain, np.linspace(1, 0, 6), atol=1e-6)
    assert averaged[0] == pytest.approx(1)
    assert averaged[-1] > 0.5
    assert middle(0.8, [*places[:3], (1, 3), (1, 4), (1, 5)])[3] == pytest.approx(plain[3])
    assert middle(0.8, [*places[:3], (0, 9), (0, 10), (0, 11)])[3] == pytest.approx(plain[3])


def test_a_crop_may_reach_outside_the_frame() -> None:
    seen = []

    class Looking(Bright):
        def __call__(self, crops: np.ndarray) -> np.ndarray:
            seen.append(crops.copy())
            return super().__call__(crops)

    item = composite(0, (20.0, HEIGHT - 30.0))
    (frame,) = FaceEnhancer(Looking(), Ovals(), "face")([item])
    assert seen[0][0, -1, 0].tolist() == [135, 133, 132]
    assert (frame.image != item.frame.image).any()
    assert frame.image.shape == item.frame.image.shape
    beyond = composite(0, (-100.0, 100.0), masked=False)
    beyond = replace(beyond, box=Box(0, 0, 4, 4))
    assert next(enhancer("face")([beyond])).image.shape == frame.image.shape


@pytest.mark.parametrize("side", [40.0, 100.0])
def test_a_restored_picture_larger_than_the_face_is_averaged_not_sampled(side: float) -> None:
    class Stripes(Bright):
        def __call__(self, crops: np.ndarray) -> np.ndarray:
            stripes = np.zeros_like(crops)
            stripes[:, :, ::2] = 200
            return stripes

    item = composite(0, side=side)
    (frame,) = FaceEnhancer(Stripes(256), Ovals(), "face", feather=0.01)([item])
    x, y = (round(value) for value in CENTER)
    reach = round(side / 12)
    inside = frame.image[y - reach : y + reach, x - reach : x + reach].astype(int)
    assert np.abs(inside - 100).max() <= 30, "sampled stripes would give 0 and 200"


def test_settings_out_of_range_are_refused() -> None:
    for settings in (
        {"region": "nose"},
        {"weight": 1.5},
        {"batch_size": 0},
        {"smooth": -1},
        {"smooth": float("inf")},
        {"memory": 1.0},
        {"feather": -0.1},
        {"weight": "abc"},
        {"batch_size": 2.5},
        {"smooth": "abc"},
        {"smooth": float("nan")},
        {"memory": "abc"},
        {"feather": None},
    ):
        given = {"region": "lip", **settings}
        with pytest.raises(ConfigError, match=next(iter(settings))) as caught:
            enhancer(**given)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def parser(shared: Path) -> FaceParser:
    return FaceParser(shared / "weights" / "bisenet_face_parsing_19.pth", device="cpu")


@pytest.mark.parametrize("region", ["lip", "face"])
def test_a_real_face(shared: Path, parser: FaceParser, region: str) -> None:
    frames = spaced_frames(shared / "data/raw/wild/retalk_woman_590.mp4", 2)
    faces = [found[0] for found in MtcnnDetector().detect(frames)]
    items = []
    for frame, face in zip(frames, faces, strict=True):
        x1, y1, x2, y2 = face.box.rounded()
        mask = np.zeros((y2 - y1, x2 - x1, 1), np.float32)
        mask[(y2 - y1) // 2 : -5, 5:-5] = 1
        items.append(Composite(frame, frame.image, face, Box(x1, y1, x2, y2), mask))
    stage = FaceEnhancer(Bright(512), parser, region)
    for item, face, frame in zip(items, faces, stage(items), strict=True):
        matrix = similarity(face.landmarks, FFHQ_TEMPLATE)
        changed = in_crop(frame, item)
        assert changed[371, 256], "the mouth is restored"
        assert changed[230:250, 180:330].any() == (region == "face"), "the eyes only with face"
        crop = warp(item.frame.image, matrix, 512, (135, 133, 132))
        inside = parser.probabilities(crop[None], FACE)[0] > 0.4
        inside = cv2.dilate(inside.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
        assert not changed[~inside].any(), "hair, ears, neck and background keep their pixels"
        assert 0.02 < changed.mean() < 0.45
        corners = transform([[0, 0], [511, 511]], inverse(matrix))
        assert corners[0, 0] < face.box.x1 < face.box.x2 < corners[1, 0]


def test_with_the_restoring_network_itself(fill: Callable[..., nn.Module]) -> None:
    network = fill(GFPGANv1Clean(out_size=SIZE, narrow=0.25), gain=0.7)
    restorer = GFPGANRestorer({"params_ema": network.state_dict()}, device="cpu")
    stage = FaceEnhancer(restorer, Ovals(), "lip", batch_size=2)
    items = [composite(index) for index in range(3)]
    torch.manual_seed(1)
    first = list(stage(items))
    torch.manual_seed(2)
    for item, one, two in zip(items, first, stage(items), strict=True):
        np.testing.assert_array_equal(one.image, two.image, err_msg="a seed must not matter")
        assert in_crop(one, item)[region_of("lip")].mean() > 0.9


def test_what_covers_half_of_the_mouth_stays_in_front_of_it() -> None:
    class Covered(Ovals):
        def oval(self, crops: np.ndarray, regions: Collection[Region]) -> np.ndarray:
            found = super().oval(crops, regions)
            found[:, :, SIZE // 2 :] = 0
            return found

    crops = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    for painted in (np.ones((SIZE, SIZE), np.float32), np.eye(SIZE, dtype=np.float32)):
        (mask,) = RegionMasks(Covered(), "lip", 0.03, 0.6)(crops, [(0, 0)], [painted])
        assert not mask[:, SIZE // 2 :].any(), "neither the margin of the lips nor a soft edge may reach over"
        assert mask[round(0.73 * SIZE), round(0.44 * SIZE)] > 0.8
