"""Which draw a worker computes: reproducible on any number of ranks and workers, resumable at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from lipsync.audio.spec import SYNC_FRAMES
from lipsync.data.base_clip import BaseClip
from lipsync.errors import DataError


class DrawSampler(Sampler[int]):
    """Numbers the draws of a run; rank ``r`` of ``n`` takes every ``n``-th one.

    A data set computes its item from the draw number alone, so an item does not depend on the worker that
    computes it. Every iteration (epoch) goes on where training really is, wherever the one before stopped.

    Args:
        length: Draws of one iteration over all ranks; rounded up to a multiple of ``world_size``.
        rank: This process.
        world_size: Number of processes.
        position: Draws this rank has trained on so far, asked at the start of each iteration; by default
            every iteration repeats the first draws (validation).
    """

    def __init__(
        self,
        length: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        self.per_rank = -(-length // world_size)
        self.rank, self.world_size, self.position = rank, world_size, position

    def __len__(self) -> int:
        """Draws of one iteration on this rank."""
        return self.per_rank

    def __iter__(self) -> Iterator[int]:
        """The draw numbers of this rank, ascending."""
        first = self.position()
        return (self.rank + self.world_size * draw for draw in range(first, first + self.per_rank))


def speaker_weights(clips: Sequence[BaseClip], exponent: float) -> npt.NDArray[np.float64]:
    """Probability of drawing each clip so that a speaker's share is proportional to ``clips ** exponent``.

    Args:
        clips: Their folder (``speaker/id``) names the speaker.
        exponent: 1 draws clips uniformly, 0 draws speakers uniformly.

    Returns:
        ``(len(clips),)`` probabilities that sum to 1.
    """
    speakers = [clip.name.rpartition("/")[0] for clip in clips]
    _, inverse, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    weights = counts[inverse] ** (exponent - 1.0)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def clips_with_partners(
    clips: Sequence[BaseClip], gap: int, mel_shift: int = -1
) -> tuple[list[BaseClip], list[npt.NDArray[np.int64]]]:
    """The clips in which every window has another one at least ``gap`` frames away.

    Args:
        clips: Preprocessed clips.
        gap: Frames between the starts of two windows.
        mel_shift: Of the speech segments of single frames, see :meth:`BaseClip.window_starts`.

    Returns:
        The clips kept and the window starts of each.

    Raises:
        DataError: No clip is long enough.
    """
    kept, starts = [], []
    for clip in clips:
        at = clip.window_starts(SYNC_FRAMES, mel_shift)
        # A span of twice the gap leaves a partner at one end of the clip for every window.
        if len(at) and at[-1] - at[0] >= 2 * gap:
            kept.append(clip)
            starts.append(at)
    if not kept:
        raise DataError(
            f"none of {len(clips)} clips holds two windows of {SYNC_FRAMES} frames {gap} frames apart; "
            "preprocess longer clips"
        )
    return kept, starts
