"""The plain settings of the pipeline: their values, and what is wrong with others."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, TypeAlias

from lipsync.errors import ConfigError
from lipsync.inference.detect import FixedBox
from lipsync.inference.silence import SILENCE_MODES
from lipsync.inference.source import EXTENDS, REMAINDERS

NoFace: TypeAlias = Literal["keep", "trim", "error"]
"""Frames without a face: pass through, are left out with their sound, end the run."""
NO_FACE: tuple[NoFace, ...] = ("keep", "trim", "error")

BoxSides: TypeAlias = tuple[int, int, int, int]
"""``top, bottom, left, right`` in pixels."""


def check_settings(
    *,
    extend: str,
    remainder: str,
    no_face: str,
    silence: str,
    still_fps: Fraction,
    every: int,
    box: BoxSides | None,
) -> None:
    """See that the settings are among what :class:`lipsync.inference.pipeline.LipSyncPipeline` knows.

    Raises:
        ConfigError: One of them is not; the message names it.
    """
    _known("extend", extend, EXTENDS)
    _known("remainder", remainder, REMAINDERS)
    _known("no_face", no_face, NO_FACE)
    _known("silence", silence, SILENCE_MODES)
    if still_fps <= 0:
        raise ConfigError(f"fps={still_fps}: give a rate above 0")
    if every < 1:
        raise ConfigError(f"every={every}: give 1 or more")
    if box is not None:
        FixedBox(box)


def _known(setting: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        named = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise ConfigError(f"{setting}={value} is unknown: use {named}")
