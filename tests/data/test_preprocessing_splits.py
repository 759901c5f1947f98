"""Which clips train, validate and test where the data has no lists of its own."""

from __future__ import annotations

import pytest

from lipsync.data.preprocessing.splits import hashed_splits


def test_hashed_splits_hold_out_whole_folders() -> None:
    kept = {f"speaker{s}/{i}": [f"speaker{s}/{i}"] for s in range(40) for i in range(5)}
    kept |= {f"big/{i}": [f"big/{i}"] for i in range(100)}
    splits = hashed_splits(kept)
    folders = {split: {name.split("/")[0] for name in names} for split, names in splits.items()}
    assert len(folders["val"]) == len(folders["test"]) == 2
    assert not folders["train"] & folders["val"] | folders["train"] & folders["test"]
    assert "big" in folders["train"]
    assert sum(map(len, splits.values())) == 300
    assert hashed_splits(dict(reversed(kept.items()))) == splits


@pytest.mark.parametrize(
    ("clips", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (60, (54, 3, 3))]
)
def test_hashed_splits_of_one_folder(clips: int, sizes: tuple[int, int, int]) -> None:
    splits = hashed_splits({f"a/{i}": [f"a/{i}"] for i in range(clips)})
    assert tuple(len(splits[split]) for split in ("train", "val", "test")) == sizes


def test_hashed_splits_keep_the_tracks_of_one_video_together() -> None:
    kept = {f"a/{i}": [f"a/{i}_000", f"a/{i}_001"] for i in range(6)}
    for names in hashed_splits(kept).values():
        assert len(names) == 2 * len({name[:-4] for name in names})
    assert [len(names) for names in hashed_splits({"a/1": ["a/1_000", "a/1_001", "a/1_002"]}).values()] == [
        1,
        1,
        1,
    ]
