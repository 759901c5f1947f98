from __future__ import annotations

import math

import numpy as np
import pytest

from lipsync.metrics.identity import IdentitySimilarity, cosine


def test_cosine_of_known_vectors():
    assert float(cosine([3, 0], [5, 0])) == pytest.approx(1)
    assert float(cosine([1, 0], [0, 2])) == pytest.approx(0)
    assert float(cosine([1, 1], [1, 0])) == pytest.approx(math.sqrt(0.5))
    assert float(cosine([0, 0], [1, 0])) == 0
    assert cosine(np.ones((4, 3)), -np.ones((4, 3))).tolist() == pytest.approx([-1] * 4)
    with pytest.raises(ValueError, match="cannot be compared"):
        cosine([1, 0], [1, 0, 0])


def test_similarity_is_the_mean_over_faces_whatever_the_grouping():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 7, 16))
    whole, parts = IdentitySimilarity(), IdentitySimilarity()
    whole.update(ours, theirs)
    for pair in zip(ours, theirs, strict=True):
        parts.update(*pair)
    products = np.einsum("nd,nd->n", ours, theirs)
    expected = np.mean(products / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1))
    assert float(whole.compute()) == pytest.approx(expected)
    assert float(parts.compute()) == pytest.approx(expected)
    assert int(parts.faces) == 7
