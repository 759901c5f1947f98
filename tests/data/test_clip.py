"""Clip folders: written and read, our own layout and the original's, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lipsync.audio.mel import log_mel
from lipsync.audio.windows import training_start
from lipsync.data.clip import Clip
from lipsync.data.clip_writer import ClipWriter
from lipsync.errors import DataError
from lipsync.media.waveform import save_wav


def picture(index: int, height: int = 40, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), (index * 3 % 256, 100, 255 - index), np.uint8)


def tone(frames: int) -> np.ndarray:
    return (0.3 * np.sin(np.arange(frames * 640) / 20)).astype(np.float32)


def written(folder: Path, present: list[int], frames: int, waveform: np.ndarray | None = None) -> Clip:
    with ClipWriter(folder.with_name(folder.name + ".part")) as writer:
        for index in present:
            writer.write(index, picture(index), (1, 2, 31, 42))
        writer.commit(folder, tone(frames) if waveform is None else waveform, frames, {"av_offset": None})
    return Clip(folder)


def reference(folder: Path, present: list[int], seconds: float, rate: int = 44100) -> Path:
    folder.mkdir(parents=True)
    for index in present:
        cv2.imwrite(str(folder / f"{index}.jpg"), picture(index))
    save_wav(folder / "audio.wav", np.zeros(round(seconds * rate), np.float32), rate)
    return folder


def test_written_clip_is_read_back(tmp_path: Path) -> None:
    clip = written(tmp_path / "speaker" / "00001", list(range(30)), 30)
    assert clip.name == "speaker/00001"
    assert clip.length == 30
    assert clip.present.tolist() == list(range(30))
    assert clip.manifest["boxes"][3] == [1, 2, 31, 42]
    assert clip.manifest["fps"] == "25/1"
    assert np.abs(clip.waveform() - tone(30)).max() <= 0.5 / 32768 + 1e-7
    assert sorted(entry.name for entry in (tmp_path / "speaker").iterdir()) == ["00001"]


def test_frames_are_resized_and_in_the_order_asked_for(tmp_path: Path) -> None:
    clip = written(tmp_path / "a" / "b", list(range(10)), 10)
    frames = clip.frames([7, 2], 96)
    assert frames.shape == (2, 96, 96, 3)
    assert frames.dtype == np.uint8
    assert np.abs(frames[0].astype(int) - picture(7, 96, 96)).max() <= 3
    assert np.abs(frames[1].astype(int) - picture(2, 96, 96)).max() <= 3


def test_non_ascii_names(tmp_path: Path) -> None:
    clip = written(tmp_path / "Zoë 语音" / "клип", list(range(6)), 6)
    assert clip.frames(clip.present, 16).shape == (6, 16, 16, 3)


def test_mel_is_that_of_the_sound_and_safe_to_change(tmp_path: Path) -> None:
    clip = written(tmp_path / "a" / "b", list(range(25)), 25)
    mel = clip.mel()
    assert mel.shape == (80, clip.mel_steps) == (80, 81)
    assert mel.dtype == np.float32
    np.testing.assert_array_equal(mel, log_mel(clip.waveform()))
    mel[:] = 0
    assert clip.mel().min() < -1


def test_mel_follows_a_changed_file(tmp_path: Path) -> None:
    clip = written(tmp_path / "a" / "b", list(range(25)), 25)
    loud = clip.mel()
    written(tmp_path / "a" / "b", list(range(25)), 25, tone(25) * 0.01)
    assert clip.mel().max() < loud.max() - 1


def test_runs_stop_at_gaps(tmp_path: Path) -> None:
    clip = written(tmp_path / "a" / "b", [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 15], 20)
    assert clip.runs(5).tolist() == [0, 1, 8]
    assert clip.runs(1).tolist() == clip.present.tolist()
    assert clip.runs(13).tolist() == []


@pytest.mark.parametrize("sound_frames", [3, 5, 17, 24, 40])
@pytest.mark.parametrize("length", [1, 5, 7])
def test_window_starts_are_those_the_reference_loaders_accept(
    tmp_path: Path, sound_frames: int, length: int
) -> None:
    present = [*range(14), *range(16, 40)]
    clip = written(tmp_path / "a" / "b", present, 40, tone(sound_frames))
    steps = clip.mel().shape[1]
    expected = [
        start
        for start in range(40)
        if start >= 1
        and all(frame in present for frame in range(start, start + length))
        and training_start(start) + 16 <= steps
        and all(training_start(start - 1 + k) + 16 <= steps for k in range(length))
    ]
    assert clip.window_starts(length).tolist() == expected


def test_clip_that_was_not_committed_leaves_nothing(tmp_path: Path) -> None:
    with ClipWriter(tmp_path / "a" / "b.part") as writer:
        writer.write(0, picture(0), (0, 0, 1, 1))
        assert (tmp_path / "a" / "b.part" / "00000.jpg").is_file()
    assert list((tmp_path / "a").iterdir()) == []


def test_leftovers_of_an_interrupted_run_are_not_mixed_in(tmp_path: Path) -> None:
    stale = tmp_path / "a" / "b.part"
    stale.mkdir(parents=True)
    (stale / "00099.jpg").write_bytes(b"old")
    clip = written(tmp_path / "a" / "b", [0, 1], 2)
    assert not (clip.path / "00099.jpg").exists()


def test_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "thesis.doc").write_text("precious")
    with pytest.raises(DataError, match="is not from preprocess"):
        written(folder, [0, 1], 2)
    assert (folder / "thesis.doc").read_text() == "precious"


def test_frames_must_ascend(tmp_path: Path) -> None:
    with ClipWriter(tmp_path / "b.part") as writer:
        writer.write(4, picture(4), (0, 0, 1, 1))
        with pytest.raises(ValueError, match="frame 4 after frame 4"):
            writer.write(4, picture(4), (0, 0, 1, 1))


def test_layout_of_the_original_preprocessing(tmp_path: Path) -> None:
    clip = Clip(reference(tmp_path / "a" / "b", [0, 1, 2, 9, 10, 11, 12, 13, 14, 15], 1.0))
    assert clip.present.tolist() == [0, 1, 2, 9, 10, 11, 12, 13, 14, 15]
    assert clip.length == 16
    assert clip.mel().shape[1] == clip.mel_steps == 81
    assert np.abs(clip.frames([10], 24)[0].astype(int) - picture(10, 24, 24)).max() <= 3
    assert clip.window_starts(5).tolist() == [9, 10, 11]
    with pytest.raises(DataError, match="no picture of frame 5"):
        clip.frames([5], 24)


def test_original_layout_at_another_frame_rate_is_refused(tmp_path: Path) -> None:
    folder = reference(tmp_path / "a" / "b", list(range(90)), 3.0)  # 30 fps
    with pytest.raises(DataError, match="another frame rate; run preprocess"):
        Clip(folder)


def damaged(manifest: dict[str, Any], **changes: Any) -> str:
    return json.dumps({key: value for key, value in {**manifest, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "manifest version 2"),
        ({"fps": "30/1"}, "at 30 fps, training needs 25"),
        ({"frames": None}, "damaged"),
        ({"present": [3, 2]}, "out of order"),
        ({"present": [0, 10]}, "out of order or range"),
        ({"present": []}, "out of order"),
        ({"present": ["x"]}, "damaged"),
    ],
)
def test_broken_manifests_name_the_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    clip = written(tmp_path / "a" / "b", list(range(10)), 10)
    path = clip.path / "manifest.json"
    path.write_text(damaged(clip.manifest, **changes))
    with pytest.raises(DataError, match=message) as caught:
        Clip(clip.path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_manifest(tmp_path: Path) -> None:
    clip = written(tmp_path / "a" / "b", list(range(10)), 10)
    (clip.path / "manifest.json").write_text('{"version": 1,')
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        Clip(clip.path)


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such clip folder"):
        Clip(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not a clip"):
        Clip(tmp_path / "empty")
    silent = reference(tmp_path / "silent", [0, 1], 1.0)
    (silent / "audio.wav").unlink()
    with pytest.raises(DataError, match=r"audio\.wav: missing"):
        Clip(silent)


def test_missing_or_damaged_pictures_name_the_file(tmp_path: Path) -> None:
    clip = written(tmp_path / "a" / "b", list(range(10)), 10)
    (clip.path / "00003.jpg").unlink()
    (clip.path / "00004.jpg").write_bytes(b"")
    (clip.path / "00005.jpg").write_bytes(b"not a picture")
    for index in (3, 4, 5):
        with pytest.raises(DataError, match=f"{index:05d}.jpg"):
            clip.frames([index], 96)


def test_manifest_without_sample_count_reads_the_wav_header(tmp_path: Path) -> None:
    clip = written(tmp_path / "a" / "b", list(range(10)), 10)
    (clip.path / "manifest.json").write_text(damaged(clip.manifest, samples=None))
    assert Clip(clip.path).mel_steps == clip.mel_steps == 33


def test_full_disk_is_not_taken_for_a_fault_of_the_source(tmp_path: Path) -> None:
    with ClipWriter(tmp_path / "b.part") as writer:
        writer.write(0, picture(0), (0, 0, 1, 1))
        (tmp_path / "b.part" / "audio.wav").mkdir()  # cannot be replaced by a file
        with pytest.raises(OSError, match=r"audio\.wav"):
            writer.commit(tmp_path / "b", tone(1), 1, {})
    assert list(tmp_path.iterdir()) == []
