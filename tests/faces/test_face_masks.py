from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsync.faces.masks import feather_mask


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


@pytest.mark.parametrize("settings", [{"top": 1.0}, {"top": -0.1}, {"feather": 0.0}, {"feather": 0.6}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        feather_mask(10, 10, **settings)
