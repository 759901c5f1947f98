"""The sound synthetic corpus, drawn once."""

from __future__ import annotations

import pytest
from wrong_corpora import Corpus, drawn_corpus


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return drawn_corpus()
