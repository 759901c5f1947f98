"""The two protocols under which LSE numbers are published; they give different numbers for one video.

``lrs``: the whole frame, for corpora that are face crops already (``calculate_scores_LRS.py``).
``wild``: shots, face tracks and crops first, for videos as found (``run_pipeline`` of SyncNet v2).

Both differ from the reference in one point: it passes frames through JPEG (and, in the wild, through lossy
video twice) between its programs, here they stay as decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from lipsync.audio.spec import SAMPLES_PER_FRAME, TRAINING_FPS
from lipsync.evaluation.segments import Segment
from lipsync.evaluation.shots import ShotFinder
from lipsync.evaluation.tracks import MIN_FACE, MIN_TRACK, Track, crop_regions, cut, link_tracks
from lipsync.faces.crop import crop, whole_box
from lipsync.faces.detector import FaceDetector
from lipsync.faces.smoothing import smooth_boxes
from lipsync.faces.tracker import track_face
from lipsync.media.reader import VideoReader
from lipsync.metrics.judges import Judge
from lipsync.types import Box, Face, FaceFrame, Frame, Image, Waveform

FPS = Fraction(TRAINING_FPS)

LOSSLESS = (
    "Frames are used as decoded; the reference stores them as JPEG in between, which changes scores slightly."
)
PER_TRACK = (
    "A video's score is the mean over its face tracks; its offset is that of the most confident track."
)


class EvaluationProtocol(Protocol):
    """Turns a video into segments for a judge."""

    name: str
    always_detects: bool
    """Whether faces are looked for with any judge; otherwise only for judges with ``view == "face"``."""

    def describe(self, judge: Judge) -> str:
        """What was done, in plain words, for the report."""
        ...

    def segments(self, path: Path, judge: Judge, waveform: Waveform) -> Iterator[Segment]:
        """Segments of the video; the frames of one must be consumed before the next is asked for."""
        ...

    def nothing_found(self) -> str:
        """Why a video gave no segment."""
        ...


class LrsProtocol:
    """The whole frame, resized to the judge's size, at the video's own frame rate, without detection.

    A judge that looks at face boxes (an expert) was trained on crops at 25 fps; for it the video is read at
    25 fps and the main face is tracked.

    Args:
        detector: Finds faces; needed by judges with ``view == "face"`` only.
        pads: Pixels added to face boxes at top, bottom, left, right, as in preprocessing.
    """

    name = "lrs"
    always_detects = False

    def __init__(
        self, detector: FaceDetector | None = None, pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    ) -> None:
        self.detector = detector
        self.pads = pads

    def describe(self, judge: Judge) -> str:
        """See :class:`EvaluationProtocol`."""
        if judge.view == "face":
            return (
                "lrs with an expert judge: frames at 25 fps; the main face of the whole frame is tracked, "
                f"its box smoothed over 5 frames and resized to {judge.size} x {judge.size}, because the "
                "expert was trained on such crops; every unbroken run of frames with a face is scored, and "
                "the mean over the runs is the video's score. These numbers are not LSE."
            )
        return (
            f"lrs: whole frame resized to {judge.size} x {judge.size} without face detection, the file's own "
            "frame rate, sound windows every 40 ms (so only 25 fps files are scored as meant). As in the "
            f"reference, one window fewer is used than the frames allow. {LOSSLESS}"
        )

    def segments(self, path: Path, judge: Judge, waveform: Waveform) -> Iterator[Segment]:
        """See :class:`EvaluationProtocol`."""
        if judge.view == "scene":
            frames = (_resized(frame.image, judge.size) for frame in VideoReader(path))
            yield Segment(0, frames, waveform)
            return
        if self.detector is None:
            raise ValueError("an expert judge needs a face detector")
        tracked = track_face(VideoReader(path, FPS), self.detector)
        yield from _face_runs(tracked, judge.size, self.pads, waveform)

    def nothing_found(self) -> str:
        """See :class:`EvaluationProtocol`."""
        return "no face found"


class WildProtocol:
    """25 fps, shot cuts, faces detected on every frame, tracks within each shot, one crop per track.

    Reads the video once for shots and faces, of which only boxes are kept, and once more for the crops of the
    tracks that do not overlap in time; so memory does not grow with the length of the video.

    Args:
        detector: Looks at every frame; None only where no video will be read. The reference uses S3FD at
            quarter scale, score above 0.9.
        batch: Frames handed to the detector at once.
        pads: Pixels added to face boxes for judges with ``view == "face"``, as in preprocessing.
    """

    name = "wild"
    always_detects = True

    def __init__(
        self, detector: FaceDetector | None, batch: int = 8, pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    ) -> None:
        self.detector = detector
        self.batch = batch
        self.pads = pads

    def describe(self, judge: Judge) -> str:
        """See :class:`EvaluationProtocol`."""
        common = (
            "frames at 25 fps; shots as scenedetect 0.5.1 finds them (threshold 30, 15 frames or more); "
            f"faces of every frame by {type(self.detector).__name__} (the reference: S3FD at quarter scale, "
            f"score above 0.9); tracks of more than {MIN_TRACK} detections and more than {MIN_FACE} pixels."
        )
        if judge.view == "face":
            return (
                f"wild with an expert judge: {common} The face box, smoothed over 5 frames and resized "
                f"to {judge.size} x {judge.size}, is scored, because the expert was trained on such crops. "
                f"{PER_TRACK} These numbers are not LSE."
            )
        return (
            f"wild: {common} A square of 1.8 and 1.4 half-sizes around the median-filtered face, resized to "
            f"{judge.size} x {judge.size}, is scored. {PER_TRACK} As in the reference, one window fewer is "
            f"used than the frames allow. {LOSSLESS}"
        )

    def segments(self, path: Path, judge: Judge, waveform: Waveform) -> Iterator[Segment]:
        """See :class:`EvaluationProtocol`."""
        if self.detector is None:
            raise ValueError("the wild protocol needs a face detector")
        reader = VideoReader(path, FPS)
        tracks = find_tracks(reader, self.detector, self.batch)
        for apart in passes(tracks):
            frames = iter(reader)
            for track in apart:
                own = _of_track(frames, track)
                sound = waveform[track.start * SAMPLES_PER_FRAME : track.stop * SAMPLES_PER_FRAME]
                if judge.view == "scene":
                    yield Segment(track.start, _scene_crops(own, track, judge.size), sound)
                else:
                    yield from _face_runs(
                        _boxed(own, track), judge.size, self.pads, waveform[: track.stop * SAMPLES_PER_FRAME]
                    )

    def nothing_found(self) -> str:
        """See :class:`EvaluationProtocol`."""
        return (
            f"no face track of more than {MIN_TRACK} detections (4 s) and more than {MIN_FACE} pixels; "
            "protocol=lrs scores short clips and small face crops"
        )


def find_tracks(frames: Iterable[Frame], detector: FaceDetector, batch: int = 8) -> list[Track]:
    """Tracks of a 25 fps video, shot by shot; holds ``batch`` frames and all boxes."""
    shots = ShotFinder()
    faces: list[list[Box]] = []
    stream = iter(frames)
    while block := list(islice(stream, batch)):
        for frame in block:
            shots.push(frame.image)
        faces.extend([face.box for face in found] for found in detector.detect(block))
    return [track for start, stop in shots.bounds() for track in link_tracks(faces[start:stop], start)]


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


def _of_track(frames: Iterator[Frame], track: Track) -> Iterator[Frame]:
    """Advance ``frames`` to the track and give its frames, taking none beyond."""
    for frame in frames:
        if frame.index >= track.start:
            yield frame
        if frame.index == track.stop - 1:
            return


def _scene_crops(frames: Iterator[Frame], track: Track, size: int) -> Iterator[Image]:
    for frame, region in zip(frames, crop_regions(track), strict=False):
        yield _resized(cut(frame.image, region), size)


def _boxed(frames: Iterator[Frame], track: Track) -> Iterator[FaceFrame]:
    for frame, corners in zip(frames, track.boxes.tolist(), strict=False):
        yield FaceFrame(frame, Face(Box(*corners), 1.0))


def _face_runs(
    stream: Iterable[FaceFrame], size: int, pads: tuple[int, int, int, int], waveform: Waveform
) -> Iterator[Segment]:
    """One segment for every unbroken run of frames with a face; ``waveform`` starts with the video."""
    for present, run in groupby(
        _face_crops(smooth_boxes(stream), size, pads), lambda item: item[1] is not None
    ):
        if not present:
            continue
        start, first = next(run)
        images = (image for _, image in chain([(start, first)], run) if image is not None)
        yield Segment(start, images, waveform[start * SAMPLES_PER_FRAME :])


def _face_crops(
    stream: Iterable[FaceFrame], size: int, pads: tuple[int, int, int, int]
) -> Iterator[tuple[int, Image | None]]:
    for item in stream:
        image = item.frame.image
        box = item.face and whole_box(item.face.box.padded(*pads), image.shape[1], image.shape[0])
        yield item.frame.index, crop(image, box, size) if box else None


def _resized(image: Image, size: int) -> Image:
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
