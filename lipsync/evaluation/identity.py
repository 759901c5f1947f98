"""Whether the face of a video is still that of its reference."""

from __future__ import annotations

from collections.abc import Mapping

from lipsync.errors import NotScorableError
from lipsync.evaluation.columns import Column, Family
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.visual import FramePair, Pairing
from lipsync.faces.landmarks import LandmarkNet, five_points
from lipsync.faces.recognition import FaceRecognizer, Floats
from lipsync.metrics.identity import IdentitySimilarity
from lipsync.types import Face, Image, VideoInfo


class IdentityObserver:
    """CSIM: mean cosine of the face embeddings of frame i and of frame i of the reference.

    Faces are aligned by five points: those of the landmark network where it is given, otherwise the
    detector's. Works with references that say something else, too: they show the same person.

    Args:
        recognizer: Embeds faces.
        landmarks: Finds the points; None takes the detector's.
        every: Frames 0, every, 2 * every ... are compared.

    Raises:
        ValueError: ``every`` is below 1.
    """

    family: Family = "identity"
    pairing: Pairing = "person"

    def __init__(
        self, recognizer: FaceRecognizer, landmarks: LandmarkNet | None = None, every: int = 5
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self.recognizer = recognizer
        self.landmarks = landmarks
        self.every = every
        about = (
            f"Mean cosine of face embeddings ({recognizer.dimensions} numbers) of the video and its "
            f"reference, every {every}. frame. It depends on the recognition network."
        )
        self.columns: tuple[Column, ...] = (Column("csim", "CSIM", "identity", "higher", about=about),)
        self._similarity = IdentitySimilarity()
        self._reference = False
        self._without_points = False

    def begin(self, item: VideoItem, info: VideoInfo) -> None:
        """Start a video."""
        self._similarity.reset()
        self._reference = item.reference is not None
        self._without_points = False

    def update(self, pair: FramePair) -> None:
        """Take the next frame."""
        if pair.index % self.every or pair.reference is None:
            return
        if pair.face is None or pair.reference_face is None:
            return
        ours = self._embedding(pair.image, pair.face)
        theirs = self._embedding(pair.reference, pair.reference_face)
        if ours is not None and theirs is not None:
            self._similarity.update(ours, theirs)

    def finish(self) -> Mapping[str, float]:
        """``csim``.

        Raises:
            NotScorableError: No reference, no faces to compare, or no points to align them by.
        """
        if not self._reference:
            raise NotScorableError("no reference to compare the face with; give references=DIR")
        if int(self._similarity.faces) > 0:
            return {"csim": float(self._similarity.compute())}
        if self._without_points:
            raise NotScorableError(
                "the detector gives no points to align faces by; choose detector=default or detector=yunet, "
                "or give metrics.landmarks=FILE"
            )
        raise NotScorableError("no compared frame has a face both in the video and in its reference")

    def _embedding(self, image: Image, face: Face) -> Floats | None:
        """None where there is nothing to align the face by."""
        if face.box.area <= 0:
            return None
        if self.landmarks is not None:
            points = five_points(self.landmarks.points(image, face.box))
        elif face.landmarks is not None:
            points = face.landmarks
        else:
            self._without_points = True
            return None
        try:
            return self.recognizer.embedding(image, points)
        except ValueError:  # points that coincide: no face is aligned by them
            return None
