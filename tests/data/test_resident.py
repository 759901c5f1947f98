"""The same draws from clip folders, from a pack and from memory; offsets of speech; options of windows."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipsync.audio.windows import mel_window, training_start
from lipsync.data.clip_writer import ClipWriter
from lipsync.data.datamodule import LipSyncData, load_clips, read_offsets
from lipsync.data.filelist import write_filelist
from lipsync.data.generation import GenerationDataset
from lipsync.data.pack import pack_folder
from lipsync.data.pack_writer import write_pack
from lipsync.data.sync_pairs import SyncPairDataset
from lipsync.errors import ConfigError, DataError

SYNC = partial(SyncPairDataset, windows_per_clip=4)
OPTIONS = [
    SYNC,
    partial(SyncPairDataset, windows_per_clip=4, augment=False),
    partial(SyncPairDataset, objective="bce"),
    GenerationDataset,
    partial(GenerationDataset, flip=True, crop_margin=0.05, mel_mask=True, other_speech=2),
    partial(GenerationDataset, reference="silent", mel_shift=0),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of noise, one with a gap and one too short, as folders and as packs."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    names = [f"s{i // 2}/c{i}" for i in range(5)]
    for i, name in enumerate(names):
        frames = 8 if i == 1 else 40
        with ClipWriter(root / f"{name}.part") as writer:
            for f in range(frames):
                if not (i == 0 and f == 20):
                    writer.write(f, rng.integers(0, 256, (50, 60, 3), dtype=np.uint8), (0, 0, 60, 50))
            loudness = np.repeat(rng.uniform(0.001, 0.3, frames), 640).astype(np.float32)
            wave = rng.standard_normal(frames * 640).astype(np.float32) * loudness
            writer.commit(root / name, wave, frames, {})
    for split, members in (("train", names[:4]), ("val", names[4:])):
        write_filelist(root / "filelists" / f"{split}.txt", members)
        write_pack(load_clips(root, split), pack_folder(root, split, 96), 96)
    return root


def data(root: Path, windows: Any, **settings: Any) -> LipSyncData:
    made = LipSyncData(str(root), windows, batch_size=8, num_workers=0, epoch_draws=16, **settings)
    with pytest.warns(UserWarning, match="train: 1 clips are too short"):
        made.setup("fit")
    return made


def batches(made: LipSyncData) -> list[Any]:
    return [made.on_after_batch_transfer(batch, 0) for batch in made.train_dataloader()]


def assert_same(some: list[Any], others: list[Any]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        for name, a, b in zip(one._fields, one, other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b), name


@pytest.mark.parametrize("windows", OPTIONS)
def test_every_storage_gives_the_same_batches(root: Path, windows: Any) -> None:
    folders = batches(data(root, windows, storage="clips", resident=False))
    assert_same(folders, batches(data(root, windows, storage="pack", resident=False)))
    assert_same(folders, batches(data(root, windows, storage="auto", resident="auto")))
    assert_same(folders, batches(data(root, windows, storage="clips", resident=True)))


def test_a_resident_loader_hands_out_numbers(root: Path) -> None:
    made = data(root, SYNC)
    plan = next(iter(made.train_dataloader()))
    assert plan.picture.shape == plan.column.shape == (8,)
    assert data(root, SYNC, resident=False).train_dataloader().dataset[0].face.shape == (4, 5, 96, 96, 3)


def test_validation_uses_its_own_clips(root: Path) -> None:
    made = data(root, SYNC)
    loaders = made.val_dataloader()
    sample = made.val_sets["val"].gather(next(iter(loaders[0])), made._stores["val"])
    plain = data(root, SYNC, storage="clips", resident=False)
    assert torch.equal(sample.face, plain.val_sets["val"][0].face)
    assert sample.face.shape[2:] == (48, 96, 3)


def test_choices_are_checked(root: Path) -> None:
    with pytest.raises(ConfigError, match="storage=zip: choose one of auto, clips, pack"):
        LipSyncData(str(root), SYNC, storage="zip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="resident=often"):
        LipSyncData(str(root), SYNC, resident="often")  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [-4, 6])
def test_an_offset_moves_the_speech(root: Path, offset: int) -> None:
    clips = [clip for clip in load_clips(root, "train") if clip.length == 40]
    dataset = SyncPairDataset(clips, True, windows_per_clip=4, augment=False)
    dataset.set_offsets({clip.name: offset for clip in clips})
    for draw in range(20):
        sample = dataset[draw]
        clip = clips[int(sample.clip[0])]
        for frame, mel in zip(sample.frame.tolist(), sample.mel, strict=True):
            assert np.array_equal(mel, mel_window(clip.mel(), training_start(frame + offset)))
    frames = {f for draw in range(200) for f in dataset.plan(draw).frame.tolist()}
    assert min(frames) == max(0, -offset)
    assert dataset.offsets == {clip.name: offset for clip in clips}


def test_a_generator_s_segments_move_too(root: Path) -> None:
    clips = [clip for clip in load_clips(root, "train") if clip.length == 40][1:2]
    plain, moved = (GenerationDataset(clips, True) for _ in range(2))
    moved.set_offsets({clips[0].name: 5})
    for draw in range(30):
        plan = moved.plan(draw)
        first = clips[0].present[int(plan.target)]
        assert plan.columns[0] == training_start(int(first) - 1 + 5)
        assert plan.columns[5] == training_start(int(first) + 5)
        assert plan.columns.max() + 16 <= clips[0].mel_steps
    assert plain.offsets == {}


def test_a_clip_left_out_is_not_drawn_and_comes_back(root: Path) -> None:
    clips = load_clips(root, "train")
    dataset = SyncPairDataset(clips, True)
    before = [int(dataset.plan(draw).clip[0]) for draw in range(50)]
    assert set(before) == {0, 1, 2}
    dataset.set_offsets({dataset.clips[1].name: None})
    assert {int(dataset.plan(draw).clip[0]) for draw in range(50)} == {0, 2}
    assert dataset.offsets == {dataset.clips[1].name: None}
    dataset.set_offsets({})
    assert [int(dataset.plan(draw).clip[0]) for draw in range(50)] == before
    with pytest.raises(DataError, match="no clip"):
        dataset.set_offsets({clip.name: None for clip in clips})
    with pytest.raises(DataError, match=r"of other clips \(elsewhere/1, \.\.\.\)"):
        dataset.set_offsets({"elsewhere/1": 3})


def test_running_workers_see_new_offsets(root: Path) -> None:
    made = LipSyncData(
        str(root), SYNC, batch_size=8, num_workers=1, epoch_draws=16, storage="clips", resident=False
    )
    with pytest.warns(UserWarning, match="too short"):
        made.setup("fit")
    loader = made.train_dataloader()
    first = torch.cat([batch.clip for batch in loader])
    assert len(first.unique()) == 3
    made.train_set.set_offsets({made.train_set.clips[0].name: None})
    assert 0 not in torch.cat([batch.clip for batch in loader]).tolist()


def test_offsets_from_a_file(root: Path, tmp_path: Path) -> None:
    table = {"s0/c0": 3, "s1/c2": None}
    (tmp_path / "offsets.json").write_text(json.dumps(table))
    assert data(root, SYNC, offsets=str(tmp_path / "offsets.json")).train_set.offsets == table
    for text in ("[1]", "{", '{"s0/c0": 1.5}', '{"s0/c0": true}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=r"bad\.json"):
            read_offsets(tmp_path / "bad.json")
    with pytest.raises(DataError, match=r"none\.json"):
        read_offsets(tmp_path / "none.json")


def test_a_silent_reference_is_the_quietest_partner(root: Path) -> None:
    clips = [load_clips(root, "train")[3]]
    dataset = GenerationDataset(clips, True, reference="silent")
    mel, starts = clips[0].mel(), dataset.starts[0]
    loud = {int(s): mel_window(mel, training_start(int(s))).sum() for s in starts}
    for draw in range(20):
        plan = dataset.plan(draw)
        target, reference = (int(clips[0].present[int(at)]) for at in (plan.target, plan.reference))
        partners = [s for s in loud if abs(s - target) >= 5]
        assert loud[reference] == pytest.approx(min(loud[s] for s in partners), abs=1e-3)
    with pytest.raises(ValueError, match="choose random or silent"):
        GenerationDataset(clips, True, reference="loud")  # type: ignore[arg-type]


def test_options_change_what_they_name(root: Path) -> None:
    clips = load_clips(root, "train")

    def batch(**options: Any) -> Any:
        dataset = GenerationDataset(clips, True, **options)
        return dataset.assemble(dataset.collate([dataset[draw] for draw in range(8)]))

    def mirrored(some: Any, others: Any) -> list[bool]:
        """Which pictures are mirrored; the others are the same."""
        pairs = list(zip(some, others, strict=True))
        same = [torch.allclose(a, b, atol=1e-3) for a, b in pairs]
        turned = [torch.allclose(a, b.flip(-1), atol=1e-3) for a, b in pairs]
        assert all(t != s for t, s in zip(turned, same, strict=True))
        return turned

    plain, flipped, masked = batch(), batch(flip=True), batch(mel_mask=True)
    assert 0 < sum(mirrored(plain.target, flipped.target)) < 8
    assert mirrored(plain.target, flipped.target) == mirrored(plain.faces[:, 3:], flipped.faces[:, 3:])
    assert torch.equal(plain.target, masked.target)
    assert torch.equal(plain.mel, masked.mel)  # the expert hears everything
    assert (masked.mels == -4).all(dim=-1).sum(dim=-1).min() >= 8
    apart = batch(crop_margin=0.05)
    assert not torch.allclose(apart.target, plain.target, atol=1e-2)
    assert apart.faces[:, :3, :, 48:].abs().max() == 0  # masked after it was moved
    assert plain.other_mels is None
    assert batch(other_speech=3).other_mels.shape == (8, 3, 1, 80, 16)
    held = GenerationDataset(clips, False, flip=True, crop_margin=0.05, mel_mask=True, other_speech=3)
    assert held.plan(0).augment.numel() == 0
    assert len(held.plan(0).columns) == 7
