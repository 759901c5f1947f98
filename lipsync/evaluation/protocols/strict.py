"""Protocol ``strict``: the judge of LSE without the known faults of the two published protocols."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lipsync.audio.spec import SYNC_FRAMES, WAV2LIP
from lipsync.evaluation.protocols.base import FPS
from lipsync.evaluation.protocols.following import (
    Pads,
    before,
    boxed,
    face_runs,
    find_tracks,
    of_track,
    passes,
    scene_crops,
)
from lipsync.evaluation.segments import Segment
from lipsync.evaluation.tracks import TrackRules
from lipsync.faces.detector import FaceDetector
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.metrics.functional import VSHIFT
from lipsync.metrics.judges import Judge
from lipsync.types import Waveform

PAIRS = 10
"""Fewest pairs of picture and sound behind every shift."""
FRAMES = VSHIFT + PAIRS + SYNC_FRAMES - 1
"""Frames that takes: 29, or 1.16 s."""
RULES = TrackRules(detections=15, span=1, face=40, nearest=True)
"""Half of those frames must be detections; judges look at 224 pixels, and below 40 a mouth is a blur."""


class StrictProtocol:
    """Faces tracked in every video, true time, every window, nothing lossy.

    Reads the video once for shots and faces, of which only boxes are kept, and once more for the crops of all
    tracks that do not overlap in time, so no frames are held.

    Args:
        detector: Looks at every frame; None only where no video will be read.
        batch: Frames handed to the detector at once.
        pads: Pixels added to face boxes for judges with ``view == "face"``, as in preprocessing.
    """

    name = "strict"
    always_detects = True
    drops_last_window = False
    padding: float | None = math.nan
    least_pairs = PAIRS
    pooling: Literal["mean", "best"] = "best"

    def __init__(self, detector: FaceDetector | None, batch: int = 8, pads: Pads = (0, 0, 0, 0)) -> None:
        self.detector = detector
        self.batch = batch
        self.pads = pads

    def describe(self, judge: Judge) -> str:
        """See :class:`EvaluationProtocol`."""
        if judge.view == "face":
            crop = (
                f"the face box, smoothed over 5 frames and resized to {judge.size} x {judge.size}; these "
                "numbers are not LSE"
            )
        else:
            crop = (
                "a square of 1.8 and 1.4 half-sizes around the face, median-filtered with the end values "
                "repeated (wild: zeros, which misplace the first and last six crops of a moving face), "
                f"resized to {judge.size} x {judge.size}"
            )
        return (
            "strict: 25 fps by exact timestamps for every file (lrs: the file's own rate, so that sound and "
            "picture drift apart); the sound by its true timestamps (wild: delayed by MP3); frames and sound "
            "lossless, as decoded (lrs and wild: JPEG, MPEG-4, XVID, MP3); shots as scenedetect 0.5.1 finds "
            f"them; faces of every frame by {type(self.detector).__name__}, linked to the face that overlaps "
            "most (wild: the order of the detector decides), in every video (lrs: the whole frame, whatever "
            f"is in it); tracks of {RULES.detections} detections and more than {RULES.face:g} pixels (wild: "
            f"more than 100 of each, which silently leaves out the rest); {crop}. Every window counts (lrs "
            "and wild: the last one is dropped); pairs beyond the ends of the sound are left out (lrs and "
            f"wild: compared with zeros); at least {PAIRS} pairs must stand behind every shift, so {FRAMES} "
            f"frames for shifts of {VSHIFT}, otherwise there is no score but a reason. A video's score is "
            "that of its most confident face track (wild: the mean over all faces, silent ones too)."
        )

    def load_sound(self, path: Path, judge: Judge) -> Waveform:
        """See :class:`EvaluationProtocol`."""
        del judge
        return load_waveform(path, WAV2LIP.sample_rate)

    def segments(self, path: Path, judge: Judge, limit: int | None = None) -> Iterator[Segment]:
        """See :class:`EvaluationProtocol`."""
        if self.detector is None:
            raise ValueError("the strict protocol needs a face detector")
        reader = VideoReader(path, FPS)
        for apart in passes(find_tracks(reader, self.detector, self.batch, RULES)):
            frames = before(reader, limit)
            for track in apart:
                own = of_track(frames, track)
                if judge.view == "face":
                    yield from face_runs(boxed(own, track), judge.size, self.pads, track.stop)
                else:
                    crops = scene_crops(own, track, judge.size, edges=True)
                    yield Segment(track.start, crops, track.stop)

    def notes(self, path: Path, judge: Judge) -> tuple[str, ...]:
        """See :class:`EvaluationProtocol`."""
        del path, judge
        return ()

    def nothing_found(self) -> str:
        """See :class:`EvaluationProtocol`."""
        return f"no face track of {RULES.detections} detections and more than {RULES.face:g} pixels"
