"""PSNR and SSIM of a video against its reference, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from lipsync.errors import NotScorableError
from lipsync.media.reader import VideoReader
from lipsync.metrics.image import VideoPSNR, VideoSSIM

RATE_TOLERANCE = 1e-3
"""Relative difference of frame rates up to which frames are paired by index."""


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Picture quality of one video against its reference."""

    psnr: float
    """dB, mean over the frames that differ; ``inf`` when every frame is identical."""
    ssim: float
    frames: int
    """Pairs compared: the frames of the shorter video."""
    identical_frames: int
    """Pairs without any difference; they have no finite PSNR and count in SSIM only."""
    video_frames: int
    reference_frames: int


def compare_videos(video: Path, reference: Path) -> ImageScore:
    """Compare frame i with frame i, up to the end of the shorter video.

    Raises:
        MediaError: One of the files is missing or unreadable.
        NotScorableError: Their sizes or frame rates differ, so frames cannot be paired.
    """
    ours, theirs = VideoReader(video), VideoReader(reference)
    if (ours.info.width, ours.info.height) != (theirs.info.width, theirs.info.height):
        raise NotScorableError(
            f"size {ours.info.width} x {ours.info.height} differs from the reference's "
            f"{theirs.info.width} x {theirs.info.height}"
        )
    if abs(ours.info.fps / theirs.info.fps - 1) > RATE_TOLERANCE:
        raise NotScorableError(
            f"{float(ours.info.fps):.3f} fps differ from the reference's {float(theirs.info.fps):.3f} fps, "
            "so frames cannot be paired"
        )
    psnr, ssim = VideoPSNR(), VideoSSIM()
    counts = [0, 0]
    for one, other in zip_longest(ours, theirs):
        counts[0] += one is not None
        counts[1] += other is not None
        if one is not None and other is not None:
            psnr.update(one.image, other.image)
            ssim.update(one.image, other.image)
    return ImageScore(
        psnr=float(psnr.compute()),
        ssim=float(ssim.compute()),
        frames=min(counts),
        identical_frames=int(psnr.identical),
        video_frames=counts[0],
        reference_frames=counts[1],
    )
