"""Protocol ``lrs``: the whole frame, for corpora of face crops (``calculate_scores_LRS.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from lipsync.audio.spec import WAV2LIP
from lipsync.evaluation.protocols.base import DROPPED_WINDOW, FPS
from lipsync.evaluation.protocols.following import Pads, face_runs, resized
from lipsync.evaluation.segments import Segment
from lipsync.faces.detector import FaceDetector
from lipsync.faces.tracker import track_face
from lipsync.media.lossy import JpegCodec, program_frames, program_rate
from lipsync.media.lossy_sound import program_sound
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.metrics.judges import Judge
from lipsync.types import Image, Waveform


class LrsProtocol:
    """The whole frame, resized to the judge's size, at the video's own frame rate, without detection.

    A judge that looks at face boxes (an expert) was trained on crops at 25 fps; for it the video is read at
    25 fps, without loss, and the main face is tracked.

    Args:
        detector: Finds faces; needed by judges with ``view == "face"`` only.
        pads: Pixels added to face boxes at top, bottom, left, right, as in preprocessing.
        lossless: Use frames as decoded instead of what is left of them in the reference's JPEG files.
    """

    name = "lrs"
    always_detects = False
    drops_last_window = True
    padding: float | None = None
    least_pairs = 0
    pooling: Literal["mean", "best"] = "mean"

    def __init__(
        self, detector: FaceDetector | None = None, pads: Pads = (0, 0, 0, 0), lossless: bool = False
    ) -> None:
        self.detector = detector
        self.pads = pads
        self.lossless = lossless

    def describe(self, judge: Judge) -> str:
        """See :class:`EvaluationProtocol`."""
        if judge.view == "face":
            return (
                "lrs with an expert judge: frames at 25 fps, lossless; the main face of the whole frame is "
                f"tracked, its box smoothed over 5 frames and resized to {judge.size} x {judge.size}, as "
                "the expert was trained on such crops; every unbroken run of frames with a face is scored, "
                "and the mean over the runs is the video's score. These numbers are not LSE."
            )
        loss = (
            "Frames are used as decoded (lossless); the reference stores them as JPEG in between, which "
            "changes scores."
            if self.lossless
            else "Frames pass through JPEG at ffmpeg's default quality, as in the reference."
        )
        return (
            f"lrs: whole frame resized to {judge.size} x {judge.size} without face detection, the file's own "
            "frame rate, sound windows every 40 ms (so only 25 fps files are scored as meant). "
            f"{DROPPED_WINDOW} Pairs beyond the ends of the sound count as zeros. {loss}"
        )

    def load_sound(self, path: Path, judge: Judge) -> Waveform:
        """See :class:`EvaluationProtocol`."""
        if self.lossless or judge.view == "face":
            return load_waveform(path, WAV2LIP.sample_rate)
        return program_sound(path)

    def segments(self, path: Path, judge: Judge, limit: int | None = None) -> Iterator[Segment]:
        """See :class:`EvaluationProtocol`."""
        if judge.view == "scene":
            yield Segment(0, (resized(image, judge.size) for image in islice(self._frames(path), limit)))
            return
        if self.detector is None:
            raise ValueError("an expert judge needs a face detector")
        tracked = track_face(islice(VideoReader(path, FPS), limit), self.detector)
        yield from face_runs(tracked, judge.size, self.pads)

    def _frames(self, path: Path) -> Iterator[Image]:
        if self.lossless:
            return (frame.image for frame in VideoReader(path))
        rate = program_rate(path)
        jpeg = JpegCodec(rate)
        return (jpeg(shown.frame) for shown in program_frames(path, rate))

    def notes(self, path: Path, judge: Judge) -> tuple[str, ...]:
        """See :class:`EvaluationProtocol`."""
        if judge.view == "face":  # the video is read at 25 fps
            return ()
        average, stated = probe(path).fps, program_rate(path)
        if abs(average - stated) > stated / 100:
            return (
                f"variable frame rate ({float(average):.4g} fps on average): sound and picture drift apart "
                "under this protocol; use protocol=strict",
            )
        if average != FPS:
            return (
                f"{float(average):.4g} fps: sound and picture drift apart under this protocol; "
                "use protocol=strict",
            )
        return ()

    def nothing_found(self) -> str:
        """See :class:`EvaluationProtocol`."""
        return "no face found"
