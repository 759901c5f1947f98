"""Put synthesised patches back into their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from lipsync.errors import ConfigError
from lipsync.faces.crop import paste
from lipsync.faces.masks import Mask, feather_mask
from lipsync.types import Frame, Patch

Compositor: TypeAlias = Callable[[Iterable[Patch]], Iterator[Frame]]


class FeatherCompositor:
    """Blend the lower face in through a feathered mask; pixels where the mask is 0 keep their source bytes.

    The generator only redraws the lower half of the box, so the rest of the patch is a blurred copy of what
    the source shows better, and the fading edge leaves no visible box.

    Args:
        top: Where the fade-in begins, as a fraction of the box's height.
        feather: Length of every fade, as a fraction of the side it runs along.

    Raises:
        ConfigError: ``top`` outside [0, 1) or ``feather`` outside (0, 0.5].
    """

    def __init__(self, top: float = 0.5, feather: float = 0.15) -> None:
        if not (0 <= top < 1 and 0 < feather <= 0.5):
            raise ConfigError(
                f"compositor top={top} feather={feather}: give 0 <= top < 1 and 0 < feather <= 0.5"
            )
        self.top = top
        self.feather = feather

    def __call__(self, patches: Iterable[Patch]) -> Iterator[Frame]:
        """One frame for each patch, in order; a patch without an image returns its frame untouched."""
        return _composed(patches, lambda height, width: _feather(height, width, self.top, self.feather))


class BoxCompositor:
    """Replace the whole box by the patch, as the reference implementation does."""

    def __call__(self, patches: Iterable[Patch]) -> Iterator[Frame]:
        """One frame for each patch, in order; a patch without an image returns its frame untouched."""
        return _composed(patches, lambda height, width: None)


def _composed(patches: Iterable[Patch], mask: Callable[[int, int], Mask | None]) -> Iterator[Frame]:
    for patch in patches:
        if patch.box is None or patch.image is None:
            yield patch.frame
        else:
            weight = mask(int(patch.box.height), int(patch.box.width))
            yield replace(patch.frame, image=paste(patch.frame.image, patch.image, patch.box, weight))


@lru_cache(maxsize=64)
def _feather(height: int, width: int, top: float, feather: float) -> Mask:
    """Masks by size: a tracked box changes by a pixel now and then and comes back."""
    return feather_mask(height, width, top=top, feather=feather)
