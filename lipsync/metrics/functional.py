"""Pure functions of audio-visual sync: distances over time shifts, LSE-D, LSE-C and the offset.

Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016 (distances, confidence);
Prajwal et al., "A lip sync expert is all you need", 2020, section 4.3 (LSE-D and LSE-C).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

VSHIFT = 15
"""Largest shift looked at, in windows (frames); the reference's value, 0.6 s at 25 fps."""

MEDIAN_WINDOW = 9
"""Frames of the median filter of the frame-wise confidence."""

JOINED = 32
"""Blocks of distances kept apart: many small ones, between large ones that come and go, fragment memory."""

FloatArray: TypeAlias = npt.NDArray[np.float32]
Features: TypeAlias = Tensor | FloatArray


class SyncScore(NamedTuple):
    """Sync of one clip; unpacks as ``distance, confidence, offset``."""

    distance: float
    """Mean distance at the best shift; LSE-D when the judge is SyncNet v2. Lower is better."""
    confidence: float
    """Median minus minimum over the shifts; LSE-C when the judge is SyncNet v2. Higher is better."""
    offset: int
    """Frames by which the audio would have to be delayed to fit; a pair in sync gives 0."""


def lse(video_features: Features, audio_features: Features, vshift: int = VSHIFT) -> SyncScore:
    """LSE-D, LSE-C and the offset of one clip.

    Args:
        video_features: ``(V, D)``, one row a window of frames.
        audio_features: ``(A, D)``, one row a window of sound that starts with the same frame.
        vshift: Largest shift in rows, in both directions.

    Returns:
        ``lse_d``, ``lse_c`` and ``offset`` in [-vshift, vshift]; the first ``min(V, A)`` rows count.

    Raises:
        ValueError: Wrong shapes, or no rows.
    """
    return score_distances(sync_distances(video_features, audio_features, vshift))


def sync_distances(
    video_features: Features,
    audio_features: Features,
    vshift: int = VSHIFT,
    *,
    padding: float = 0.0,
) -> Tensor:
    """Euclidean distance of every video row to the audio rows up to ``vshift`` away.

    ``d[i, j] = || v[i] - a[i + j - vshift] + 1e-6 ||``; the small constant is added to the difference, as
    the reference's ``pairwise_distance`` does.

    Args:
        video_features: ``(V, D)``.
        audio_features: ``(A, D)``; where the lengths differ, both are cut to the shorter.
        vshift: Largest shift in rows.
        padding: What stands in for audio rows before the first and after the last. The reference pads
            with zeros, which counts in the mean; ``nan`` leaves those pairs out of :func:`score_distances`.

    Returns:
        ``(min(V, A), 2 * vshift + 1)`` float tensor on the device of ``video_features``.

    Raises:
        ValueError: Wrong shapes, or no rows.
    """
    video, audio = torch.as_tensor(video_features), torch.as_tensor(audio_features)
    if video.ndim != 2 or audio.ndim != 2 or video.shape[1] != audio.shape[1]:
        raise ValueError(
            f"features must be (V, D) and (A, D), not {tuple(video.shape)} and {tuple(audio.shape)}"
        )
    rows = min(len(video), len(audio))
    if rows == 0:
        raise ValueError("no feature rows to compare")
    padded = torch.nn.functional.pad(audio[:rows].to(video), (0, 0, vshift, vshift), value=padding)
    return block_distances(video[:rows], padded)


def block_distances(video: Tensor, audio: Tensor) -> Tensor:
    """Distances of consecutive video rows to the audio rows around each.

    Args:
        video: ``(n, D)``.
        audio: ``(n + 2 * vshift, D)``, from ``vshift`` rows before the first video row to ``vshift`` after
            the last.

    Returns:
        ``(n, 2 * vshift + 1)``; column ``vshift`` belongs to the audio row of the same time.
    """
    rows = len(video)
    columns = [
        torch.linalg.vector_norm(video - audio[shift : shift + rows] + 1e-6, dim=1)
        for shift in range(len(audio) - rows + 1)
    ]
    return torch.stack(columns, dim=1)


