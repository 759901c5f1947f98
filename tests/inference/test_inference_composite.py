from __future__ import annotations

import numpy as np
import pytest
from inference_stubs import picture

from lipsync.errors import ConfigError
from lipsync.faces.crop import crop, paste
from lipsync.faces.masks import LowerFace, feather_mask
from lipsync.inference.composite import (
    BoxCompositor,
    Compositor,
    FeatherCompositor,
    LaplacianCompositor,
)
from lipsync.types import Box, Face, Frame, Patch

BOX = Box(20, 10, 84, 90)
FACE = Face(BOX, 0.9)
WHITE = np.full((96, 96, 3), 255, np.uint8)
RNG = np.random.default_rng(5)


def patch(image: np.ndarray, new: np.ndarray = WHITE, strength: float = 1.0, index: int = 3) -> Patch:
    return Patch(Frame(index, index / 25, image), BOX, new, FACE, strength)


def compositors() -> list[Compositor]:
    return [
        BoxCompositor(),
        FeatherCompositor(),
        FeatherCompositor(LowerFace(0.3, 0.1), upscale="lanczos", tone=False),
        LaplacianCompositor(),
        LaplacianCompositor(tone=False, levels=2, upscale="linear"),
    ]


each = pytest.mark.parametrize("compositor", compositors(), ids=lambda item: type(item).__name__)


@each
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_pixels_outside_the_mask_keep_their_bytes(compositor: Compositor, strength: float) -> None:
    image = picture(0)
    before = image.copy()
    noise = RNG.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    (result,) = compositor([patch(image, noise, strength)])
    assert result.source is image
    assert result.face is FACE
    assert result.box == BOX
    assert (result.frame.index, result.frame.time) == (3, 0.12)
    weight = np.zeros(image.shape[:2], np.float32)
    weight[10:90, 20:84] = 1 if result.mask is None else result.mask[:, :, 0]
    assert weight.max() == pytest.approx(strength)
    np.testing.assert_array_equal(result.frame.image[weight == 0], image[weight == 0])
    assert (result.frame.image != image).any(axis=2)[weight > 0].mean() > 0.7
    top = 10 + int(compositor.top * 80)
    np.testing.assert_array_equal(result.frame.image[:top], image[:top])
    np.testing.assert_array_equal(image, before, err_msg="the source frame must not change")


@each
def test_a_patch_that_shows_the_source_changes_next_to_nothing(compositor: Compositor) -> None:
    y, x = np.mgrid[0:120, 0:128]
    image = np.stack([100 + x / 2, 90 + y / 2, 60 + (x + y) / 3], axis=2).astype(np.uint8)
    (result,) = compositor([patch(image, crop(image, BOX, 96))])
    assert np.abs(result.frame.image.astype(int) - image).max() <= 2


@each
def test_a_frame_without_a_face_or_strength_passes_untouched(compositor: Compositor) -> None:
    frame = Frame(5, 0.2, picture(1))
    without, faded = compositor([Patch(frame), Patch(frame, BOX, WHITE, FACE, 0.0)])
    for result in (without, faded):
        assert result.frame is frame
        assert result.source is frame.image
    assert (without.face, without.box, without.mask) == (None, None, None)
    assert (faded.face, faded.box) == (FACE, BOX), "what restores the whole face goes on"
    assert faded.mask is not None
    assert faded.mask.shape == (80, 64, 1)
    assert not faded.mask.any()


@each
def test_order_and_laziness(compositor: Compositor) -> None:
    taken = []

    def patches() -> object:
        for index in range(4):
            taken.append(index)
            yield patch(picture(index), index=index)

    stream = compositor(patches())  # type: ignore[arg-type]
    assert next(stream).frame.index == 0
    assert taken == [0]
    assert [item.frame.index for item in stream] == [1, 2, 3]


@each
def test_strength_scales_the_change(compositor: Compositor) -> None:
    image = picture(0)
    full, half = (next(compositor([patch(image, WHITE, s)])).frame.image.astype(int) for s in (1.0, 0.5))
    np.testing.assert_allclose(half - image, (full - image) / 2, atol=1.01)


def test_the_feather_is_the_rounded_mean_of_source_and_patch() -> None:
    image = picture(0)
    (result,) = FeatherCompositor(tone=False)([patch(image)])
    mask = feather_mask(80, 64)
    exact = image[10:90, 20:84] * (1 - mask.astype(float)) + 255 * mask.astype(float)
    assert np.abs(result.frame.image[10:90, 20:84] - exact).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(result.frame.image[10:90, 20:84][mask[:, :, 0] == 1], 255)
    assert result.mask is not None
    np.testing.assert_array_equal(result.mask, mask)


