"""Smoothing of face boxes over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lipsync.types import Box, Face, FaceFrame, Frame

SAME_TRACK_IOU = 0.3  # as the tracker's default: below it, the box belongs to another face or shot


def smooth_boxes(stream: Iterable[FaceFrame], window: int = 5) -> Iterator[FaceFrame]:
    """Replace each box and its landmarks by the mean over ``window`` frames centred on it.

    The mean never reaches across a frame without a face or a jump (IoU with the previous frame below 0.3).
    Near the ends of such a run the window shrinks evenly on both sides, so that a face in steady motion is
    not displaced. Works as the frames come, ``window // 2`` frames behind.

    Args:
        stream: Frames in order.
        window: Odd number of frames; 1 leaves the boxes as they are.

    Raises:
        ValueError: ``window`` is not odd and positive.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and positive, got {window}")
    return _smoothed(stream, window // 2)


def _smoothed(stream: Iterable[FaceFrame], half: int) -> Iterator[FaceFrame]:
    run: list[tuple[Frame, Face]] = []  # up to `half` frames already given out, then those waiting
    done = 0
    for item in stream:
        face = item.face
        if run and (face is None or run[-1][1].box.iou(face.box) < SAME_TRACK_IOU):
            yield from (_mean(run, at, half) for at in range(done, len(run)))
            run, done = [], 0
        if face is None:
            yield item
            continue
        run.append((item.frame, face))
        if len(run) > done + half:
            yield _mean(run, done, half)
            done += 1
        if done > half:
            run.pop(0)
            done -= 1
    yield from (_mean(run, at, half) for at in range(done, len(run)))


def _mean(run: Sequence[tuple[Frame, Face]], at: int, half: int) -> FaceFrame:
    """The item at ``at`` with the mean box of its neighbours in the run."""
    radius = min(half, at, len(run) - 1 - at)
    faces = [face for _, face in run[at - radius : at + radius + 1]]
    frame, own = run[at]
    boxes = np.array([[face.box.x1, face.box.y1, face.box.x2, face.box.y2] for face in faces])
    points = [face.landmarks for face in faces if face.landmarks is not None]
    landmarks = own.landmarks
    if len(points) == len(faces):
        landmarks = np.stack(points).mean(axis=0, dtype=np.float64).astype(np.float32)
    box = Box(*(float(value) for value in boxes.mean(axis=0)))
    return FaceFrame(frame, Face(box, own.score, landmarks))


def reference_smoothing(boxes: npt.NDArray[np.integer], window: int = 5) -> npt.NDArray[np.int64]:
    """The smoothing of the Wav2Lip reference, for parity with it.

    Each row becomes the mean of itself and the ``window - 1`` rows after it, truncated to whole pixels. The
    reference does so in place, so the last rows average rows that are already smoothed, and on clips of
    fewer than ``window`` frames its slice start turns negative and drops the first rows.

    Args:
        boxes: ``(n, 4)`` whole pixels, any order of the coordinates.
        window: T of the reference.

    Returns:
        ``(n, 4)`` whole pixels.
    """
    result = np.array(boxes, dtype=np.int64)
    count = len(result)
    for row in range(count):
        rows = result[row : row + window] if row + window <= count else result[count - window :]
        result[row] = rows.mean(axis=0).astype(np.int64)
    return result


def reference_boxes(
    detections: npt.NDArray[np.integer],
    frame_size: tuple[int, int],
    pads: tuple[int, int, int, int] = (0, 10, 0, 0),
    nosmooth: bool = False,
) -> npt.NDArray[np.int64]:
    """Crop rectangles of the Wav2Lip reference from detected rectangles, for parity with it.

    Args:
        detections: ``(n, 4)`` whole pixels ``x1, y1, x2, y2``, one face a frame.
        frame_size: Height and width of the frames.
        pads: Pixels added at top, bottom, left, right.
        nosmooth: Leave out :func:`reference_smoothing`.

    Returns:
        ``(n, 4)`` whole pixels in the reference's order ``y1, y2, x1, x2``.
    """
    height, width = frame_size
    top, bottom, left, right = pads
    x1, y1, x2, y2 = np.asarray(detections, dtype=np.int64).reshape(-1, 4).T
    boxes = np.stack(
        [
            np.maximum(0, y1 - top),
            np.minimum(height, y2 + bottom),
            np.maximum(0, x1 - left),
            np.minimum(width, x2 + right),
        ],
        axis=1,
    )
    return boxes if nosmooth else reference_smoothing(boxes)
