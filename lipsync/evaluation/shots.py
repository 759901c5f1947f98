"""Shot boundaries as the reference's pinned scenedetect 0.5.1 finds them, by scenedetect 0.7.

0.5.1: threshold 30 on the mean change of hue, saturation and value; a cut less than 15 frames after the one
before is ignored, the first may come at once; frames are thinned by a whole factor that depends on their
width. Later versions changed the threshold to 27, merge close cuts and resize to a width of 256, which moves
cuts; so only their measure of change is used.
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
            threshold=THRESHOLD, min_scene_len=1, filter_mode=FlashFilter.Mode.SUPPRESS
        )
        self._cuts: list[int] = []
        self._frames = 0

    def push(self, image: Image) -> None:
        """Look at the next frame."""
        from scenedetect import FrameTimecode

        step = next((factor for width, factor in THINNING if image.shape[1] >= width), 1)
        found = self._detector.process_frame(FrameTimecode(self._frames, fps=FPS), image[::step, ::step])
        if found and (not self._cuts or self._frames - self._cuts[-1] >= MIN_SCENE):
            self._cuts.append(self._frames)
        self._frames += 1

    def bounds(self) -> list[tuple[int, int]]:
        """Half-open frame ranges of the shots; one range without a cut, none without frames."""
        edges = [0, *self._cuts, self._frames]
        return [(start, stop) for start, stop in pairwise(edges) if stop > start]
