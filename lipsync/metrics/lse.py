"""Mean sync score over clips as a torchmetrics metric, exact under data-parallel evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lipsync.metrics.functional import VSHIFT, Features, SyncScore, lse


class LSE(Metric):
    """LSE-D, LSE-C and offset, averaged over clips; every clip weighs the same.

    States are sums and a count, so the result over several processes is that of one process.

    Args:
        vshift: Largest shift looked at, in frames.
        kwargs: Of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = LSE()
        >>> metric.update(torch.randn(60, 1024), torch.randn(60, 1024))
        >>> sorted(metric.compute())
        ['clips', 'lse_c', 'lse_d', 'offset', 'offset_within_1']
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    total: Tensor
    clips: Tensor

    def __init__(self, vshift: int = VSHIFT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vshift = vshift
        # distance, confidence, offset and whether |offset| <= 1, summed over clips
        self.add_state("total", default=torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, video: Features | SyncScore, audio_features: Features | None = None) -> None:
        """Add one clip.

        Args:
            video: Features ``(V, D)``, or the finished score of a clip.
            audio_features: ``(A, D)``; None with a finished score.

        Raises:
            ValueError: Features of one kind only, or of wrong shape.
        """
        if isinstance(video, SyncScore):
            score = video
        elif audio_features is None:
            raise ValueError("audio_features are missing")
        else:
            score = lse(video, audio_features, self.vshift)
        row = [score.distance, score.confidence, float(score.offset), float(abs(score.offset) <= 1)]
        self.total += self.total.new_tensor(row)
        self.clips += 1

    def compute(self) -> dict[str, Tensor]:
        """Means over the clips, and their number ``clips``; without clips the means are nan.

        ``offset_within_1`` is the share of clips with ``|offset| <= 1``.
        """
        means = self.total / self.clips
        found = dict(zip(("lse_d", "lse_c", "offset", "offset_within_1"), means, strict=True))
        return found | {"clips": self.clips.clone()}
