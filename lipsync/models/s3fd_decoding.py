"""From S3FD maps to face boxes, by the rules of the two forks (see :mod:`lipsync.models.s3fd`).

Each location of level l predicts offsets to one square anchor of side 4 s centred in its cell, where s is
2 ** (l + 2) pixels (Zhang et al., ICCV 2017, section 3.1). Detections are ``(n, 5)`` float32 arrays
``x1, y1, x2, y2, score``, best first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipsync.models.nms import nms

Detections = npt.NDArray[np.float32]

_VARIANCES = (0.1, 0.2)


def decode_wav2lip(
    maps: Sequence[Tensor],
    *,
    candidate_score: float = 0.05,
    nms_threshold: float = 0.3,
    min_score: float = 0.5,
) -> list[Detections]:
    """Faces of each image by the rule of Wav2Lip and face_alignment.

    Args:
        maps: The 12 maps of :class:`~lipsync.models.s3fd.S3FD` for a batch of B images.
        candidate_score: Locations above it take part in non-maximum suppression.
        nms_threshold: Overlap above which the lower-scoring box is dropped ("+1 pixel" convention).
        min_score: Survivors above it are faces.

    Returns:
        B arrays of detections in pixels of the network's input, not clipped to it.
    """
    scores = _face_scores(maps)
    anchors = _anchors(_map_sizes(maps)).to(scores.device)
    boxes = _apply_offsets(anchors, _flat(maps[1::2]))
    return [
        _select(image_boxes, image_scores, candidate_score, nms_threshold, min_score)
        for image_boxes, image_scores in zip(boxes, scores, strict=True)
    ]


def wav2lip_rect(detections: Detections) -> tuple[int, int, int, int] | None:
    """The rectangle that Wav2Lip crops: the best box, cut off at 0 and truncated to whole pixels.

    Args:
        detections: ``(n, 5)``, best first.

    Returns:
        ``x1, y1, x2, y2``, or None without a detection.
    """
    if len(detections) == 0:
        return None
    x1, y1, x2, y2 = (int(value) for value in np.maximum(detections[0, :4], 0))
    return x1, y1, x2, y2


def decode_syncnet_python(
    maps: Sequence[Tensor],
    height: int,
    width: int,
    *,
    candidate_score: float = 0.05,
    nms_threshold: float = 0.3,
    top_candidates: int = 5000,
    top_detections: int = 750,
) -> list[Detections]:
    """Faces of each image by the rule of syncnet_python.

    Args:
        maps: The 12 maps of :class:`~lipsync.models.s3fd.S3FD` for a batch of B images.
        height: Of the network's input, in pixels.
        width: Of the network's input, in pixels.
        candidate_score: Locations above it take part in non-maximum suppression.
        nms_threshold: Overlap above which the lower-scoring box is dropped (without "+1 pixel").
        top_candidates: At most so many candidates take part.
        top_detections: At most so many survivors are returned.

    Returns:
        B arrays of detections relative to the input's size (multiply by the original image's), not clipped.
    """
    scores = _face_scores(maps)
    anchors = normalised_priors(_map_sizes(maps), height, width).to(scores.device)
    boxes = _apply_offsets(anchors, _flat(maps[1::2]))
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        candidates = _candidates(image_boxes, image_scores, candidate_score)[:top_candidates]
        keep = nms(candidates, nms_threshold)[:top_detections]
        found.append(candidates[keep])
    return found


def normalised_priors(map_sizes: Sequence[tuple[int, int]], height: int, width: int) -> Tensor:
    """Anchors of all levels relative to an image of ``height`` x ``width`` pixels.

    Args:
        map_sizes: (rows, columns) of each level's map.
        height: Of the network's input, in pixels.
        width: Of the network's input, in pixels.

    Returns:
        ``(P, 4)`` float32: centre x, centre y, width, height.
    """
    size = torch.tensor((width, height, width, height), dtype=torch.float64)
    return (_anchors(map_sizes).double() / size).float()


def _select(
    boxes: Tensor, scores: Tensor, candidate_score: float, nms_threshold: float, min_score: float
) -> Detections:
    candidates = _candidates(boxes, scores, candidate_score)
    kept = candidates[nms(candidates, nms_threshold, plus_one=True)]
    return kept[kept[:, 4] > min_score]


def _candidates(boxes: Tensor, scores: Tensor, min_score: float) -> Detections:
    """``(n, 5)`` boxes above ``min_score``, best first; filtered before they leave the device."""
    above = scores > min_score
    rows = torch.cat((boxes[above], scores[above, None]), dim=1).cpu().numpy()
    ordered: Detections = rows[np.argsort(-rows[:, 4], kind="stable")]
    return ordered


def _map_sizes(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(scores.shape[2], scores.shape[3]) for scores in maps[::2]]


def _flat(maps: Sequence[Tensor]) -> Tensor:
    """Maps ``(B, C, h, w)`` of all levels -> ``(B, P, C)`` float32, levels then rows then columns."""
    return torch.cat([level.float().flatten(2).transpose(1, 2) for level in maps], dim=1)


def _face_scores(maps: Sequence[Tensor]) -> Tensor:
    return _flat(maps[::2]).softmax(dim=2)[..., 1]


def _anchors(map_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """``(P, 4)`` float32 pixels: centre x, centre y, width, height."""
    levels = []
    for level, (rows, columns) in enumerate(map_sizes):
        stride = 2.0 ** (level + 2)
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        side = torch.full_like(x, 4 * stride)
        levels.append(torch.stack((x * stride, y * stride, side, side), dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def _apply_offsets(anchors: Tensor, offsets: Tensor) -> Tensor:
    """Anchors ``(P, 4)`` moved and stretched by ``(B, P, 4)`` -> corners ``(B, P, 4)``."""
    centers = anchors[:, :2] + offsets[..., :2] * _VARIANCES[0] * anchors[:, 2:]
    half = anchors[:, 2:] * torch.exp(offsets[..., 2:] * _VARIANCES[1]) / 2
    return torch.cat((centers - half, centers + half), dim=-1)
