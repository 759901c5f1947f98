"""Small ONNX networks with one picture in and one vector out, run by OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.checkpoints.formats import why_not_weights
from lipsync.checkpoints.store import resolve
from lipsync.errors import CheckpointError
from lipsync.types import Image

Floats = npt.NDArray[np.float32]


class OnnxNet:
    """A network that maps a square picture to one vector.

    Args:
        source: Path of an ``.onnx`` file, or a name in the checkpoint catalogue.
        size: Side of the picture in pixels.

    Raises:
        CheckpointError: The file is missing, is not ONNX, or does not accept such pictures.
    """

    def __init__(self, source: str | Path, size: int) -> None:
        self.path = resolve(source)
        self.size = size
        self._net = _read(self.path)
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self.outputs = self(np.zeros((size, size, 3), np.uint8)).size
        except cv2.error as error:
            raise CheckpointError(
                f"{self.path}: does not accept pictures of {size} x {size} pixels; give another network"
            ) from error
        finally:
            cv2.utils.logging.setLogLevel(before)

    def __call__(self, image: Image, mean: float = 0.0, scale: float = 1.0) -> Floats:
        """``(outputs,)`` for ``(size, size, 3)`` uint8 BGR; the network sees RGB, ``(x - mean) * scale``."""
        blob = cv2.dnn.blobFromImage(image, scale, (self.size, self.size), (mean, mean, mean), swapRB=True)
        self._net.setInput(blob)
        return np.array(self._net.forward(), dtype=np.float32).reshape(-1)


def _read(path: Path) -> cv2.dnn.Net:
    with path.open("rb") as stream:
        reason = why_not_weights(stream.read(256))
    if reason is not None:
        raise CheckpointError(f"{path}: {reason}")
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as error:
        raise CheckpointError(
            f"{path}: OpenCV cannot read it as ONNX; it may be damaged or of another kind"
        ) from error
    finally:
        cv2.utils.logging.setLogLevel(before)
