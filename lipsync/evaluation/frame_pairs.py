"""Frames of a video beside those of its reference, with the faces followed in both."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import cv2
import numpy as np

from lipsync.errors import DataError, MediaError, NoFaceError
from lipsync.evaluation.inputs import VideoItem
from lipsync.faces.detector import FaceDetector
from lipsync.faces.tracker import track_face
from lipsync.media.probe import probe
from lipsync.media.provenance import read_provenance
from lipsync.media.reader import VideoReader
from lipsync.types import Face, FaceFrame, Frame, Image, VideoInfo

RATE_TOLERANCE = 1e-3
"""Relative difference of frame rates up to which frames are paired by index."""
THUMBNAIL = 160
"""Longest side of a thumbnail, pixels."""

T = TypeVar("T")
Source: TypeAlias = Literal["video", "reference", "faces"]


@dataclass(frozen=True, slots=True)
class FramePair:
    """A frame, the frame of the same index of the reference, and the main face of either."""

    index: int
    image: Image
    reference: Image | None
    """None without a reference, and past its end."""
    face: Face | None
    reference_face: Face | None
    comparable: bool = True
    """Whether frame i of the reference is what frame i should look like."""

    @property
    def region_face(self) -> Face | None:
        """The face whose box is looked at in ``image``; see :mod:`lipsync.evaluation.regions`."""
        return self.reference_face if self.reference is not None and self.comparable else self.face

    def alone(self) -> FramePair:
        """The frame without the reference's."""
        return dataclasses.replace(self, reference=None, reference_face=None, comparable=False)


class SourceLostError(Exception):
    """One of the streams ended in an error; the pass can go on without it unless it is the video."""

    def __init__(self, source: Source, cause: Exception) -> None:
        super().__init__(" ".join(str(cause).split()))
        self.source = source


@dataclass(frozen=True, slots=True)
class Comparison:
    """What of a reference and of the faces there is for one video."""

    reference: Path | None
    """None where there is none, or none that can be read."""
    comparable: bool
    """Whether its frames are paired with the video's: same content, size and rate."""
    faces: bool
    """Whether faces are followed."""
    rate: Fraction | None = None
    """Constant rate at which the reference is read, as the video's maker did; None: frame by frame."""
    why_unreadable: str | None = None
    why_unpaired: str | None = None
    why_no_faces: str | None = None

    def without(self, lost: SourceLostError) -> Comparison:
        """The same after the loss of the reference or of the faces."""
        if lost.source == "faces":
            return dataclasses.replace(self, faces=False, why_no_faces=str(lost))
        return dataclasses.replace(self, reference=None, comparable=False, why_unreadable=str(lost))


def compare(item: VideoItem, info: VideoInfo, *, faces: bool) -> Comparison:
    """Whether the frames of a video can be compared with those of its reference."""
    if item.reference is None:
        return Comparison(None, comparable=False, faces=faces)
    try:
        theirs = probe(item.reference)
    except MediaError as error:
        return Comparison(None, comparable=False, faces=faces, why_unreadable=" ".join(str(error).split()))
    why = _difference(info, theirs) if item.paired else None
    comparable = item.paired and why is None
    rate = info.fps if comparable and _made_here(item.path) else None
    return Comparison(item.reference, comparable, faces, rate, why_unpaired=why)


def _made_here(path: Path) -> bool:
    """Whether the file says that it was made by the pipeline of this package.

    That reads its source at a constant rate, so frame i shows what the source shows at the time i / fps. Of a
    source of variable rate this is another frame than the i-th. Other programs pass over the timestamps.
    """
    try:
        return read_provenance(path) is not None
    except MediaError:  # comes up when the frames are read, too
        return False


def _difference(ours: VideoInfo, theirs: VideoInfo) -> str | None:
    """Why frames of two videos cannot be paired by index."""
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        return (
            f"size {ours.width} x {ours.height} differs from the reference's {theirs.width} x {theirs.height}"
        )
    if abs(ours.fps / theirs.fps - 1) > RATE_TOLERANCE:
        return (
            f"{float(ours.fps):.3f} fps differ from the reference's {float(theirs.fps):.3f} fps, "
            "so frames cannot be paired"
        )
    return None


