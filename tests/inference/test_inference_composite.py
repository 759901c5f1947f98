from __future__ import annotations

import numpy as np
import pytest
from inference_stubs import picture

from lipsync.errors import ConfigError
from lipsync.faces.masks import feather_mask
from lipsync.inference.composite import BoxCompositor, FeatherCompositor
from lipsync.types import Box, Frame, Patch

BOX = Box(20, 10, 84, 90)


def patch(image: np.ndarray) -> Patch:
    return Patch(Frame(3, 0.12, image), BOX, np.full((96, 96, 3), 255, np.uint8))


def test_pixels_outside_the_mask_keep_their_bytes() -> None:
    image = picture(0)
    original = image.copy()
    (frame,) = FeatherCompositor()([patch(image)])
    weight = np.zeros(image.shape[:2], np.float32)
    weight[10:90, 20:84] = feather_mask(80, 64)[:, :, 0]
    np.testing.assert_array_equal(frame.image[weight == 0], original[weight == 0])
    np.testing.assert_array_equal(frame.image[weight == 1], 255)
    assert (weight == 1).sum() > 500
    np.testing.assert_array_equal(frame.image[:50], original[:50], err_msg="the upper face is the source's")
    np.testing.assert_array_equal(image, original, err_msg="the source frame must not change")


def test_no_edge_shows_at_the_border_of_the_box() -> None:
    grey = np.full((120, 128, 3), 128, np.uint8)
    (frame,) = FeatherCompositor()([patch(grey)])
    steps = np.abs(np.diff(frame.image.astype(int), axis=1)).max()
    assert steps < 40, "a hard paste makes a step of 127"


def test_the_box_compositor_replaces_the_whole_box_and_nothing_else() -> None:
    image = picture(0)
    (frame,) = BoxCompositor()([patch(image)])
    assert frame.image[10:90, 20:84].min() == 255
    outside = np.ones(image.shape[:2], bool)
    outside[10:90, 20:84] = False
    np.testing.assert_array_equal(frame.image[outside], image[outside])


@pytest.mark.parametrize("compositor", [FeatherCompositor(), BoxCompositor()])
def test_a_frame_without_a_face_passes_untouched(compositor: FeatherCompositor | BoxCompositor) -> None:
    frame = Frame(5, 0.2, picture(1))
    assert list(compositor([Patch(frame)])) == [frame]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"feather=0.7"):
        FeatherCompositor(feather=0.7)
    with pytest.raises(ConfigError, match=r"top=1.0"):
        FeatherCompositor(top=1.0)
