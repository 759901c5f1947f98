"""Training data that makes itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lipsync.data.generation import GenerationDataset
from lipsync.data.synthetic_datamodule import SyntheticData


def test_corpus_is_made_once_and_trains(tmp_path: Path) -> None:
    windows = partial(GenerationDataset, min_reference_gap=5)
    data = SyntheticData(
        str(tmp_path), windows=windows, clips=4, speakers=2, seconds=1.2, batch_size=2, num_workers=0
    )
    data.prepare_data()
    report = data.root / "report.json"
    written = report.stat().st_mtime_ns
    data.prepare_data()
    assert report.stat().st_mtime_ns == written
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch.faces.shape == (2, 6, 5, 96, 96)
    assert not {clip.name for clip in data.train_set.clips} & {c.name for c in data.val_sets["val"].clips}