class FramePairs:
    """Iterates over the frames of a video, once; then over what is left of its reference.

    Args:
        path: The video.
        comparison: What there is beside it.
        detector: Follows faces where ``comparison.faces``.

    Raises:
        SourceLostError: While iterating: a file or the face detection failed.
    """

    def __init__(self, path: Path, comparison: Comparison, detector: FaceDetector | None) -> None:
        self.comparison = comparison
        self.reference_frames = 0
        """Frames of the reference so far; all of them when :meth:`rest` or :meth:`finish` ended."""
        self.video_frames = 0
        """Frames of the video so far."""
        self._detector = detector if comparison.faces else None
        self._video = _frames(path)
        self._reference = self._counted(comparison.reference, comparison.rate)
        self._theirs = _blamed(self._followed(self._reference), "reference")

    def __iter__(self) -> Iterator[FramePair]:
        with closing(self._video):
            for ours in _blamed(self._followed(self._video), "video"):
                self.video_frames += 1
                theirs = next(self._theirs, None)
                other = None if theirs is None else theirs.frame.image
                face = None if theirs is None else theirs.face
                yield FramePair(
                    ours.frame.index, ours.frame.image, other, ours.face, face, self.comparison.comparable
                )

    def rest(self) -> Iterator[FaceFrame]:
        """Frames of the reference past the end of the video."""
        return self._theirs

    def finish(self) -> None:
        """Count the frames of the reference that nobody looks at, where the count means something."""
        if not self.comparison.comparable:
            return
        for _ in _blamed(self._reference, "reference"):
            pass

    def close(self) -> None:
        """Close the files."""
        self._video.close()
        self._reference.close()

    def _counted(self, path: Path | None, rate: Fraction | None) -> Generator[Frame, None, None]:
        if path is not None:
            for frame in VideoReader(path, rate):
                self.reference_frames += 1
                yield frame

    def _followed(self, frames: Iterable[Frame]) -> Iterator[FaceFrame]:
        if self._detector is not None:
            return track_face(frames, self._detector)
        return (FaceFrame(frame, None) for frame in frames)


def _frames(path: Path) -> Generator[Frame, None, None]:
    """Frames of a file, which is opened when the first one is asked for."""
    yield from VideoReader(path)


def _blamed(frames: Iterable[T], source: Source) -> Iterator[T]:
    """The frames; an error on the way is named after what it costs."""
    try:
        yield from frames
    except MediaError as error:
        raise SourceLostError(source, error) from error
    except (DataError, NoFaceError) as error:
        raise SourceLostError("faces", error) from error


class Thumbnail:
    """Chooses a frame: the one in the middle, or the first with a face where that one has none.

    Args:
        middle: Index of the frame in the middle.
    """

    def __init__(self, middle: int) -> None:
        self.middle = middle
        self._found: dict[str, Image] = {}

    def offer(self, pair: FramePair) -> None:
        """Look at the next frame."""
        kinds = {"face": pair.face is not None, "middle": pair.index == self.middle, "first": pair.index == 0}
        wanted = [kind for kind, applies in kinds.items() if applies and kind not in self._found]
        if wanted or (pair.index == self.middle and pair.face is not None):
            small = _reduced(pair.image)
            self._found.update(dict.fromkeys(wanted, small))
            if pair.index == self.middle and pair.face is not None:
                self._found["best"] = small

    def encoded(self) -> str | None:
        """JPEG in base64; None without any frame."""
        for kind in ("best", "face", "middle", "first"):
            if kind in self._found:
                _, data = cv2.imencode(".jpg", self._found[kind], [cv2.IMWRITE_JPEG_QUALITY, 85])
                return base64.b64encode(data.tobytes()).decode("ascii")
        return None


def _reduced(image: Image) -> Image:
    height, width = image.shape[:2]
    factor = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
