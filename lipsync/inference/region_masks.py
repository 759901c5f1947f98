"""Where a restored face is to show: soft masks of the lips or of the face, steady over time.

They lie over crops aligned by :data:`lipsync.faces.align.FFHQ_TEMPLATE`, on a coarse grid: a parser sees no
finer than that, and soft edges need no more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Literal, Protocol, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.checks import need_numbers
from lipsync.errors import ConfigError
from lipsync.faces.align import FFHQ_SIZE, FFHQ_TEMPLATE
from lipsync.faces.masks import smooth_step
from lipsync.faces.parsing import FACE, LIPS
from lipsync.faces.parsing import Region as Part
from lipsync.types import Image

Mask: TypeAlias = npt.NDArray[np.float32]
"""``(G, G)`` in [0, 1]."""
Region: TypeAlias = Literal["lip", "face"]

GRID = 128
"""Side of the masks in their own pixels; that of the crops where it is smaller."""
MARGIN = 0.016
"""How far the mask of the lips is dilated, in sides of the crop: 3 % of the width of a face (which is
0.54 sides, standard deviation 0.04, over eight people)."""
_DOUBT = (0.45, 0.7)
"""Probabilities up to which a pixel is none of the group, and from which it is. BiSeNet gives plain skin 0.75
to 0.85 (of four people 95 % of the pixels above one half are above 0.64 to 0.73) and hair up to 0.3."""
_BORDER = (0.02, 0.06)
"""Sides of the crop: the mask is 0 nearer to the border than the first, and untouched beyond the second."""


class Parser(Protocol):
    """Tells which pixels of an aligned crop show which part of a face."""

    def region_probabilities(
        self, crops: Image, groups: Sequence[Collection[Part]]
    ) -> npt.NDArray[np.float32]:
        """``(N, S, S, 3)`` uint8 BGR to ``(len(groups), N, S, S)``: how likely it is of a group."""


class RegionMasks:
    """Masks for the crops of one stream, in order.

    The parser looks at the crops before they are restored: what covers the face (hair, a hand, a microphone)
    is in them, while a restorer may paint a face over it. That the generator's mouth is blurred hardly
    matters: lips and face found in 32 crops with the lower half at 96 pixels overlap those of the sharp crops
    by 92 and 99 %. Probabilities are averaged over time with weights that fall by ``memory`` a frame: at 0.6
    the masks of two clips change from frame to frame by a third to a half less.

    ``face``: skin, brows, eyes, glasses, nose, mouth and lips, fading inwards, so that hair, ears, neck and
    background keep their pixels. ``lip``: what the generator painted, as far as it is face and below the
    eyes, and the lips themselves with a margin. The generator's whole patch is soft, not its lips alone:
    sharp lips in a blurred chin would show. Its mask weighs in as it is, so source pixels stay.

    Args:
        parser: Finds the classes.
        region: ``lip`` or ``face``.
        feather: Width of soft edges in sides of the crop.
        memory: Weight of the past, 0 (none) up to but not including 1.
    """

    def __init__(self, parser: Parser, region: Region, feather: float, memory: float) -> None:
        self.parser = parser
        self.region = region
        self.feather = feather
        self.memory = memory
        self._mean: Mask | None = None
        self._place: tuple[int, int] | None = None

    def __call__(
        self, crops: Image, places: Sequence[tuple[int, int]], painted: Sequence[Mask]
    ) -> Iterator[Mask]:
        """One mask ``(G, G)`` for each crop.

        Args:
            crops: ``(N, S, S, 3)`` uint8 BGR.
            places: Run and frame index of each; the average starts anew where they do not go on.
            painted: ``(G, G)`` each: weight of the generator's picture.
        """
        groups = (FACE, LIPS) if self.region == "lip" else (FACE,)
        found = self.parser.region_probabilities(crops, groups).swapaxes(0, 1)
        for probabilities, place, weight in zip(found, places, painted, strict=True):
            mean = self._averaged(np.stack([_coarse(one) for one in probabilities]), place)
            mask = self._face(mean[0]) if self.region == "face" else self._lip(mean[0], mean[1], weight)
            yield mask * _frame(len(mask))

    def _averaged(self, probability: Mask, place: tuple[int, int]) -> Mask:
        run, index = place
        if self._mean is not None and self._place == (run, index - 1):
            probability = probability + (self._mean - probability) * np.float32(self.memory)
        self._mean, self._place = probability, place
        return probability

    def _face(self, face: Mask) -> Mask:
        """1 well inside, 0 where the pixel or its surroundings are more likely something else."""
        return np.minimum(_certain(face), _certain(_blurred(face, self.feather * len(face))))

    def _lip(self, face: Mask, lips: Mask, painted: Mask) -> Mask:
        radius = round(MARGIN * len(face))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        wider = _blurred(np.asarray(cv2.dilate(_certain(lips), kernel), np.float32), MARGIN * len(face))
        shown = np.maximum(self._face(face) * painted, _certain(face) * wider * painted.max())
        return shown * _below_eyes(len(face))


def grid_of(size: int) -> int:
    """Side of the masks for crops of that side."""
    return min(GRID, size)


def _coarse(probability: Mask) -> Mask:
    side = grid_of(len(probability))
    return np.asarray(cv2.resize(probability, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def _certain(probability: Mask) -> Mask:
    """0 where a pixel is hardly of the group, 1 where it is."""
    low, high = _DOUBT
    return np.clip((probability - np.float32(low)) / np.float32(high - low), 0, 1)


def _blurred(mask: Mask, deviation: float) -> Mask:
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(deviation, 0.1)), np.float32)


@lru_cache(maxsize=4)
def _below_eyes(side: int) -> Mask:
    """``(side, 1)``: 0 down to halfway between eyes and nose tip, 1 from the nose tip on."""
    eyes, nose = FFHQ_TEMPLATE[:2, 1].mean() / FFHQ_SIZE, FFHQ_TEMPLATE[2, 1] / FFHQ_SIZE
    start = (eyes + nose) / 2
    return smooth_step(((np.arange(side) + 0.5) / side - start) / (nose - start))[:, None]


@lru_cache(maxsize=4)
def _frame(side: int) -> Mask:
    """``(side, side)``: fades out towards the border, so that the crop's own edge never shows."""
    center = (np.arange(side) + 0.5) / side
    ramp = smooth_step((np.minimum(center, 1 - center) - _BORDER[0]) / (_BORDER[1] - _BORDER[0]))
    return ramp[:, None] * ramp[None, :]


def checked(region: str, feather: float, memory: float) -> None:
    """Raises :class:`ConfigError` for settings out of range."""
    if region not in ("lip", "face"):
        raise ConfigError(f"enhancer region={region} is unknown: use lip or face")
    need_numbers("enhancer", feather=feather, memory=memory)
    if not (0 <= feather <= 0.2 and 0 <= memory < 1):
        raise ConfigError(
            f"enhancer feather={feather} memory={memory}: give 0 <= feather <= 0.2, 0 <= memory < 1"
        )
