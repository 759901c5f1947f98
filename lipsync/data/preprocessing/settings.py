"""What of preprocessing changes its result."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lipsync.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What changes the clips; a change of any of these makes a source due again.

    Raises:
        ConfigError: A value makes no sense.
    """

    detector: str
    """Class and arguments of the detector."""
    every: int = 5
    """The detector looks at every n-th frame."""
    pads: tuple[int, ...] = (0, 0, 0, 0)
    """Pixels added to the face box: top, bottom, left, right."""
    min_frames: int = 25
    """Shorter face tracks are left out."""
    smooth: bool = True
    """Average the boxes over five frames."""

    def __post_init__(self) -> None:
        if len(self.pads) != 4:
            raise ConfigError(
                f"pads={list(self.pads)}: give four numbers of pixels: top, bottom, left, right"
            )
        for name, least in (("every", 1), ("min_frames", 5)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: give a whole number of at least {least}")

    @property
    def digest(self) -> str:
        """Short hash of all settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def describe(factory: Callable[..., Any]) -> str:
    """Name and arguments of a factory, for instance ``MtcnnDetector(max_side=640)``."""
    if isinstance(factory, functools.partial):
        arguments = [repr(value) for value in factory.args]
        arguments += [f"{name}={value!r}" for name, value in sorted(factory.keywords.items())]
        return f"{describe(factory.func).removesuffix('()')}({', '.join(arguments)})"
    name = getattr(factory, "__qualname__", None) or type(factory).__qualname__
    return f"{name}()"
