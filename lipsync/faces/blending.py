"""Put one picture into another without a visible seam: enlarging, weighing, pyramids, and the tone."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.errors import ConfigError
from lipsync.faces.crop import crop
from lipsync.faces.masks import Mask, RunningMean
from lipsync.types import Image, Patch

Floats: TypeAlias = npt.NDArray[np.float32]
Upscale: TypeAlias = Literal["linear", "cubic", "lanczos"]
"""How a patch is enlarged to its box."""

_FILTERS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}

_GRID = 32
"""Side of the grid on which tones are compared; they change slowly over a face."""
_REACH = 0.15
"""Standard deviation of the blur that carries a difference from the ring inwards, in sides of the box."""
_FLOOR = 0.05
"""Weight of the mean difference; it decides where the blurred ring does not reach."""
_OUTLIER = 10.0
"""Grey levels from the common difference at which a place of the ring counts half: there the pictures show
different things (a chin that moved, a strand of hair), not another tone."""
_ROUNDS = 3


def checked_upscale(upscale: str) -> Upscale:
    """The name, if there is such a filter.

    Raises:
        ConfigError: There is none.
    """
    for name in get_args(Upscale):
        if upscale == name:
            return cast(Upscale, name)
    raise ConfigError(f"upscale={upscale} is unknown: use {', '.join(get_args(Upscale))}")


def enlarge(picture: npt.NDArray[Any], width: int, height: int, upscale: Upscale = "cubic") -> Floats:
    """``(height, width, 3)`` float32 in [0, 255]: the picture resized, averaged where it is shrunk.

    Args:
        picture: ``(S, S, 3)`` uint8, or float32 in [0, 255] and a little beyond.
        width: Columns of the result.
        height: Rows of the result.
        upscale: Filter. Cubic and Lanczos overshoot at edges; what leaves [0, 255] is cut off.
    """
    values = picture.astype(np.float32)
    if values.shape[:2] != (height, width):
        smaller = height <= values.shape[0] and width <= values.shape[1]
        how = cv2.INTER_AREA if smaller else _FILTERS[upscale]
        values = np.asarray(cv2.resize(values, (width, height), interpolation=how), np.float32)
    return np.clip(values, 0, 255, out=values)


def blend(source: Image, picture: npt.NDArray[Any], mask: Mask) -> Image:
    """``source + mask * (picture - source)``, rounded; exactly the source where the mask is 0.

    Args:
        source: ``(h, w, 3)`` uint8; left unchanged.
        picture: ``(h, w, 3)`` uint8 or float32 in [0, 255].
        mask: ``(h, w, 1)`` float32 in [0, 1].
    """
    # float32 holds 0..255 exactly, so weight 0 leaves the source's value.
    difference = cv2.subtract(picture, source, dtype=cv2.CV_32F)
    return add(source, cv2.multiply(difference, _three(mask)))


def add(source: Image, change: npt.NDArray[Any]) -> Image:
    """``source + change``, rounded (ties to even) and cut off at 0 and 255.

    Args:
        source: ``(h, w, 3)`` uint8; left unchanged.
        change: ``(h, w, 3)`` float32.
    """
    return np.asarray(cv2.add(source, change, dtype=cv2.CV_8U), np.uint8)


def pyramid_blend(difference: Floats, mask: Mask, levels: int) -> Floats:
    """What a Laplacian blend adds to the picture below: ``difference`` through ``mask``, band by band.

    Burt and Adelson, "A multiresolution spline with application to image mosaics", 1983: each band of two
    pictures A and B is mixed with the mask smoothed to the band's scale. The mix is linear, so it is B plus
    the bands of A - B, each times the smoothed mask: one pyramid of pictures instead of two.

    Args:
        difference: ``(h, w, 3)``, A - B.
        mask: ``(h, w, 1)`` weight of A.
        levels: Bands, 1 or more; 1 is a plain blend. Each further one doubles the widest fade.

    Returns:
        ``(h, w, 3)``; the widest bands reach beyond the mask.

    Raises:
        ValueError: ``levels`` is below 1.
    """
    if levels < 1:
        raise ValueError(f"a pyramid has at least one level, not {levels}")
    bands: list[npt.NDArray[Any]] = []
    level: npt.NDArray[Any] = difference
    weight: npt.NDArray[Any] = mask.reshape(mask.shape[:2])
    for last in (number == levels - 1 for number in range(levels)):
        smaller = None if last else cv2.pyrDown(level)
        band = level if smaller is None else cv2.subtract(level, _up(smaller, level))
        bands.append(cv2.multiply(band, cv2.merge([weight] * 3)))
        if smaller is not None:
            level, weight = smaller, cv2.pyrDown(weight)
    result = bands.pop()
    while bands:
        band = bands.pop()
        result = cv2.add(_up(result, band), band)
    return np.asarray(result, np.float32)


class ToneMatch:
    """Moves a patch's tone to the source's, as seen where the two meet.

    On the ring where the mask fades, patch and source should show the same skin in the same light. Their
    difference there is carried inwards by a normalised blur, a smooth field near the harmonic one of Poisson
    blending (Perez et al., 2003), and added to the patch: its detail stays, a patch that agrees on the ring
    stays as it is. Places of the ring that differ from the rest by much more than a tone count little. The
    field is averaged over time, so that it does not flicker.

    Args:
        memory: Frames that the average over time goes back; 1 looks at each frame alone.

    Raises:
        ConfigError: ``memory`` is below 1.
    """

    def __init__(self, memory: float = 10) -> None:
        if memory < 1:
            raise ConfigError(f"tone memory={memory}: give 1 (no averaging) or more frames")
        self._mean = RunningMean(memory)

    def __call__(self, patch: Patch, mask: Mask) -> Floats:
        """The image of the patch with the tone of its source.

        Args:
            patch: With a box and an image; patches of one face in the order of the frames.
            mask: ``(h, w, 1)``, where the image is to show in the box.

        Returns:
            ``(S, S, 3)`` float32, a little outside [0, 255] where the correction leads there.

        Raises:
            ValueError: The patch has no image.
        """
        if patch.box is None or patch.image is None:
            raise ValueError("a patch without an image has no tone")
        side = patch.image.shape[0]
        # The same way into the network's format as the patch came, so that equal pictures differ by 0.
        source = crop(patch.frame.image, patch.box, side)
        difference = _grid(cv2.subtract(source, patch.image, dtype=cv2.CV_32F), cv2.INTER_AREA)
        weight = _grid(mask, cv2.INTER_LINEAR)  # smooth, and as large as the box: averaging takes longer
        field = self._mean(patch, _carried(difference, weight * (1 - weight)))
        return np.asarray(cv2.add(cv2.resize(field, (side, side)), patch.image, dtype=cv2.CV_32F), np.float32)


def _carried(difference: Floats, ring: Floats) -> Floats:
    """``(n, n, 3)``: the difference on the ring (weights ``(n, n)``), continued smoothly over the grid."""
    places = ring > 0
    if not places.any():
        return np.zeros_like(difference)
    values, share = difference[places], ring[places]
    typical = np.median(values[share > share.max() / 2], axis=0)
    trust = share
    for _ in range(_ROUNDS):
        away = np.abs(values - typical).max(axis=1) / np.float32(_OUTLIER)
        trust = share / (1 + away * away)
        typical = trust @ values / trust.sum()
    # Both at once: a weighted sum of what differs from the typical, and of the weights.
    sums = np.zeros((*ring.shape, 4), np.float32)
    sums[places, :3] = (values - typical) * trust[:, None]
    sums[places, 3] = trust
    sums = cv2.GaussianBlur(sums, (0, 0), _REACH * len(ring))
    # The floor is in units of the ring's mean weight, so that it does not depend on how wide the ring is.
    return np.asarray(typical + sums[:, :, :3] / (sums[:, :, 3:] + _FLOOR * ring.mean()), np.float32)


def _grid(values: npt.NDArray[Any], how: int) -> Floats:
    """The values on the grid of tones."""
    return np.asarray(cv2.resize(values, (_GRID, _GRID), interpolation=how), np.float32)


def _up(smaller: npt.NDArray[Any], like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return cv2.pyrUp(smaller, dstsize=(like.shape[1], like.shape[0]))


def _three(mask: Mask) -> npt.NDArray[Any]:
    """``(h, w, 1)`` -> ``(h, w, 3)``: far quicker to multiply by than a broadcast of three."""
    return cv2.merge([mask.reshape(mask.shape[:2])] * 3)
