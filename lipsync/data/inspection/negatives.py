"""How many negatives of an expert's training are positives in all but name."""

from __future__ import annotations

import numpy as np

from lipsync.data.sync_pairs import SyncPairDataset

NEAR = 3
"""Windows of one clip nearer than this many frames look and sound alike (the contrastive loss's gap)."""


def near_negatives(windows: SyncPairDataset, min_gap: int = NEAR, draws: int = 512) -> float | None:
    """Share of the negatives from the same clip that lie nearer than ``NEAR`` frames to the positive.

    Measured on planned draws (numbers only, nothing is read), from the first on.

    Args:
        windows: The training set.
        min_gap: Contrastive: distance from which the loss takes a window of the same clip for a negative.
        draws: Draws to look at.

    Returns:
        None where none of the draws holds a negative of its own clip.
    """
    gaps: list[np.ndarray] = []
    for draw in range(draws):
        plan = windows.plan(draw)
        frame = plan.frame.numpy()
        if windows.objective == "bce":
            face = windows.clips[int(plan.clip[0])].present[plan.picture.numpy()]
            gaps.append(np.abs(face - frame)[plan.match.numpy() == 0])
        else:
            one, other = np.triu_indices(len(frame), k=1)
            pairs = np.abs(frame[one] - frame[other])
            gaps.append(pairs[pairs >= min_gap])
    joined = np.concatenate(gaps)
    return float((joined < NEAR).mean()) if len(joined) else None
