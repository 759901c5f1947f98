"""YuNet face detection through OpenCV.

Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.checkpoints.store import resolve
from lipsync.errors import CheckpointError
from lipsync.faces.working_size import checked_side, working_image
from lipsync.types import Box, Face, Frame, Image

Floats = npt.NDArray[np.float32]


class YunetDetector:
    """Faces and five landmarks from one small network; several times faster than MTCNN.

    Args:
        weights: ``face_detection_yunet_2023mar.onnx`` of the OpenCV model zoo as a path, or ``yunet``, its
            name in the checkpoint catalogue.
        max_side: Frames are shrunk to this longest side in pixels before detection.
        min_score: Least score for a face to be reported.
        border: Black border added around the frame, as a fraction of its shorter side.

    Raises:
        CheckpointError: The weight file is missing or is not a YuNet network.
        ConfigError: ``max_side`` is no whole number of 1 or more.
    """

    def __init__(
        self, weights: str | Path, max_side: int = 640, min_score: float = 0.7, border: float = 0.0
    ) -> None:
        self.max_side = checked_side(max_side)
        self.border = border
        path = resolve(weights)
        try:
            self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), min_score)
        except cv2.error as error:
            raise CheckpointError(
                f"{path}: OpenCV cannot read it as YuNet; give face_detection_yunet_2023mar.onnx"
            ) from error

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        """Faces of each frame in its own pixels, highest score first."""
        return [self._detect(frame.image) for frame in frames]

    def _detect(self, image: Image) -> list[Face]:
        work = working_image(image, self.max_side, self.border)
        self._network.setInputSize((work.image.shape[1], work.image.shape[0]))
        found = self._rows(work.image)
        # A row: x, y, w, h, then image-left eye, image-right eye, nose, left and right mouth corner, score.
        faces = [_face(row) for row in found]
        return [work.to_frame(face) for face in sorted(faces, key=lambda face: -face.score)]

    def _rows(self, image: Image) -> Floats:
        """``(n, 15)``, n may be 0."""
        rows: object = self._network.detect(image)[1]
        return np.zeros((0, 15), np.float32) if rows is None else np.asarray(rows, dtype=np.float32)


def _face(row: Floats) -> Face:
    x, y, width, height = (float(value) for value in row[:4])
    return Face(Box(x, y, x + width, y + height), float(row[14]), row[4:14].reshape(5, 2).copy())
