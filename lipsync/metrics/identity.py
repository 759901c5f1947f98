"""Cosine similarity of face embeddings: CSIM, whether a face is still the same person's.

Embeddings come from :class:`lipsync.faces.recognition.FaceRecognizer`. The number depends on the network: it
can be compared only where that is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

Floats = npt.NDArray[np.float64]


def cosine(embeddings: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """Cosine of each pair of vectors, ``(...,)`` in [-1, 1] for ``(..., D)``; 0 for a vector of zeros.

    Raises:
        ValueError: The shapes differ.
    """
    ours, theirs = np.asarray(embeddings, np.float64), np.asarray(reference, np.float64)
    if ours.shape != theirs.shape or ours.ndim == 0:
        raise ValueError(f"embeddings of {ours.shape} and {theirs.shape} cannot be compared")
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    products = np.sum(ours * theirs, axis=-1)
    return np.clip(products / np.maximum(lengths, np.finfo(np.float64).tiny), -1, 1)


class IdentitySimilarity(Metric):
    """Mean cosine of embeddings of a face and of its reference; exact under data-parallel evaluation.

    Args:
        kwargs: Of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    faces: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("faces", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, embeddings: npt.ArrayLike, reference: npt.ArrayLike) -> None:
        """Add a pair of faces ``(D,)``, or several ``(n, D)``."""
        values = np.atleast_1d(cosine(embeddings, reference))
        self.total += float(values.sum())
        self.faces += values.size

    def compute(self) -> Tensor:
        """Mean over the pairs; nan without any."""
        return self.total / self.faces
