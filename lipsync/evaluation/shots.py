"""Shot boundaries as the reference's pinned scenedetect 0.5.1 finds them, computed with scenedetect 0.7.

0.5.1: threshold 30 on the mean change of hue, saturation and value; a cut less than 15 frames after the one
before is ignored; frames are thinned by a whole factor that depends on their width. Later versions changed
the threshold to 27, merge close cuts and resize to a width of 256, which moves cuts; so the old values are
set.
"""

from __future__ import annotations

from itertools import pairwise

from lipsync.types import Image

THRESHOLD = 30.0
MIN_SCENE = 15  # frames
THINNING = ((3200, 12), (2100, 8), (1700, 6), (1200, 5), (900, 4), (600, 3), (400, 2))  # from width, factor
FPS = 25.0


class ShotFinder:
    """Feed the frames of a 25 fps video in order; :meth:`bounds` then gives the shots."""

    def __init__(self) -> None:
        from scenedetect import ContentDetector
        from scenedetect.detector import FlashFilter

        self._detector = ContentDetector(
            threshold=THRESHOLD, min_scene_len=MIN_SCENE, filter_mode=FlashFilter.Mode.SUPPRESS
        )
        self._cuts: list[int] = []
        self._frames = 0

    def push(self, image: Image) -> None:
        """Look at the next frame."""
        from scenedetect import FrameTimecode

        step = next((factor for width, factor in THINNING if image.shape[1] >= width), 1)
        timecode = FrameTimecode(self._frames, fps=FPS)
        cuts = self._detector.process_frame(timecode, image[::step, ::step])
        self._cuts.extend(timecode.frame_num for timecode in cuts)
        self._frames += 1

    def bounds(self) -> list[tuple[int, int]]:
        """Half-open frame ranges of the shots; one range without a cut, none without frames."""
        edges = [0, *self._cuts, self._frames]
        return [(start, stop) for start, stop in pairwise(edges) if stop > start]
