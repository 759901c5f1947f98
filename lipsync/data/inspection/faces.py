"""Whether the crops show faces in one place: from frame to frame, from clip to clip, and the right half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from lipsync.data.inspection.sample import SIDE, ClipSample, Floats


@dataclass(frozen=True)
class FaceMeasurements:
    """Positions as shares of the crop's width."""

    jump: float
    """Movement of the upper half of the face between neighbouring frames: median of the clips' medians."""
    disorder: float
    """Change between neighbouring frames over change between distant ones: about 0.3, 1 when shuffled."""
    axis_spread: float
    """Median absolute deviation over the clips of the axis about which the mean face is symmetric."""
    still: float
    """Share of pictures whose lower half equals the one before."""


def measure_faces(samples: Sequence[ClipSample]) -> FaceMeasurements:
    """Positions and order of the crops of all clips."""
    axes = np.array([_mirror_axis(sample.frames.mean(axis=0)) for sample in samples])
    return FaceMeasurements(
        jump=float(np.median([_jump(sample.frames) for sample in samples])),
        disorder=float(np.median([_disorder(sample.frames) for sample in samples])),
        axis_spread=float(np.median(np.abs(axes - np.median(axes)))),
        still=float(np.mean([_still(sample.frames) for sample in samples])),
    )


def _jump(frames: Floats) -> float:
    """Median shift of the upper half, where speech moves nothing, by phase correlation."""
    upper = np.ascontiguousarray(frames[:, : SIDE // 2])
    window = cv2.createHanningWindow((SIDE, SIDE // 2), cv2.CV_32F)
    shifts = [cv2.phaseCorrelate(a, b, window)[0] for a, b in pairwise(upper)]
    return float(np.median(np.hypot(*np.array(shifts).T))) / SIDE


def _disorder(frames: Floats) -> float:
    half = len(frames) // 2
    near = float(np.abs(np.diff(frames, axis=0)).mean())
    far = float(np.abs(frames[:half] - frames[half : 2 * half]).mean())
    return near / far if far > 0 else 0.0  # a still picture has no order


def _still(frames: Floats) -> float:
    return float((np.abs(np.diff(frames[:, SIDE // 2 :], axis=0)).max(axis=(1, 2)) == 0).mean())


def _mirror_axis(face: Floats) -> float:
    """Share of the width at which a face mirrors itself best; half of the width must overlap."""
    smooth = cv2.GaussianBlur(face, (0, 0), 1)
    scores = {}
    for double in range(SIDE // 2, SIDE + SIDE // 2):
        columns = np.arange(max(0, double - SIDE + 1), min(SIDE - 1, double) + 1)
        left, right = smooth[:, columns], smooth[:, double - columns]
        left, right = left - left.mean(), right - right.mean()
        power = float(np.square(left).sum())  # of the mirror image too: the columns are the same
        scores[double] = float((left * right).sum()) / max(power, 1e-9)
    return max(scores, key=lambda double: scores[double]) / 2 / SIDE
