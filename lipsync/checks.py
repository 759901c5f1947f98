"""Whether settings are of the kind that the code counts on."""

from __future__ import annotations

import math
from numbers import Integral, Real

from lipsync.errors import ConfigError


def is_whole(value: object, least: int | None = None) -> bool:
    """Whether it is a whole number, of at least ``least``; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return least is None or int(value) >= least


def is_number(value: object) -> bool:
    """Whether it can be compared with numbers; true, false and NaN cannot."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return not math.isnan(value)


def need_numbers(owner: str, **settings: object) -> None:
    """Refuse settings that are no numbers.

    Args:
        owner: Whose settings they are, for the message.
        **settings: Their values by name.

    Raises:
        ConfigError: One of them is none.
    """
    for name, value in settings.items():
        if not is_number(value):
            raise ConfigError(f"{owner} {name}={value}: give a number")
