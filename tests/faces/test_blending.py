from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from lipsync.errors import ConfigError
from lipsync.faces.blending import ToneMatch, add, blend, checked_upscale, enlarge, pyramid_blend
from lipsync.faces.crop import crop
from lipsync.faces.masks import LowerFace, feather_mask
from lipsync.types import Box, Frame, Image, Patch

RNG = np.random.default_rng(0)
BOX = Box(20, 10, 116, 126)


def scene(seed: int = 1) -> Image:
    """A smooth picture with some texture, like skin."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(70, 180, (4, 4, 3)).astype(np.float32), (140, 140))
    return np.clip(coarse + rng.normal(0, 3, (140, 140, 3)), 0, 255).astype(np.uint8)


def patch_of(image: Image, picture: Image, index: int = 0) -> Patch:
    return Patch(Frame(index, index / 25, image), BOX, picture)


@pytest.mark.parametrize("picture", ["uint8", "float32"])
def test_blend_is_the_rounded_mean(picture: str) -> None:
    source = RNG.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    new = RNG.uniform(0, 255, (50, 60, 3)).astype(picture)
    mask = feather_mask(50, 60, top=0.3)
    before = source.copy()
    result = blend(source, new, mask)
    exact = mask * new.astype(float) + (1 - mask.astype(float)) * source
    assert np.abs(result - exact).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(result[mask[:, :, 0] == 0], source[mask[:, :, 0] == 0])
    np.testing.assert_array_equal(source, before)


def test_add_rounds_and_cuts_off() -> None:
    source = np.array([[[10, 250, 3]]], np.uint8)
    np.testing.assert_array_equal(
        add(source, np.array([[[0.6, 30, -9]]], np.float32)), np.array([[[11, 255, 0]]])
    )


@pytest.mark.parametrize("upscale", ["linear", "cubic", "lanczos"])
def test_enlarged_pictures_stay_in_range_and_in_place(upscale: Any) -> None:
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:, 48:] = 255
    large = enlarge(picture, 300, 280, upscale)
    assert large.shape == (280, 300, 3)
    assert large.min() >= 0
    assert large.max() <= 255
    np.testing.assert_allclose(large[140], 255 - large[140, ::-1], atol=0.1)


def test_cubic_brings_back_more_than_linear() -> None:
    y, x = np.mgrid[0:288, 0:288]
    truth = np.repeat((127 + 60 * np.sin(x / 5) * np.cos(y / 7))[:, :, None], 3, axis=2).astype(np.float32)
    small = cv2.resize(truth, (96, 96), interpolation=cv2.INTER_AREA)
    errors = {name: np.abs(enlarge(small, 288, 288, name) - truth).mean() for name in ("linear", "cubic")}
    assert errors["cubic"] < 0.5 * errors["linear"]


def test_a_shrunk_picture_is_averaged() -> None:
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.ptp(enlarge(stripes, 48, 48)) < 1


def test_an_unknown_filter_is_refused() -> None:
    assert checked_upscale("lanczos") == "lanczos"
    with pytest.raises(ConfigError, match="upscale=nearest"):
        checked_upscale("nearest")


def test_one_band_is_a_plain_blend() -> None:
    difference = RNG.normal(0, 40, (41, 37, 3)).astype(np.float32)
    mask = feather_mask(41, 37)
    np.testing.assert_allclose(pyramid_blend(difference, mask, 1), difference * mask, atol=1e-4)
    with pytest.raises(ValueError, match="at least one"):
        pyramid_blend(difference, mask, 0)


@pytest.mark.parametrize("levels", [2, 4])
def test_bands_under_a_mask_of_ones_add_up(levels: int) -> None:
    difference = RNG.normal(0, 40, (53, 70, 3)).astype(np.float32)
    whole = pyramid_blend(difference, np.ones((53, 70, 1), np.float32), levels)
    np.testing.assert_allclose(whole, difference, atol=1e-3)


@pytest.mark.parametrize("levels", [6, 10])
def test_the_pyramid_is_video_retalkings(parity: Callable[..., Any], levels: int) -> None:
    _, arrays = parity("geometry", "retalking")
    a, b = fixture_image("geo:A", 16), fixture_image("geo:B", 32)
    mask = np.zeros((512, 512), np.float32)
    cv2.ellipse(mask, (256, 320), (120, 60), 10, 0, 360, 1, -1)
    result = b + pyramid_blend(a - b, mask[:, :, None], levels)
    np.testing.assert_allclose(result, literal_blend(a, b, mask, levels), atol=1e-3)
    # The stored ellipse was filled by another version of OpenCV: its outline differs by a few pixels.
    np.testing.assert_allclose(result[::8, ::8], arrays[f"laplace{levels}_stride8"], atol=0.5)


def literal_blend(a: np.ndarray, b: np.ndarray, mask: np.ndarray, levels: int) -> np.ndarray:
    """Two Laplacian pyramids, mixed band by band, as published."""
    stacks = [[picture] for picture in (a, b, mask)]
    for stack in stacks:
        for _ in range(levels - 1):
            stack.append(cv2.pyrDown(stack[-1]))
    low, high, weights = stacks[1], stacks[0], stacks[2]
    result = high[-1] * weights[-1][:, :, None] + low[-1] * (1 - weights[-1][:, :, None])
    for number in reversed(range(levels - 1)):
        size = weights[number].shape[::-1]
        bands = [stack[number] - cv2.pyrUp(stack[number + 1], dstsize=size) for stack in (high, low)]
        weight = weights[number][:, :, None]
        result = cv2.pyrUp(result, dstsize=size) + bands[0] * weight + bands[1] * (1 - weight)
    return result


def fixture_image(name: str, step: int) -> np.ndarray:
    """The fixtures' deterministic pictures."""
    coarse = np.random.default_rng(zlib.crc32(name.encode())).random((512 // step + 2, 512 // step + 2, 3))
    image = cv2.resize(coarse.astype(np.float32), (512, 512), interpolation=cv2.INTER_CUBIC)
    return (image.clip(0, 1) * 255).astype(np.uint8).astype(np.float32)


def test_a_patch_that_agrees_keeps_its_tone() -> None:
    image = scene()
    picture = crop(image, BOX, 96)
    picture[66:78, 35:60] = 20  # another mouth, well inside
    patch = patch_of(image, picture)
    mask = LowerFace()(patch)
    np.testing.assert_array_equal(ToneMatch()(patch, mask), picture.astype(np.float32))


def test_a_cast_is_taken_off_and_the_detail_stays() -> None:
    image = scene()
    true = crop(image, BOX, 96)
    slope = np.linspace(-10, 10, 96)[None, :, None]
    cast = np.clip(true + np.array([25.0, -15.0, 10.0]) + slope, 0, 255).astype(np.uint8)
    patch = patch_of(image, cast)
    mask = LowerFace()(patch)
    toned = ToneMatch()(patch, mask)
    weight = cv2.resize(mask, (96, 96))[:, :, None]
    before = (np.abs(cast.astype(float) - true) * weight).sum() / weight.sum()
    after = (np.abs(toned - true) * weight).sum() / weight.sum()
    assert after < 0.15 * before
    # What was added is smooth.
    assert np.abs(np.diff(toned - cast, axis=1)).max() < 2


def test_a_part_of_the_ring_that_shows_something_else_does_not_tint_the_rest() -> None:
    image = scene()
    picture = crop(image, BOX, 96)
    picture[82:96, 20:50] = 0  # a chin that moved over a dark background
    patch = patch_of(image, picture)
    toned = ToneMatch()(patch, LowerFace()(patch))
    assert np.abs(toned - picture)[50:75, 30:66].max() < 4, "the hole itself is off by about 120"


def test_the_tone_does_not_flicker_and_starts_anew_after_a_jump() -> None:
    image = scene()
    true = crop(image, BOX, 96)
    rng = np.random.default_rng(3)
    offsets = 20 + rng.normal(0, 6, 30)

    def fields(match: ToneMatch) -> list[float]:
        found = []
        for index, offset in enumerate(offsets):
            cast = np.clip(true + offset, 0, 255).astype(np.uint8)
            patch = patch_of(image, cast, index)
            found.append(float((match(patch, LowerFace()(patch)) - cast).mean()))
        return found

    steady, alone = (np.abs(np.diff(fields(ToneMatch(memory))[10:])).mean() for memory in (10, 1))
    assert steady < 0.3 * alone
    match = ToneMatch(10)
    fields(match)
    same = patch_of(image, true, 50)
    np.testing.assert_array_equal(match(same, LowerFace()(same)), true.astype(np.float32))


def test_a_mask_without_a_border_leaves_the_tone() -> None:
    patch = patch_of(scene(), scene(2)[:96, :96])
    assert patch.image is not None
    for value in (0, 1):
        mask = np.full((116, 96, 1), value, np.float32)
        np.testing.assert_array_equal(ToneMatch()(patch, mask), patch.image.astype(np.float32))


def test_misuse_of_the_tone_match_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory=0"):
        ToneMatch(0)
    with pytest.raises(ValueError, match="without an image"):
        ToneMatch()(Patch(Frame(0, 0.0, scene())), np.zeros((1, 1, 1), np.float32))