class DistanceStream:
    """:func:`sync_distances` of rows that come in blocks; of the features only the last few are kept.

    Args:
        vshift: Largest shift in rows.
        padding: As for :func:`sync_distances`.
        drop: This many rows at the end of both sides are left out, as though they had not been there.
    """

    def __init__(self, vshift: int = VSHIFT, *, padding: float = 0.0, drop: int = 0) -> None:
        self.vshift, self.padding, self.drop = vshift, padding, drop
        self._video: Tensor | None = None
        self._audio: Tensor | None = None
        self._distances: list[Tensor] = []

    def push(self, video: Tensor, audio: Tensor) -> None:
        """The next rows of both sides, ``(n, D)`` each, row by row of the same time.

        Raises:
            ValueError: The shapes differ.
        """
        if video.shape != audio.shape or video.ndim != 2:
            raise ValueError(f"rows must be (n, D) twice, not {tuple(video.shape)} and {tuple(audio.shape)}")
        audio = audio.to(video)
        if self._video is None or self._audio is None:
            self._video, self._audio = video, torch.cat([self._beyond(audio), audio])
        else:
            self._video, self._audio = torch.cat([self._video, video]), torch.cat([self._audio, audio])
        # What lies ahead of the later rows is not known yet.
        self._compare(self._video, self._audio, len(self._video) - self.vshift - self.drop)

    def finish(self) -> Tensor:
        """``(rows, 2 * vshift + 1)`` of all rows; to be called once, at the end."""
        if self._video is not None and self._audio is not None:
            kept = self._audio[: len(self._audio) - self.drop]
            padded = torch.cat([kept, self._beyond(self._audio)])
            self._compare(self._video, padded, len(self._video) - self.drop)
        found, self._distances = self._distances, []
        return torch.cat(found) if found else torch.empty(0, 2 * self.vshift + 1)

    def _compare(self, video: Tensor, audio: Tensor, count: int) -> None:
        """Turn the first ``count`` rows into distances and let go of what no later row needs."""
        if count > 0:
            self._distances.append(block_distances(video[:count], audio[: count + 2 * self.vshift]))
            if len(self._distances) == JOINED:
                self._distances = [torch.cat(self._distances)]
            self._video, self._audio = video[count:].clone(), audio[count:].clone()

    def _beyond(self, audio: Tensor) -> Tensor:
        return audio.new_full((self.vshift, audio.shape[1]), self.padding)


def score_distances(distances: Tensor) -> SyncScore:
    """Distance, confidence and offset from the output of :func:`sync_distances`.

    With ``m[j]`` the mean over the rows (``nan`` entries left out): distance ``min m``, confidence
    ``median m - min m``, offset ``vshift - argmin m``.

    Raises:
        ValueError: A shift has no row to compare, or features are not finite.
    """
    means = torch.nanmean(distances, dim=0)
    if not bool(torch.isfinite(means).all()):
        raise ValueError("a shift has no finite distance: too few rows for this vshift, or broken features")
    best = int(torch.argmin(means))
    minimum = float(means[best])
    vshift = (distances.shape[1] - 1) // 2
    return SyncScore(minimum, float(torch.median(means)) - minimum, vshift - best)


def framewise_confidence(distances: Tensor) -> FloatArray:
    """Confidence of every frame at the clip's best shift, median-filtered over 9 frames (zero padded).

    Args:
        distances: ``(V, 2 * vshift + 1)`` of :func:`sync_distances`.

    Returns:
        ``(V,)`` float32; the median over the shifts minus the distance of the frame, nan at the ends where
        the best shift has no sound.
    """
    means = torch.nanmean(distances, dim=0)
    best = int(torch.argmin(means))
    raw = (torch.median(means) - distances[:, best]).to("cpu", torch.float32).numpy()
    (known,) = np.nonzero(np.isfinite(raw))
    inside = slice(known[0], known[-1] + 1)
    raw[inside] = median_filter(raw[inside], MEDIAN_WINDOW)
    return raw


def median_filter(values: npt.NDArray[np.floating], size: int) -> npt.NDArray[np.floating]:
    """Running median of odd ``size`` with zeros beyond both ends (``scipy.signal.medfilt``), any length."""
    padded = np.pad(values, size // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, size), axis=-1)
