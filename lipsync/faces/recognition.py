"""Whose face it is, as a vector: for measuring whether a face keeps its identity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lipsync.errors import CheckpointError
from lipsync.faces.align import ARCFACE_TEMPLATE, similarity, warp
from lipsync.faces.onnx import OnnxNet
from lipsync.types import Image

Floats = npt.NDArray[np.float32]

_SIZE = 112
_INPUTS = {512: (127.5, 1 / 127.5), 128: (0.0, 1.0)}
"""Mean and scale of the RGB input by the length of the vector: ArcFace and its kin, SFace."""


class FaceRecognizer:
    """Maps a face to a unit vector; the cosine of two vectors tells how alike the faces are.

    Two kinds of network are known, both for 112 x 112 faces aligned by five points, and told apart by the
    length of their vector: ArcFace (512; Deng et al., 2019), for instance ``w600k_mbf.onnx`` of InsightFace,
    whose weights are for research without commercial use, and SFace (128; Zhong et al., 2021), for instance
    ``face_recognition_sface_2021dec.onnx`` of the OpenCV model zoo. Cosines of different networks cannot be
    compared.

    Args:
        path: ``.onnx`` file.

    Raises:
        CheckpointError: The file is missing, is not ONNX, or gives vectors of another length.
    """

    def __init__(self, path: str | Path) -> None:
        self._net = OnnxNet(path, _SIZE)
        if self._net.outputs not in _INPUTS:
            raise CheckpointError(
                f"{self._net.path}: gives {self._net.outputs} numbers; a face recognition network gives 512 "
                "(ArcFace) or 128 (SFace)"
            )
        self._input = _INPUTS[self._net.outputs]

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return self._net.outputs

    def embedding(self, image: Image, points: npt.ArrayLike) -> Floats:
        """``(dimensions,)`` of unit length.

        Args:
            image: ``(H, W, 3)`` uint8 BGR.
            points: ``(5, 2)`` pixels: eyes (image left, image right), nose tip, mouth corners.

        Raises:
            ValueError: The points coincide, or are not five.
        """
        aligned = warp(image, similarity(points, ARCFACE_TEMPLATE), _SIZE)
        vector = self._net(aligned, *self._input)
        return vector / np.maximum(np.linalg.norm(vector), np.finfo(np.float32).tiny)
