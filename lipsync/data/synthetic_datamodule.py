"""Training data that needs nothing: the synthetic corpus, made and preprocessed on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipsync.data.datamodule import LipSyncData
from lipsync.data.preprocessing.runner import preprocess
from lipsync.data.synthetic import make_corpus
from lipsync.faces.annotated import AnnotatedDetector


class SyntheticData(LipSyncData):
    """A :class:`LipSyncData` over drawn talking faces.

    Args:
        root: Folder to make the corpus in (``raw/`` and ``preprocessed/``); reused when it is complete.
        clips: Clips to draw.
        speakers: Looks and voices; the last are held out.
        seconds: Length of a clip.
        corpus_seed: Chooses everything random in the corpus.
        **settings: Further settings of :class:`LipSyncData`.
    """

    def __init__(
        self,
        root: str,
        *,
        clips: int = 72,
        speakers: int = 12,
        seconds: float = 3.0,
        corpus_seed: int = 0,
        **settings: Any,
    ) -> None:
        folder = Path(root) / f"{clips}x{seconds:g}s_{speakers}speakers_seed{corpus_seed}"
        super().__init__(str(folder / "preprocessed"), **settings)
        self.raw = folder / "raw"
        self.corpus: dict[str, Any] = {
            "clips": clips,
            "speakers": speakers,
            "seconds": seconds,
            "seed": corpus_seed,
        }

    def prepare_data(self) -> None:
        """Draw and preprocess; an interrupted run is completed, a complete one is left as it is."""
        if (self.root / "report.json").is_file():
            return
        make_corpus(self.raw, **self.corpus)
        preprocess(self.raw, self.root, AnnotatedDetector)
