"""Stretches against several sounds: each window heard once, and few features held at a time."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipsync.errors import NotScorableError
from lipsync.metrics.functional import sync_distances
from lipsync.metrics.judges import ExpertJudge, SyncNetJudge, _NetworkJudge
from lipsync.metrics.stretches import features, stretch_distances
from lipsync.models.syncnet import SyncNet

WIDTH = 256
"""Numbers in a row of the small judge: 1 kB."""


class Small(SyncNetJudge):
    """SyncNet v2 as a judge in everything but its networks, which are random projections."""

    size = 4

    def __init__(self) -> None:
        _NetworkJudge.__init__(self, nn.Identity())  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(0)
        self.eye = torch.randn(5 * 4 * 4 * 3, WIDTH, generator=generator)
        self.ear = torch.randn(13 * 20, WIDTH, generator=generator)
        self.heard = 0

    def _look(self, block: list[Any]) -> Tensor:
        pixels = torch.from_numpy(np.stack(block)).float().flatten(1)
        return pixels.unfold(0, 5, 1).flatten(1) @ self.eye / 1000

    def _hear(self, windows: Tensor) -> Tensor:
        self.heard += len(windows)
        return windows.flatten(1) @ self.ear / 100


def crops(count: int, seen: Callable[[int], None] = lambda index: None) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for index in range(count):
        seen(index)
        yield rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)


def noise(frames: int, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(frames * 640) * 0.1).astype(np.float32)


def shifts(frames: int, most: int) -> list[np.ndarray]:
    """Views of one array, as the sounds of an evaluation are."""
    padded = np.pad(noise(frames), most * 640)
    return [padded[(most + k) * 640 :][: frames * 640] for k in range(-most, most + 1)]


@pytest.mark.parametrize("padding", [None, float("nan")])
@pytest.mark.parametrize("drop", [0, 1])
def test_every_sound_gets_the_distances_of_its_own(padding: float | None, drop: int) -> None:
    judge = Small()
    sounds = [*shifts(300, 10), noise(200, 2), noise(68, 3), noise(69, 4), noise(400, 5), noise(6)]
    together = stretch_distances(judge, crops(300), sounds, padding=padding, drop=drop)
    for sound, found in zip(sounds, together, strict=True):
        video, audio = features(judge, crops(300), sound)
        rows = len(audio) - drop
        expected = sync_distances(video[:rows], audio[:rows], 15, padding=padding or 0.0)
        assert isinstance(found, Tensor)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_shifts_of_a_sound_are_heard_once() -> None:
    judge, frames = Small(), 1000
    stretch_distances(judge, crops(frames), shifts(frames, 10))
    # the rows of all shifts together, and the first and last of each, which have an end in them
    assert frames <= judge.heard <= frames + 20 + 2 * 21
    judge.heard = 0
    stretch_distances(judge, crops(frames), [noise(frames), noise(frames, 2)])
    assert judge.heard == 2 * (frames - 4)


def test_an_expert_hears_the_same_sound_once(
    fill: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = ExpertJudge(fill(SyncNet(width=0.05, head="contrastive", embedding=16), 0.7))  # type: ignore[arg-type]
    heard: list[int] = []
    hear = judge._hear
    monkeypatch.setattr(judge, "_hear", lambda windows: heard.append(len(windows)) or hear(windows))
    frames = list(np.random.default_rng(0).integers(0, 256, (40, 96, 96, 3), dtype=np.uint8))
    own = noise(40)
    first, second = stretch_distances(judge, frames, [own, own.copy()])
    assert sum(heard) == 36
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def test_a_sound_that_is_too_short_fails_alone() -> None:
    short, fine, none = stretch_distances(Small(), crops(40), [noise(5), noise(40), noise(0)])
    assert isinstance(short, NotScorableError)
    assert str(short) == "sound lasts 5 frames of 40 ms, at least 6 are needed"
    assert isinstance(none, NotScorableError)
    assert isinstance(fine, Tensor)
    assert fine.shape == (36, 31)
    with pytest.raises(NotScorableError, match="only 5 consecutive frames"):
        stretch_distances(Small(), crops(5), [noise(5), noise(40)])


def test_frames_far_behind_the_last_sound_are_not_read() -> None:
    read: list[int] = []
    stretch_distances(Small(), crops(1000, read.append), [noise(100), noise(50)])
    assert len(read) < 250


def held_tensors() -> int:
    """Bytes behind all tensors, garbage of other tests left out."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) is Tensor]
    return sum({part.data_ptr(): part.nbytes() for part in map(Tensor.untyped_storage, tensors)}.values())


@pytest.mark.parametrize("most", [0, 2])
def test_features_held_do_not_grow_with_the_length(most: int) -> None:
    """Ten times as long: beyond the distances, 124 bytes a frame and sound, memory is the same."""
    extra = {}
    for seconds in (40, 400):
        frames, judge, sounds, peak = seconds * 25, Small(), shifts(seconds * 25, most), [0]
        before = held_tensors()

        def measure(
            index: int, frames: int = frames, peak: list[int] = peak, count: int = len(sounds)
        ) -> None:
            if index % (frames // 8) == frames // 8 - 1:
                peak[0] = max(peak[0], held_tensors() - index * 124 * count)

        tracemalloc.start()
        try:
            found = stretch_distances(judge, crops(frames, measure), sounds)
            arrays = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert all(isinstance(item, Tensor) and len(item) == frames - 4 for item in found)
        extra[seconds] = np.array([peak[0] - before, arrays])
    rows = 9000 * WIDTH * 4
    assert (extra[400] - extra[40] < rows / 10).all(), extra
