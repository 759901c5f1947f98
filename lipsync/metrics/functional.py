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
    video, audio = video[:rows], audio[:rows].to(video)
    padded = torch.nn.functional.pad(audio, (0, 0, vshift, vshift), value=padding)
    columns = [
        torch.linalg.vector_norm(video - padded[shift : shift + rows] + 1e-6, dim=1)
        for shift in range(2 * vshift + 1)
    ]
    return torch.stack(columns, dim=1)


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
        ``(V,)`` float32; the median over the shifts minus the distance of the frame.
    """
    means = torch.nanmean(distances, dim=0)
    best = int(torch.argmin(means))
    raw = (torch.median(means) - distances[:, best]).to("cpu", torch.float32).numpy()
    return median_filter(raw, MEDIAN_WINDOW).astype(np.float32)


def median_filter(values: npt.NDArray[np.floating], size: int) -> npt.NDArray[np.floating]:
    """Running median of odd ``size`` with zeros beyond both ends (``scipy.signal.medfilt``), any length."""
    padded = np.pad(values, size // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, size), axis=-1)
