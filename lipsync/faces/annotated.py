"""Face boxes read from a file beside the video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lipsync.errors import DataError
from lipsync.types import Box, Face, Frame

FORM = '{"fps": "25/1", "faces": [[[x1, y1, x2, y2, score, [[x, y] * 5] or null], ...] per frame]}'


def annotation_of(video: Path) -> Path:
    """The file beside a video that would hold the boxes of its faces."""
    return video.with_name(f"{video.stem}.faces.json")


class AnnotatedDetector:
    """Boxes from ``<video stem>.faces.json`` beside each frame's source file.

    The form is ``{"fps": "25/1", "faces": [[[x1, y1, x2, y2, score, landmarks or null], ...], ...]}`` with
    one list of faces a frame; a frame finds its entry by ``round(time * fps)``. A file with a single entry
    holds for every frame (still image).
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._fps = Fraction(0)
        self._faces: list[list[Face]] = []

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        """Annotated faces of each frame, highest score first.

        Raises:
            DataError: No annotation file, a malformed one, or one that ends before the frame.
        """
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame: Frame) -> list[Face]:
        if frame.source is None:
            raise DataError(
                f"frame {frame.index}: comes from no file, so it has no annotated faces; use another detector"
            )
        path = annotation_of(frame.source)
        if path != self._path:
            self._fps, self._faces = _read(path)
            self._path = path
        if len(self._faces) == 1:
            return self._faces[0]
        entry = round(frame.time * self._fps)
        if not 0 <= entry < len(self._faces):
            raise DataError(
                f"{path}: has {len(self._faces)} entries, none for {frame.time:.3f} s (entry {entry}); "
                "annotate the whole video"
            )
        return self._faces[entry]


def _read(path: Path) -> tuple[Fraction, list[list[Face]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; provide the face boxes there as {FORM} or choose another detector"
        ) from error
    try:
        content = json.loads(text)
        fps = Fraction(content["fps"])
        faces = [sorted(map(_face, entry), key=lambda face: -face.score) for entry in content["faces"]]
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise DataError(f"{path}: malformed face boxes ({error}); expected {FORM}") from error
    if fps <= 0 or not faces:
        raise DataError(f"{path}: fps must be positive and faces not empty; expected {FORM}")
    return fps, faces


def _face(entry: Any) -> Face:
    x1, y1, x2, y2, score, points = entry
    landmarks = None if points is None else np.asarray(points, dtype=np.float32).reshape(5, 2)
    return Face(Box(float(x1), float(y1), float(x2), float(y2)), float(score), landmarks)
