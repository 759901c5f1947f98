"""Protocol ``wild``: shots, face tracks and crops first, for videos as found (``run_pipeline``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from lipsync.audio.spec import WAV2LIP
from lipsync.evaluation.protocols.base import DROPPED_WINDOW, FPS, PER_TRACK
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
from lipsync.evaluation.shots import ShotFinder
from lipsync.evaluation.tracks import MIN_FACE, MIN_TRACK, Track
from lipsync.faces.detector import FaceDetector
from lipsync.media.lossy import (
    JpegCodec,
    Shown,
    at_constant_rate,
    mpeg4,
    program_frames,
    to_bgr_as_opencv,
    xvid,
)
from lipsync.media.lossy_sound import mp3_rate, mp3_video_lag, program_sound_by_mp3
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.metrics.judges import Judge
from lipsync.types import Frame, Image, Waveform

QUANTISER = 2
"""Of the reference's intermediate video and of its JPEG files."""


class WildProtocol:
    """25 fps, shot cuts, faces detected on every frame, tracks within each shot, one crop per track.

    Reads the video once for shots and faces, of which only boxes are kept, and once more for the crops of all
    tracks that do not overlap in time, so no frames are held.

    Args:
        detector: Looks at every frame; None only where no video will be read. The reference uses S3FD at
            quarter scale, score above 0.9.
        batch: Frames handed to the detector at once.
        pads: Pixels added to face boxes for judges with ``view == "face"``, as in preprocessing.
        lossless: Use frames and sound as decoded, on the exact 25 fps grid, instead of what is left of them
            in the reference's MPEG-4, MP3, JPEG and XVID files. Judges with ``view == "face"`` always do.
    """

    name = "wild"
    always_detects = True
    drops_last_window = True
    padding: float | None = None
    least_pairs = 0
    pooling: Literal["mean", "best"] = "mean"

    def __init__(
        self,
        detector: FaceDetector | None,
        batch: int = 8,
        pads: Pads = (0, 0, 0, 0),
        lossless: bool = False,
    ) -> None:
        self.detector = detector
        self.batch = batch
        self.pads = pads
        self.lossless = lossless

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
        loss = (
            "Frames and sound are used as decoded (lossless); the reference stores them as MPEG-4, MP3, JPEG "
            "and XVID in between, which changes scores."
            if self.lossless
            else "Frames pass through MPEG-4, JPEG, XVID and JPEG again, the sound through MP3, with the "
            "settings and the delays they have in the reference."
        )
        return (
            f"wild: {common} A square of 1.8 and 1.4 half-sizes around the median-filtered face, resized to "
            f"{judge.size} x {judge.size}, is scored. {PER_TRACK} {DROPPED_WINDOW} Pairs beyond the ends of "
            f"the sound count as zeros. {loss}"
        )

    def load_sound(self, path: Path, judge: Judge) -> Waveform:
        """See :class:`EvaluationProtocol`."""
        if self.lossless or judge.view == "face":
            return load_waveform(path, WAV2LIP.sample_rate)
        return program_sound_by_mp3(path)

    def segments(self, path: Path, judge: Judge, limit: int | None = None) -> Iterator[Segment]:
        """See :class:`EvaluationProtocol`."""
        if self.detector is None:
            raise ValueError("the wild protocol needs a face detector")
        lossy = judge.view == "scene" and not self.lossless
        source = _StoredVideo(path) if lossy else VideoReader(path, FPS)
        for apart in passes(self._tracks(source)):
            frames = before(_frames_of(source, apart), limit)
            for track in apart:
                own = of_track(frames, track)
                if judge.view == "face":
                    yield from face_runs(boxed(own, track), judge.size, self.pads, track.stop)
                    continue
                crops = scene_crops(own, track, judge.size)
                yield Segment(track.start, _stored_crops(crops) if lossy else crops, track.stop)

    def _tracks(self, source: VideoReader | _StoredVideo) -> list[Track]:
        assert self.detector is not None  # noqa: S101 - segments() refuses it
        if isinstance(source, VideoReader):
            return find_tracks(source, self.detector, self.batch)
        shots = ShotFinder()
        return find_tracks(source.frames(shots), self.detector, self.batch, shots=shots)

    def notes(self, path: Path, judge: Judge) -> tuple[str, ...]:
        """See :class:`EvaluationProtocol`."""
        del path, judge
        return ()

    def nothing_found(self) -> str:
        """See :class:`EvaluationProtocol`."""
        return (
            f"no face track of more than {MIN_TRACK} detections (4 s) and more than {MIN_FACE} pixels; "
            "protocol=strict scores shorter clips and smaller faces, protocol=lrs the whole frame"
        )


class _StoredVideo:
    """The JPEG files that the reference makes of a video, by way of an AVI file at 25 fps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rate = mp3_rate(path)
        self.lag = 0 if rate is None else mp3_video_lag(rate, FPS)

    def frames(
        self, shots: ShotFinder | None = None, wanted: Callable[[int], bool] = lambda _: True
    ) -> Iterator[Frame]:
        """The pictures; ``shots`` is shown those of the AVI file, as the reference does.

        The two are counted alike, although the second and all later pictures come ``lag`` files later.
        Pictures that are not wanted are left out.
        """
        jpeg = JpegCodec(FPS, QUANTISER)
        placed = (
            (float(index + self.lag if index else 0), 1.0, shown)
            for index, shown in enumerate(self._avi(shots))
        )
        for index, shown in enumerate(at_constant_rate(placed)):
            if wanted(index):
                yield Frame(index, float(shown.time), jpeg(shown.frame), self.path)

    def _avi(self, shots: ShotFinder | None) -> Iterator[Shown]:
        times: list[Fraction] = []  # of the few frames inside the codec
        converter = VideoReformatter()

        def source() -> Iterable[VideoFrame]:
            for shown in program_frames(self.path, FPS):
                times.append(shown.time)
                yield shown.frame

        for frame in mpeg4(source(), FPS, QUANTISER):
            if shots is not None:
                shots.push(to_bgr_as_opencv(frame, converter))
            yield Shown(times.pop(0), frame)


def _frames_of(source: VideoReader | _StoredVideo, tracks: list[Track]) -> Iterator[Frame]:
    if isinstance(source, VideoReader):
        return iter(source)
    spans = [range(track.start, track.stop) for track in tracks]
    return source.frames(wanted=lambda index: any(index in span for span in spans))


def _stored_crops(crops: Iterable[Image]) -> Iterator[Image]:
    """Crops by way of the reference's crop video and the JPEG files made of it."""
    jpeg = JpegCodec(FPS)
    return (jpeg(frame) for frame in xvid(crops, FPS))
