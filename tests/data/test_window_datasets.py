"""The two window data sets and the DataModule on a small preprocessed root."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lipsync.audio.windows import mel_window, training_start
from lipsync.data.clip_writer import ClipWriter
from lipsync.data.datamodule import LipSyncData, load_clips
from lipsync.data.filelist import write_filelist
from lipsync.data.generation import GenerationDataset
from lipsync.data.sync_pairs import SyncPairDataset
from lipsync.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips whose frame ``f`` is a flat picture of grey ``2 * f`` over ``2 * f + 40``; one has a gap."""
    root = tmp_path_factory.mktemp("preprocessed")
    rng = np.random.default_rng(0)
    names = [f"s{i // 3}/c{i}" for i in range(6)]
    for i, name in enumerate(names):
        frames = 10 if i == 5 else 50
        with ClipWriter(root / f"{name}.part") as writer:
            for f in range(frames):
                if i == 0 and f == 25:
                    continue
                image = np.full((60, 50, 3), 2 * f, dtype=np.uint8)
                image[30:] += 40
                writer.write(f, image, (0, 0, 50, 60))
            wave = rng.standard_normal(frames * 640).astype(np.float32) * 0.1
            writer.commit(root / name, wave, frames, {})
    write_filelist(root / "filelists" / "train.txt", names[:4])
    write_filelist(root / "filelists" / "val.txt", names[4:])
    return root


def test_generation_sample_is_what_it_says(root: Path) -> None:
    clips = load_clips(root, "train")
    dataset = GenerationDataset(clips, train=True, min_reference_gap=5, mel_shift=-1)
    for draw in range(30):
        sample = dataset[draw]
        first = int(sample.target[0, 5, 5, 0]) // 2
        reference = int(sample.reference[0, 5, 5, 0]) // 2
        assert abs(first - reference) >= 5
        grey = sample.target[:, 5, 5, 0].int()
        assert (grey.diff() - 2).abs().max() <= 1  # five consecutive frames, through JPEG
        matching = [
            clip
            for clip in clips
            if torch.equal(
                sample.speech[5], torch.from_numpy(mel_window(clip.mel(), training_start(first)).copy())
            )
        ]
        assert len(matching) == 1
        segment = mel_window(matching[0].mel(), training_start(first + 3 - 1))
        assert np.array_equal(sample.speech[3].numpy(), segment)


def test_generation_batch_masks_the_lower_half(root: Path) -> None:
    dataset = GenerationDataset(load_clips(root, "train"), train=True)
    batch = dataset.assemble(dataset.collate([dataset[0], dataset[1], dataset[2]]))
    assert batch.faces.shape == (3, 6, 5, 96, 96)
    assert batch.mels.shape == (3, 5, 1, 80, 16)
    assert batch.mel.shape == batch.reference_mel.shape == (3, 1, 80, 16)
    assert batch.faces[:, :3, :, 48:].abs().max() == 0
    assert torch.equal(batch.faces[:, :3, :, :48], batch.target[:, :, :, :48])
    assert 0 <= batch.target.min() <= batch.target.max() <= 1


@pytest.mark.parametrize("objective", ["contrastive", "bce"])
def test_sync_draws_depend_on_their_number_alone(root: Path, objective: str) -> None:
    clips = load_clips(root, "train")
    one = SyncPairDataset(clips, True, objective=objective, seed=3)  # type: ignore[arg-type]
    two = SyncPairDataset(clips, True, objective=objective, seed=3)  # type: ignore[arg-type]
    other = SyncPairDataset(clips, True, objective=objective, seed=4)  # type: ignore[arg-type]
    _ = [two[draw] for draw in (5, 1)]
    assert all(torch.equal(a, b) for a, b in zip(one[17], two[17], strict=True))
    assert not torch.equal(one[17].mel, other[17].mel)
    assert not torch.equal(one[17].mel, one[18].mel)


def test_contrastive_draws_match(root: Path) -> None:
    dataset = SyncPairDataset(load_clips(root, "train"), True, windows_per_clip=8, augment=False)
    sample = dataset[2]
    assert sample.face.shape == (8, 5, 48, 96, 3)
    assert sample.match.min() == 1
    assert len(torch.unique(sample.clip)) == 1
    # Lower half of frame f is 2 * f + 40.
    assert ((sample.face[:, 0, 40, 5, 0].int() - 40) // 2 - sample.frame).abs().max() <= 1
    batch = dataset.assemble(dataset.collate([sample, dataset[3]]))
    assert batch.face.shape == (16, 15, 48, 96)
    assert batch.mel.shape == (16, 1, 80, 16)


def test_bce_draws_are_half_negative_and_labelled(root: Path) -> None:
    dataset = SyncPairDataset(
        load_clips(root, "train"), True, objective="bce", min_negative_gap=5, augment=False
    )
    labels = []
    for draw in range(200):
        sample = dataset[draw]
        face_frame = (int(sample.face[0, 0, 40, 5, 0]) - 40) / 2
        distance = abs(face_frame - int(sample.frame[0]))
        labels.append(float(sample.match[0]))
        assert distance <= 1 if labels[-1] else distance >= 4
    assert 0.35 < np.mean(labels) < 0.65


def test_validation_item_is_one_run_of_consecutive_windows(root: Path) -> None:
    dataset = SyncPairDataset(load_clips(root, "train"), False, max_validation_windows=12)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.frame.diff().unique().tolist() == [1]
        assert len(sample.frame) <= 12
        assert sample.clip.unique().tolist() == [index]


def test_validation_runs_of_different_lengths_share_a_batch(root: Path) -> None:
    dataset = SyncPairDataset(load_clips(root, "train"), False)
    samples = [dataset[0], dataset[1]]
    assert len(samples[0].frame) != len(samples[1].frame)  # clip 0 has a gap
    batch = dataset.assemble(dataset.collate(samples))
    assert len(batch.face) == len(batch.mel) == sum(len(sample.frame) for sample in samples)
    assert torch.unique_consecutive(batch.clip).tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore:.*too short and left out")
def test_datamodule_reports_what_is_wrong(root: Path, tmp_path: Path) -> None:
    windows = partial(SyncPairDataset, windows_per_clip=16)
    with pytest.raises(DataError, match="no such folder; run preprocess"):
        LipSyncData(str(tmp_path / "none"), windows).setup("fit")
    with pytest.raises(ConfigError, match="not a multiple of the 16 windows"):
        LipSyncData(str(root), windows, batch_size=24).setup("fit")
    with pytest.raises(ConfigError, match="batch_size"):
        LipSyncData(str(root), windows, batch_size="many")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"splits found: train, val"):
        LipSyncData(str(root), windows, batch_size=16, val_splits=["test"]).setup("fit")


def test_datamodule_counts_short_clips(root: Path) -> None:
    data = LipSyncData(str(root), partial(SyncPairDataset, windows_per_clip=4), batch_size=8, num_workers=0)
    with pytest.warns(UserWarning, match="val: 1 clips are too short"):
        data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch.face.shape == (8, 15, 48, 96)


def test_a_worker_starts_although_opencv_s_pool_was_in_use() -> None:
    """In a forked process, telling OpenCV's pool to have one thread waits for threads that are not there."""
    code = (
        "import multiprocessing, cv2, numpy as np\n"
        "from lipsync.data.datamodule import pin_worker\n"
        "cv2.setNumThreads(2)\n"
        "cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (15, 15), 3)\n"
        "worker = multiprocessing.get_context('fork').Process(target=pin_worker, args=(0,))\n"
        "worker.start()\n"
        "worker.join(20)\n"
        "print(worker.exitcode)\n"
        "worker.kill()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "0"