@pytest.mark.parametrize("compositor", [FeatherCompositor(tone=False), LaplacianCompositor(tone=False)])
def test_no_edge_shows_at_the_border_of_the_box(compositor: Compositor) -> None:
    grey = np.full((120, 128, 3), 128, np.uint8)
    (result,) = compositor([patch(grey)])
    steps = np.abs(np.diff(result.frame.image.astype(int), axis=1)).max()
    assert steps < 40, "a hard paste makes a step of 127"


def test_the_box_compositor_is_the_references_paste() -> None:
    image = picture(0)
    noise = RNG.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    (result,) = BoxCompositor()([patch(image, noise)])
    np.testing.assert_array_equal(result.frame.image, paste(image, noise, BOX))
    assert BoxCompositor.top == 0
    assert result.mask is None


def test_tone_is_matched_by_default() -> None:
    image = picture(0)
    cast = np.clip(crop(image, BOX, 96) + 40.0, 0, 255).astype(np.uint8)
    shifts = {
        tone: (next(FeatherCompositor(tone=tone)([patch(image, cast)])).frame.image.astype(int) - image)[
            65:75, 40:64
        ].mean()
        for tone in (True, False)
    }
    assert shifts[False] > 35
    assert abs(shifts[True]) < 5


def test_two_runs_of_a_compositor_do_not_share_a_tone() -> None:
    compositor = FeatherCompositor()
    image = picture(0)
    cast = np.clip(crop(image, BOX, 96) + 40.0, 0, 255).astype(np.uint8)
    fresh = next(compositor([patch(image, WHITE, index=1)])).frame.image
    list(compositor([patch(image, cast, index=0)]))
    np.testing.assert_array_equal(next(compositor([patch(image, WHITE, index=1)])).frame.image, fresh)


def test_detail_changes_within_fewer_pixels_than_the_tone() -> None:
    """What pyramids are for: at the seam the fine bands switch over at once, the coarse ones slowly."""
    image = np.full((300, 300, 3), 100, np.uint8)
    box = Box(20, 20, 276, 276)
    stripes = np.full((256, 256, 3), 100, np.uint8)
    stripes[:, ::2] = 140
    lighter = np.full((256, 256, 3), 140, np.uint8)
    widths = []
    for new in (stripes, lighter):
        (result,) = LaplacianCompositor(tone=False)([Patch(Frame(0, 0.0, image), box, new, FACE)])
        rows = np.abs(result.frame.image[20:276, 20:276].astype(float) - 100).max(axis=2)[:, 100:156].mean(1)
        reached = np.flatnonzero(rows > 0.8 * rows.max())[0], np.flatnonzero(rows > 0.1 * rows.max())[0]
        widths.append(reached[0] - reached[1])
    assert widths[0] < 0.7 * widths[1]


def test_an_empty_mask_leaves_the_picture() -> None:
    class Nothing:
        top = 0.5

        def __call__(self, patch: Patch) -> np.ndarray:
            return np.zeros((80, 64, 1), np.float32)

    for compositor in (FeatherCompositor(Nothing()), LaplacianCompositor(Nothing())):
        (result,) = compositor([patch(picture(0))])
        np.testing.assert_array_equal(result.frame.image, picture(0))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 5), (31, 200)])
def test_boxes_of_any_size(size: tuple[int, int]) -> None:
    image = picture(0, 256, 256)
    box = Box(10, 10, 10 + size[0], 10 + size[1])
    for compositor in compositors():
        (result,) = compositor([Patch(Frame(0, 0.0, image), box, WHITE, FACE)])
        inside = np.zeros(image.shape[:2], bool)
        inside[10 : 10 + size[1], 10 : 10 + size[0]] = True
        np.testing.assert_array_equal(result.frame.image[~inside], image[~inside])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"feather=0.7"):
        LowerFace(feather=0.7)
    with pytest.raises(ConfigError, match=r"upscale=area"):
        FeatherCompositor(upscale="area")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"levels=0"):
        LaplacianCompositor(levels=0)
    for levels in (2.5, "3", True):
        with pytest.raises(ConfigError, match=f"^compositor levels={levels}: give a whole number"):
            LaplacianCompositor(levels=levels)  # type: ignore[arg-type]
