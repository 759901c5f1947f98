"""What the pixels of a video say: against its reference, and on their own.

Each observer measures one region of the picture (:mod:`lipsync.evaluation.regions`), so that a region that a
video lacks costs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.errors import NotScorableError
from lipsync.evaluation.columns import Column, Family, Region
from lipsync.evaluation.frame_pairs import FramePair
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.regions import cut, region_box, region_column, region_key
from lipsync.evaluation.visual import Observer, Pairing
from lipsync.metrics.image import WINDOW, VideoPSNR, VideoSSIM
from lipsync.metrics.lpips import LPIPS, VideoLPIPS
from lipsync.metrics.sharpness import MIN_SIDE, cpbd
from lipsync.types import Box, Image, VideoInfo

LPIPS_SIDE = 128
"""Square that faces and mouths are resized to for LPIPS, pixels: its value depends on the size."""
MOTION_SIZE = (64, 32)
"""Width and height that mouths are resized to for their motion, pixels."""
SAME_FACE = 0.5
"""Overlap (IoU) of the boxes of consecutive frames from which on they show one face, not a cut."""

COMPARED = Column("n_frames_compared", "frames compared", "image", digits=0)
IDENTICAL = Column(
    *("n_frames_identical", "identical frames", "image"),
    digits=0,
    about="Compared frames that equal the reference's in every pixel; they have no finite PSNR.",
)
PSNR = Column(
    *("psnr", "PSNR", "image", "higher"),
    unit="dB",
    digits=2,
    about="Mean over the frames that differ from the reference at all.",
)
SSIM = Column(
    *("ssim", "SSIM", "image", "higher"),
    digits=4,
    about="Gaussian window of 11 pixels, mean over colour channels and frames.",
)
SHARPNESS = Column(
    *("sharpness", "sharpness (CPBD)", "image", "higher"),
    about="Share of edges without noticeable blur (cumulative probability of blur detection), 0 to 1; the "
    "unmodified videos give its scale.",
)
MOTION = Column(
    *("motion_mouth", "mouth motion", "image"),
    unit="grey levels",
    digits=2,
    about="Mean absolute difference of the mouth region in consecutive frames, resized to 64 x 32. No "
    "network takes part; low under silence if the lips rest.",
)


def picture_observers(
    regions: Sequence[Region] = ("frame", "face", "mouth"),
    *,
    every: int = 1,
    lpips: LPIPS | None = None,
    sharpness: bool = True,
) -> list[Observer]:
    """Observers of the pictures.

    Args:
        regions: Where PSNR, SSIM, LPIPS and sharpness are measured.
        every: They are measured on frames 0, every, 2 * every ...
        lpips: None leaves LPIPS out.
        sharpness: Measure sharpness.
    """
    found: list[Observer] = [PairCounter(every)]
    found += [PictureComparison(region, every, lpips) for region in regions]
    found += [SharpnessObserver(region, every) for region in regions if sharpness]
    return [*found, MouthMotion()]


def lpips_column(region: Region) -> Column:
    """The column of LPIPS, which says what the pictures were resized to."""
    size = (
        "Pictures with a side above 512 pixels are reduced to it."
        if region == "frame"
        else f"Regions are resized to {LPIPS_SIDE} x {LPIPS_SIDE}."
    )
    about = f"AlexNet, version 0.1, mean over frames. {size}"
    return region_column(Column("lpips", "LPIPS", "image", "lower", digits=4, about=about), region)


class PairCounter:
    """How many frames were compared, and how many of them were identical."""

    family: Family = "image"
    columns: tuple[Column, ...] = (COMPARED, IDENTICAL)
    needs_faces = False
    pairing: Pairing = "frames"

    def __init__(self, every: int = 1) -> None:
        self.every = _positive(every)
        self._compared = self._identical = 0

    def begin(self, item: VideoItem, info: VideoInfo) -> None:
        """Start a video."""
        self._compared = self._identical = 0

    def update(self, pair: FramePair) -> None:
        """Take the next frame."""
        if pair.reference is not None and pair.index % self.every == 0:
            self._compared += 1
            self._identical += np.array_equal(pair.image, pair.reference)

    def finish(self) -> Mapping[str, float]:
        """Both counts."""
        return {COMPARED.key: self._compared, IDENTICAL.key: self._identical}


class PictureComparison:
    """PSNR, SSIM and LPIPS of one region against the reference.

    Args:
        region: Where.
        every: Frames 0, every, 2 * every ... are compared.
        lpips: None leaves LPIPS out.

    Raises:
        ValueError: ``every`` is below 1.
    """

    family: Family = "image"
    pairing: Pairing = "frames"

    def __init__(self, region: Region, every: int = 1, lpips: LPIPS | None = None) -> None:
        self.region: Region = region
        self.every = _positive(every)
        self.needs_faces = region != "frame"
        columns = (region_column(PSNR, region), region_column(SSIM, region))
        self.columns: tuple[Column, ...] = (*columns, *((lpips_column(region),) if lpips else ()))
        side = None if region == "frame" else LPIPS_SIDE
        self._psnr, self._ssim = VideoPSNR(), VideoSSIM()
        self._lpips = None if lpips is None else VideoLPIPS(lpips, side)

    def begin(self, item: VideoItem, info: VideoInfo) -> None:
        """Start a video."""
        self._psnr.reset()
        self._ssim.reset()
        if self._lpips is not None:
            self._lpips.reset()

    def update(self, pair: FramePair) -> None:
        """Take the next frame."""
        if pair.reference is None or pair.index % self.every:
            return
        ours = cut(self.region, pair.region_face, pair.image)
        theirs = cut(self.region, pair.region_face, pair.reference)
        if ours is None or theirs is None or min(ours.shape[:2]) < WINDOW:
            return
        self._psnr.update(ours, theirs)
        self._ssim.update(ours, theirs)
        if self._lpips is not None:
            self._lpips.update(ours, theirs)

    def finish(self) -> Mapping[str, float]:
        """Means over the frames; no PSNR where all of them are identical.

        Raises:
            NotScorableError: No frame has the region, large enough to compare.
        """
        if int(self._ssim.frames) == 0:
            raise NotScorableError(_nothing(self.region, WINDOW, "compare it"))
        values = {region_key("ssim", self.region): float(self._ssim.compute())}
        if int(self._psnr.differing) > 0:
            values[region_key("psnr", self.region)] = float(self._psnr.compute())
        if self._lpips is not None:
            values[region_key("lpips", self.region)] = float(self._lpips.compute())
        return values


class SharpnessObserver:
    """Mean sharpness of one region of the video itself; frames without any edge do not count.

    Args:
        region: Where.
        every: Frames 0, every, 2 * every ... are measured.

    Raises:
        ValueError: ``every`` is below 1.
    """

    family: Family = "image"
    pairing: Pairing = "none"

    def __init__(self, region: Region, every: int = 1) -> None:
        self.region: Region = region
        self.every = _positive(every)
        self.needs_faces = region != "frame"
        self.columns: tuple[Column, ...] = (region_column(SHARPNESS, region),)
        self._total, self._seen, self._measured = 0.0, 0, 0

    def begin(self, item: VideoItem, info: VideoInfo) -> None:
        """Start a video."""
        self._total, self._seen, self._measured = 0.0, 0, 0

    def update(self, pair: FramePair) -> None:
        """Take the next frame."""
        if pair.index % self.every:
            return
        picture = cut(self.region, pair.region_face, pair.image)
        if picture is None or min(picture.shape[:2]) < MIN_SIDE:
            return
        self._seen += 1
        value = cpbd(picture)
        if value is not None:
            self._total += value
            self._measured += 1

    def finish(self) -> Mapping[str, float]:
        """The mean.

        Raises:
            NotScorableError: No frame has the region, large enough and with edges.
        """
        if self._seen == 0:
            raise NotScorableError(_nothing(self.region, MIN_SIDE, "measure its sharpness"))
        if self._measured == 0:
            raise NotScorableError(f"{self.region}: no edges to measure the sharpness of")
        return {region_key("sharpness", self.region): self._total / self._measured}


class MouthMotion:
    """How much the mouth region of the video itself changes from frame to frame.

    Each frame's own box is cut out, so that a head that moves as a whole adds little. Pairs of frames across
    a gap or a cut do not count.
    """

    family: Family = "image"
    columns: tuple[Column, ...] = (MOTION,)
    needs_faces = True
    pairing: Pairing = "none"

    def __init__(self) -> None:
        self._last: tuple[Box, npt.NDArray[np.int16]] | None = None
        self._total, self._steps = 0.0, 0

    def begin(self, item: VideoItem, info: VideoInfo) -> None:
        """Start a video."""
        self._last = None
        self._total, self._steps = 0.0, 0

    def update(self, pair: FramePair) -> None:
        """Take the next frame."""
        box = region_box("mouth", pair.face, pair.image.shape[1], pair.image.shape[0])
        picture = cut("mouth", pair.face, pair.image)
        if box is None or picture is None:
            self._last = None
            return
        mouth = _small_grey(picture)
        if self._last is not None and self._last[0].iou(box) >= SAME_FACE:
            self._total += float(np.abs(mouth - self._last[1]).mean())
            self._steps += 1
        self._last = (box, mouth)

    def finish(self) -> Mapping[str, float]:
        """The mean.

        Raises:
            NotScorableError: No two consecutive frames show the face.
        """
        if self._steps == 0:
            raise NotScorableError("mouth: no two consecutive frames with the face")
        return {MOTION.key: self._total / self._steps}


def _small_grey(picture: Image) -> npt.NDArray[np.int16]:
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.resize(grey, MOTION_SIZE, interpolation=cv2.INTER_AREA), dtype=np.int16)


def _nothing(region: Region, side: int, purpose: str) -> str:
    if region == "frame":
        return f"frame: no frame of at least {side} x {side} pixels to {purpose}"
    return f"{region}: no frame with a face of which {side} x {side} pixels are left to {purpose}"


def _positive(every: int) -> int:
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    return every
