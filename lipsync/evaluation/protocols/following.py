"""Following faces through a video and cutting them out; shared by the protocols."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice, takewhile

import cv2
import numpy as np

from lipsync.evaluation.segments import Segment
from lipsync.evaluation.shots import ShotFinder
from lipsync.evaluation.tracks import REFERENCE, Track, TrackRules, crop_regions, cut, link_tracks
from lipsync.faces.crop import crop, whole_box
from lipsync.faces.detector import FaceDetector
from lipsync.faces.smoothing import smooth_boxes
from lipsync.types import Box, Face, FaceFrame, Frame, Image

Pads = tuple[int, int, int, int]
"""Pixels at top, bottom, left, right."""


def find_tracks(
    frames: Iterable[Frame],
    detector: FaceDetector,
    batch: int = 8,
    rules: TrackRules = REFERENCE,
    shots: ShotFinder | None = None,
) -> list[Track]:
    """Tracks of a 25 fps video, shot by shot; holds ``batch`` frames and all boxes.

    Args:
        frames: In order.
        detector: Looks at every frame.
        batch: Frames handed to the detector at once.
        rules: Which tracks are kept.
        shots: Fed by the caller, to whom it belongs; None looks for shots in ``frames``.
    """
    finder = ShotFinder() if shots is None else shots
    faces: list[list[Box]] = []
    stream = iter(frames)
    while block := list(islice(stream, batch)):
        if shots is None:
            for frame in block:
                finder.push(frame.image)
        faces.extend([face.box for face in found] for found in detector.detect(block))
    return [
        track for start, stop in finder.bounds() for track in link_tracks(faces[start:stop], start, rules)
    ]


def passes(tracks: Iterable[Track]) -> list[list[Track]]:
    """Tracks shared out so that those of one pass over the video do not overlap in time."""
    groups: list[list[Track]] = []
    for track in sorted(tracks, key=lambda item: (item.start, item.stop)):
        group = next((group for group in groups if group[-1].stop <= track.start), None)
        if group is None:
            groups.append([track])
        else:
            group.append(track)
    return groups


def before(frames: Iterable[Frame], limit: int | None) -> Iterator[Frame]:
    """Frames whose index is below ``limit``; all without one."""
    return takewhile(lambda frame: limit is None or frame.index < limit, frames)


def of_track(frames: Iterator[Frame], track: Track) -> Iterator[Frame]:
    """Advance ``frames`` to the track and give its frames, taking none beyond."""
    for frame in frames:
        if frame.index >= track.start:
            yield frame
        if frame.index >= track.stop - 1:
            return


def scene_crops(frames: Iterator[Frame], track: Track, size: int, *, edges: bool = False) -> Iterator[Image]:
    """The wide crop of every frame of the track, resized."""
    for frame, region in zip(frames, crop_regions(track, edges=edges), strict=False):
        yield resized(cut(frame.image, region), size)


def boxed(frames: Iterator[Frame], track: Track) -> Iterator[FaceFrame]:
    """The track's box beside every one of its frames."""
    for frame, corners in zip(frames, track.boxes.tolist(), strict=False):
        yield FaceFrame(frame, Face(Box(*corners), 1.0))


def face_runs(
    stream: Iterable[FaceFrame], size: int, pads: Pads, stop: int | None = None
) -> Iterator[Segment]:
    """One segment for every unbroken run of frames with a face: the smoothed, padded, resized box."""
    for present, run in groupby(
        _face_crops(smooth_boxes(stream), size, pads), lambda item: item[1] is not None
    ):
        if not present:
            continue
        start, first = next(run)
        images = (image for _, image in chain([(start, first)], run) if image is not None)
        yield Segment(start, images, stop)


def _face_crops(stream: Iterable[FaceFrame], size: int, pads: Pads) -> Iterator[tuple[int, Image | None]]:
    for item in stream:
        image = item.frame.image
        box = item.face and whole_box(item.face.box.padded(*pads), image.shape[1], image.shape[0])
        yield item.frame.index, crop(image, box, size) if box else None


def resized(image: Image, size: int) -> Image:
    """Stretched to a square, as ``cv2.resize`` does by default."""
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
