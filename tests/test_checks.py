"""What counts as a number in settings."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lipsync.checks import is_number, is_whole, need_numbers
from lipsync.errors import ConfigError


@pytest.mark.parametrize("value", [0, 3, -1, np.int64(5)])
def test_whole_numbers(value: object) -> None:
    assert is_whole(value)
    assert is_number(value)


@pytest.mark.parametrize("value", [0.5, 1.0, np.float32(2), Fraction(1, 3), float("inf")])
def test_other_numbers(value: object) -> None:
    assert is_number(value)
    assert not is_whole(value)


@pytest.mark.parametrize("value", [True, None, "3", [3], float("nan")])
def test_what_is_no_number(value: object) -> None:
    assert not is_number(value)
    assert not is_whole(value)


def test_a_least_value() -> None:
    assert is_whole(1, 1)
    assert not is_whole(0, 1)


def test_the_setting_is_named() -> None:
    need_numbers("mask", top=0.5, feather=1)
    with pytest.raises(ConfigError, match=r"^mask feather=wide: give a number$"):
        need_numbers("mask", top=0.5, feather="wide")
