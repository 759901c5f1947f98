"""Face tracks and crops exactly as the reference's ``run_pipeline`` makes them, in memory.

Chung and Zisserman's pipeline for videos in the wild: faces of every frame are linked into tracks within a
shot, gaps are interpolated, and a square around the smoothed centre is cut out. All constants are theirs;
the ``strict`` protocol departs from them where it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lipsync.metrics.functional import median_filter
from lipsync.types import Box, Image

MIN_TRACK = 100  # detections; a track needs more, a shot at least as many frames
MAX_GAP = 25  # frames a face may be missing inside a track
MIN_IOU = 0.5
MIN_FACE = 100  # pixels; mean width or height of a kept track must be larger
MEDIAN = 13  # frames of the median filter on centre and size
CROP_SCALE = 0.4
BORDER_VALUE = 110  # grey outside the frame


@dataclass(frozen=True)
class Track:
    """One face through consecutive frames."""

    frames: npt.NDArray[np.int64]
    """``(n,)`` frame indices without gaps."""
    boxes: npt.NDArray[np.float64]
    """``(n, 4)`` pixels ``x1, y1, x2, y2``, interpolated where the face was not detected."""

    @property
    def start(self) -> int:
        """Index of the first frame."""
        return int(self.frames[0])

    @property
    def stop(self) -> int:
        """Index after the last frame."""
        return int(self.frames[-1]) + 1


@dataclass(frozen=True, slots=True)
class CropRegion:
    """Rectangle of a crop in the frame padded by ``pad`` pixels on every side; half-open."""

    pad: int
    y1: int
    y2: int
    x1: int
    x2: int


@dataclass(frozen=True, slots=True)
class TrackRules:
    """Which tracks of a shot are kept, and how they are linked; the reference's by default."""

    detections: int = MIN_TRACK + 1
    """Fewest detections of a track."""
    span: int = MIN_TRACK
    """Fewest frames of a shot."""
    face: float = MIN_FACE
    """Mean width or height that a kept track exceeds, in pixels."""
    nearest: bool = False
    """Take the one face of a frame that overlaps most, not every one that overlaps enough."""


REFERENCE = TrackRules()


def link_tracks(faces: Sequence[Sequence[Box]], first: int = 0, rules: TrackRules = REFERENCE) -> list[Track]:
    """Tracks of one shot.

    A track starts from the first face not yet used and takes, frame after frame, every face that overlaps
    the last one taken by more than 0.5 and comes at most 25 frames after it. As in the reference, taking a
    face hides the next one of the same frame from the current track.

    Args:
        faces: Boxes of every frame of the shot, best first.
        first: Frame index of the first frame.
        rules: Which tracks are kept.

    Returns:
        Tracks, by default of more than 100 detections and more than 100 pixels, in order of their first use.
    """
    if len(faces) < rules.span:
        return []
    unused = [list(boxes) for boxes in faces]
    take = _take_nearest if rules.nearest else _take_track
    tracks = []
    while taken := take(unused):
        if len(taken) >= rules.detections:
            track = _interpolated(taken, first)
            size = (track.boxes[:, 2:] - track.boxes[:, :2]).mean(axis=0)
            if max(size) > rules.face:
                tracks.append(track)
    return tracks


def _take_track(unused: list[list[Box]]) -> list[tuple[int, Box]]:
    """Remove the faces of one track from ``unused``; ``(frame, box)`` pairs, empty when none is left."""
    taken: list[tuple[int, Box]] = []
    for frame, boxes in enumerate(unused):
        position = 0
        while position < len(boxes):
            if taken and frame - taken[-1][0] > MAX_GAP:
                return taken
            if not taken or boxes[position].iou(taken[-1][1]) > MIN_IOU:
                taken.append((frame, boxes.pop(position)))
            position += 1
    return taken


def _take_nearest(unused: list[list[Box]]) -> list[tuple[int, Box]]:
    """As :func:`_take_track`, but one face a frame: the one that overlaps the last one taken most."""
    taken: list[tuple[int, Box]] = []
    for frame, boxes in enumerate(unused):
        if taken and frame - taken[-1][0] > MAX_GAP:
            return taken
        if not boxes:
            continue
        position = 0
        if taken:
            overlaps = [box.iou(taken[-1][1]) for box in boxes]
            position = int(np.argmax(overlaps))
            if overlaps[position] <= MIN_IOU:
                continue
        taken.append((frame, boxes.pop(position)))
    return taken


def _interpolated(taken: list[tuple[int, Box]], first: int) -> Track:
    known = np.array([frame for frame, _ in taken])
    corners = np.array([[box.x1, box.y1, box.x2, box.y2] for _, box in taken])
    frames = np.arange(known[0], known[-1] + 1)
    boxes = np.stack([np.interp(frames, known, corners[:, i]) for i in range(4)], axis=1)
    return Track(frames.astype(np.int64) + first, boxes)


def crop_regions(track: Track, *, edges: bool = False) -> list[CropRegion]:
    """Where to cut, one region a frame of the track.

    With ``s`` half the longer side and ``(x, y)`` the centre, each median-filtered over 13 frames with zeros
    beyond both ends: rows ``y - s .. y + 1.8 s``, columns ``x - 1.4 s .. x + 1.4 s``, in a frame padded by
    ``int(1.8 s)`` pixels, truncated to whole pixels.

    Args:
        track: Boxes without gaps.
        edges: Repeat the first and the last value beyond the ends instead of zeros, which turn the median
            of the first and last six frames into a minimum.
    """
    x1, y1, x2, y2 = track.boxes.T
    half, center_y, center_x = (
        _smoothed(values, edges)
        for values in (np.maximum(y2 - y1, x2 - x1) / 2, (y1 + y2) / 2, (x1 + x2) / 2)
    )
    down, side = 1 + 2 * CROP_SCALE, 1 + CROP_SCALE
    regions = []
    for s, y, x in zip(half.tolist(), center_y.tolist(), center_x.tolist(), strict=True):
        pad = int(s * down)
        cy, cx = y + pad, x + pad
        regions.append(
            CropRegion(pad, int(cy - s), int(cy + s * down), int(cx - s * side), int(cx + s * side))
        )
    return regions


def _smoothed(values: npt.NDArray[np.float64], edges: bool) -> npt.NDArray[np.floating]:
    if not edges:
        return median_filter(values, MEDIAN)
    reach = MEDIAN // 2
    return median_filter(np.pad(values, reach, mode="edge"), MEDIAN)[reach:-reach]


def cut(image: Image, region: CropRegion) -> Image:
    """The region of the image, grey (110) where it lies outside; equal to padding the whole frame first."""
    height, width = image.shape[:2]
    # Slices of the padded frame end at its border.
    y1, y2 = max(region.y1, 0), min(region.y2, height + 2 * region.pad)
    x1, x2 = max(region.x1, 0), min(region.x2, width + 2 * region.pad)
    result = np.full((max(y2 - y1, 0), max(x2 - x1, 0), image.shape[2]), BORDER_VALUE, dtype=np.uint8)
    top, left = y1 - region.pad, x1 - region.pad  # in the frame itself
    inside_y = slice(max(top, 0), max(min(y2 - region.pad, height), 0))
    inside_x = slice(max(left, 0), max(min(x2 - region.pad, width), 0))
    part = image[inside_y, inside_x]
    if part.size:
        row, column = inside_y.start - top, inside_x.start - left
        result[row : row + part.shape[0], column : column + part.shape[1]] = part
    return result
