"""Draw numbers and speaker shares."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lipsync.data.sampling import DrawSampler, clips_with_partners, speaker_weights
from lipsync.errors import DataError


def _clip(name: str, starts: list[int] | None = None) -> Any:
    return SimpleNamespace(
        name=name, window_starts=lambda length, shift: np.array(starts or [], dtype=np.int64)
    )


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_draws_without_overlap(world_size: int) -> None:
    per_rank = -(-10 // world_size)
    draws: list[int] = []
    for iteration in range(3):
        for rank in range(world_size):
            sampler = DrawSampler(10, rank, world_size, position=lambda done=iteration * per_rank: done)
            assert len(list(sampler)) == len(sampler) == per_rank
            draws += list(sampler)
    assert sorted(draws) == list(range(3 * world_size * per_rank))


def test_an_iteration_goes_on_where_training_is() -> None:
    done = 0
    sampler = DrawSampler(10, rank=1, world_size=2, position=lambda: done)
    assert list(sampler) == [1, 3, 5, 7, 9]
    done = 3  # the run was stopped after three draws of this rank
    assert list(sampler) == [7, 9, 11, 13, 15]


def test_validation_repeats_the_first_draws() -> None:
    sampler = DrawSampler(4)
    assert list(sampler) == list(sampler) == [0, 1, 2, 3]


def test_rank_out_of_range() -> None:
    with pytest.raises(ValueError, match="rank 2"):
        DrawSampler(4, rank=2, world_size=2)


@pytest.mark.parametrize(("exponent", "share"), [(1.0, 0.9), (0.0, 0.5), (0.5, 0.75)])
def test_speaker_share(exponent: float, share: float) -> None:
    clips = [_clip(f"big/{i}") for i in range(9)] + [_clip("small/0")]
    weights = speaker_weights(clips, exponent)
    assert weights.sum() == pytest.approx(1)
    assert weights[:9].sum() == pytest.approx(share)


def test_clips_without_partner_windows_are_left_out() -> None:
    kept, starts = clips_with_partners(
        [_clip("a/0", [1, 2, 3]), _clip("a/1", [1, 6, 11]), _clip("a/2")], gap=5
    )
    assert [clip.name for clip in kept] == ["a/1"]
    assert starts[0].tolist() == [1, 6, 11]
    with pytest.raises(DataError, match="none of 1 clips"):
        clips_with_partners([_clip("a/0", [1, 2])], gap=5)
