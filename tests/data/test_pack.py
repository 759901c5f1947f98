"""Packs: the same numbers as the clips, and never a stale, damaged or half-written one."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lipsync.data import pack_writer
from lipsync.data.clip import Clip
from lipsync.data.clip_writer import ClipWriter
from lipsync.data.filelist import write_filelist
from lipsync.data.pack import Pack, load_pack, pack_folder
from lipsync.data.pack_writer import pack_splits, write_pack
from lipsync.data.preprocessing.engine import LocalEngine
from lipsync.errors import ConfigError, DataError, MediaError, UserError
from lipsync.media.waveform import save_wav

SIZE = 32
GAPS = [0, 1, 2, 5, 6, 7, 8, 9, 15, 16]


def add_clip(root: Path, name: str, present: list[int], seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    with ClipWriter(root / f"{name}.part") as writer:
        for index in present:
            height, width = (int(side) for side in rng.integers(30, 50, 2))
            image = cv2.resize(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8), (width, height))
            writer.write(index, np.asarray(image, np.uint8), (0, 0, width, height))
        frames = present[-1] + 2
        sound = (rng.standard_normal(frames * 640) * 0.1).astype(np.float32)
        writer.commit(root / name, sound, frames, {"seed": seed})
    return Clip(root / name, name)


def make_root(root: Path) -> list[Clip]:
    layout = {"a/1": list(range(12)), "b/x/2": GAPS, "a/3": [4], "Zoë/語": list(range(3, 300))}
    clips = [add_clip(root, name, present, seed) for seed, (name, present) in enumerate(layout.items())]
    write_filelist(root / "filelists" / "train.txt", [clip.name for clip in clips])
    write_filelist(root / "filelists" / "val.txt", [clips[1].name])
    return clips


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return make_root(tmp_path / "root")


@pytest.fixture
def root(clips: list[Clip], tmp_path: Path) -> Path:
    pack_splits(tmp_path / "root", ["train", "val"], SIZE)
    return tmp_path / "root"


def edited(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    (folder / "index.json").write_text(json.dumps({**index, **changes}), encoding="utf-8")


def one_line(error: pytest.ExceptionInfo[UserError], *parts: object) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


def test_packed_clips_are_bit_identical_to_the_clips(root: Path, clips: list[Clip]) -> None:
    pack = load_pack(root, "train", SIZE)
    assert (pack.size, len(pack.clips)) == (SIZE, 4)
    assert pack.frames.shape == (sum(len(clip.present) for clip in clips), SIZE, SIZE, 3)
    assert (pack.frames.dtype, pack.mels.dtype) == (np.uint8, np.float32)
    for packed, clip in zip(pack.clips, clips, strict=True):
        assert (packed.name, packed.length, packed.mel_steps) == (clip.name, clip.length, clip.mel_steps)
        np.testing.assert_array_equal(packed.present, clip.present)
        np.testing.assert_array_equal(packed.window_starts(), clip.window_starts())
        shuffled = np.random.default_rng(0).permutation(clip.present)
        np.testing.assert_array_equal(packed.frames(shuffled, SIZE), clip.frames(shuffled, SIZE))
        rows = np.array([[0, 0], [len(clip.present) - 1, 0]])
        pictures = clip.frames(clip.present[rows.ravel()], SIZE).reshape(2, 2, SIZE, SIZE, 3)
        np.testing.assert_array_equal(packed.pictures(rows, SIZE), pictures)
        np.testing.assert_array_equal(packed.mel(), clip.mel())
        np.testing.assert_array_equal(packed.waveform(), clip.waveform())


def test_rows_and_columns_place_each_clip(root: Path, clips: list[Clip]) -> None:
    pack = load_pack(root, "train", SIZE)
    for packed, clip in zip(pack.clips, clips, strict=True):
        rows = pack.frames[packed.first_row : packed.first_row + len(clip.present)]
        np.testing.assert_array_equal(rows, clip.frames(clip.present, SIZE))
        columns = pack.mels[packed.first_column : packed.first_column + packed.mel_steps]
        np.testing.assert_array_equal(columns.T, clip.mel())


def test_frames_are_a_copy_and_maps_are_read_only(root: Path) -> None:
    clip = load_pack(root, "train", SIZE).clips[0]
    clip.frames([0], SIZE)[:] = 7
    assert (clip.frames([0], SIZE) != 7).any()
    with pytest.raises(ValueError, match="read-only"):
        clip.mel()[:] = 0


@pytest.mark.slow  # starts processes
def test_workers_and_a_second_run_give_the_same_bytes(root: Path, clips: list[Clip]) -> None:
    folder = pack_folder(root, "train", SIZE)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    seen: list[tuple[int, int]] = []
    write_pack(
        clips, folder, SIZE, lambda done, total, _name: seen.append((done, total)), runner=LocalEngine(2)
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(path.name for path in folder.parent.iterdir()) == [f"train_{SIZE}", f"val_{SIZE}"]


def test_a_second_run_gives_the_same_bytes_and_progress(root: Path, clips: list[Clip]) -> None:
    folder = pack_folder(root, "train", SIZE)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    seen: list[tuple[int, int, str]] = []
    write_pack(clips, folder, SIZE, lambda done, total, name: seen.append((done, total, name)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert seen == [(done, 4, clip.name) for done, clip in enumerate(clips, start=1)]


def test_a_pickled_clip_carries_no_pictures(root: Path) -> None:
    pack = load_pack(root, "train", SIZE)
    content = pickle.dumps(pack.clips)
    assert len(content) < 2000
    again = pickle.loads(content)  # noqa: S301 - made above
    assert again[0].pack is again[3].pack
    np.testing.assert_array_equal(again[3].frames([9, 4], SIZE), pack.clips[3].frames([9, 4], SIZE))


def test_another_size_or_a_frame_without_face(root: Path) -> None:
    clip = load_pack(root, "train", SIZE).clips[1]
    with pytest.raises(DataError) as error:
        clip.frames([0], 96)
    one_line(error, f"train_{SIZE}", f"packed at size {SIZE}", "pack again at size 96")
    for lost in (3, 17, -1):
        with pytest.raises(DataError, match=rf"b/x/2 has no picture of frame {lost}$"):
            clip.frames([0, lost], SIZE)


def test_the_layout_of_the_original(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, rate in (("s/1", 44100), ("s/2", 22050), ("s/3", 48000)):
        (tmp_path / name).mkdir(parents=True)
        for index in range(25):
            cv2.imwrite(str(tmp_path / name / f"{index}.jpg"), rng.integers(0, 256, (30, 20, 3), np.uint8))
        sound = rng.uniform(-0.1, 0.1, rate + len(name) * 31).astype(np.float32)
        save_wav(tmp_path / name / "audio.wav", sound, rate)
    write_filelist(tmp_path / "filelists" / "train.txt", ["s/1", "s/2", "s/3"])
    assert pack_splits(tmp_path, ["train"], SIZE) == ["train"]
    for packed in load_pack(tmp_path, "train", SIZE).clips:
        clip = Clip(tmp_path / packed.name)
        np.testing.assert_array_equal(packed.frames(range(25), SIZE), clip.frames(range(25), SIZE))
        np.testing.assert_array_equal(packed.mel(), clip.mel())
        assert packed.mel_steps == packed.mel().shape[1]


def test_a_pack_stands_without_its_clips_and_moves_with_them(root: Path, tmp_path: Path) -> None:
    expected = load_pack(root, "train", SIZE).clips[0].waveform()
    moved = shutil.copytree(root, tmp_path / "copied", copy_function=shutil.copyfile)  # other times of change
    shutil.rmtree(root)
    pack = load_pack(moved, "train", SIZE)
    assert pack.clips[0].path == moved / "a/1"
    np.testing.assert_array_equal(pack.clips[0].waveform(), expected)
    shutil.rmtree(moved / "a")
    clip = load_pack(moved, "train", SIZE).clips[0]
    assert clip.frames([0], SIZE).shape == (1, SIZE, SIZE, 3)
    with pytest.raises(MediaError, match=r"audio\.wav"):
        clip.waveform()


def test_packs_on_another_disk_behind_a_link(root: Path, tmp_path: Path) -> None:
    (root / "pack").rename(tmp_path / "elsewhere")
    (root / "pack").symlink_to(tmp_path / "elsewhere")
    assert load_pack(root, "train", SIZE).clips[0].waveform().size


def test_a_changed_file_list(root: Path) -> None:
    write_filelist(root / "filelists" / "val.txt", ["a/1"])
    with pytest.raises(DataError) as error:
        load_pack(root, "val", SIZE)
    one_line(error, f"val_{SIZE}", "val.txt", "pack again")
    assert pack_splits(root, ["train", "val"], SIZE) == ["val"]
    assert [clip.name for clip in load_pack(root, "val", SIZE).clips] == ["a/1"]


@pytest.mark.parametrize("change", ["other pictures", "sound of the same length"])
def test_changed_clips(root: Path, change: str) -> None:
    if change == "other pictures":
        shutil.rmtree(root / "a/1")
        add_clip(root, "a/1", list(range(12)), seed=9)
    else:
        save_wav(root / "a/1/audio.wav", np.roll(Clip(root / "a/1").waveform(), 640), 16000)
    with pytest.raises(DataError) as error:
        load_pack(root, "train", SIZE)
    one_line(error, f"train_{SIZE}", root / "a/1", "pack again")
    assert Pack(pack_folder(root, "train", SIZE), verify=False).size == SIZE
    assert pack_splits(root, ["train", "val"], SIZE) == ["train"]
    np.testing.assert_array_equal(load_pack(root, "train", SIZE).clips[0].mel(), Clip(root / "a/1").mel())


def test_up_to_date_packs_stay_unless_overwritten(root: Path) -> None:
    stamp = (pack_folder(root, "val", SIZE) / "index.json").stat().st_ino
    assert pack_splits(root, ["train", "val"], SIZE) == []
    assert (pack_folder(root, "val", SIZE) / "index.json").stat().st_ino == stamp
    assert pack_splits(root, ["val"], SIZE, overwrite=True) == ["val"]
    assert pack_splits(root, ["val"], 48) == ["val"]
    assert load_pack(root, "val", 48).frames.shape == (len(GAPS), 48, 48, 3)


def test_no_pack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train_96: no pack here; pack the clips"):
        Pack(pack_folder(tmp_path, "train", 96))


@pytest.mark.parametrize("damage", ["version", "json", "key", "cut frames", "no mels", "zeros", "rows"])
def test_damaged_packs(root: Path, damage: str) -> None:
    folder = pack_folder(root, "train", SIZE)
    frames, mels, index = folder / "frames.npy", folder / "mels.npy", folder / "index.json"
    match damage:
        case "version":
            edited(folder, version=2)
        case "json":
            index.write_bytes(index.read_bytes()[:-9])
        case "key":
            edited(folder, clips=[{"name": "a/1"}])
        case "cut frames":
            os.truncate(frames, frames.stat().st_size - 1)
        case "no mels":
            mels.unlink()
        case "zeros":
            mels.write_bytes(b"")
        case "rows":
            edited(folder, rows=11)
    with pytest.raises(DataError) as error:
        load_pack(root, "train", SIZE)
    named = frames if damage in ("cut frames", "rows") else mels if damage in ("no mels", "zeros") else index
    one_line(error, named, "pack again")
    assert pack_splits(root, ["train"], SIZE) == ["train"]
    assert len(load_pack(root, "train", SIZE).clips) == 4


def test_a_damaged_clip_stops_packing_and_leaves_the_old_pack(root: Path) -> None:
    (root / "a/1/00005.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError) as error:
        pack_splits(root, ["train"], SIZE, overwrite=True)
    one_line(error, root / "a/1/00005.jpg", "not a readable picture")
    assert len(load_pack(root, "train", SIZE).clips) == 4
    assert not list(root.rglob("*.part"))


def test_sound_longer_than_stated(root: Path) -> None:
    manifest = root / "a/1/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "samples": 3200}))
    with pytest.raises(DataError) as error:
        pack_splits(root, ["train"], SIZE)
    one_line(error, root / "a/1", "longer than stated", "preprocess the clip again")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_interrupting_leaves_no_half_pack_and_no_process(
    clips: list[Clip], tmp_path: Path, workers: int
) -> None:
    def interrupt(_done: int, _total: int, _name: str) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "out" / "train_32"
    with pytest.raises(KeyboardInterrupt):
        write_pack(clips, folder, SIZE, interrupt, runner=LocalEngine(workers))
    assert list(folder.parent.iterdir()) == []
    assert not multiprocessing.active_children()


def test_leftovers_of_a_killed_run_are_removed(root: Path, clips: list[Clip]) -> None:
    folder = pack_folder(root, "train", SIZE)
    for leftover in ("part", "old.part"):
        shutil.copytree(folder, folder.with_name(f"{folder.name}.{leftover}"))
    write_pack(clips, folder, SIZE)
    assert not list(root.rglob("*.part"))


def test_too_little_space_is_said_before(clips: list[Clip], tmp_path: Path, monkeypatch: Any) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pack_writer.shutil, "disk_usage", lambda _path: usage(10**9, 0, 3_000_000))
    with pytest.raises(DataError) as error:
        write_pack(clips, tmp_path / "out" / "train_96", 96)
    one_line(error, "train_96", "takes 0.00", "0.003 GB free", "storage=clips")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up(root: Path, clips: list[Clip], monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pack_writer.os, "fsync", full)
    folder = pack_folder(root, "train", SIZE)
    with pytest.raises(DataError) as error:
        write_pack(clips, folder, SIZE)
    one_line(error, folder, "No space left on device", "GB")
    assert not list(root.rglob("*.part"))
    assert len(load_pack(root, "train", SIZE).clips) == 4


def test_what_cannot_be_packed(clips: list[Clip], tmp_path: Path) -> None:
    for size in (0, 95, 4096):
        with pytest.raises(ConfigError, match=f"pack size {size}: give an even number"):
            write_pack(clips, tmp_path / "train_32", size)
    with pytest.raises(DataError, match="no clip to pack"):
        write_pack([], tmp_path / "train_32", SIZE)
    (tmp_path / "train_32").mkdir()
    with pytest.raises(DataError, match="exists and is not a pack"):
        write_pack(clips, tmp_path / "train_32", SIZE)
