"""Raw videos to clips: layouts, bad files, tracks, resuming."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from lipsync.cli.preprocess import main
from lipsync.data.clip import Clip
from lipsync.data.filelist import read_filelist, write_filelist
from lipsync.data.pack import load_pack
from lipsync.data.preprocessing import Report, preprocess
from lipsync.data.preprocessing.settings import describe
from lipsync.data.preprocessing.sources import find_sources
from lipsync.data.synthetic import SyntheticClip, draw_clip, make_corpus, measure_aperture, write_clip
from lipsync.errors import ConfigError, DataError
from lipsync.faces.annotated import AnnotatedDetector
from lipsync.faces.mtcnn import MtcnnDetector
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import VideoWriter
from lipsync.types import Face, Frame, Image


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("raw"), clips=4, speakers=2, seconds=1.4, size=96)


@pytest.fixture(scope="module")
def done(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("done")
    run(corpus, output)
    return output


def run(data_root: Path, output: Path, **settings: Any) -> Report:
    return preprocess(data_root, output, AnnotatedDetector, **settings)


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def video(path: Path, segments: Sequence[tuple[SyntheticClip | None, int]], size: int = 96) -> Path:
    """Segments of (talking head or grey, frames) one after another, with noise as sound, and face boxes."""
    frames = sum(count for _, count in segments)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, frames * 640).astype(np.float32)
    entries: list[Any] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, size, size, Fraction(25), noise, sample_rate=16000, preset="veryfast") as writer:
        for clip, count in segments:
            for index in range(count):
                image: Image = np.full((size, size, 3), 90, np.uint8) if clip is None else clip.draw(index)
                box = None if clip is None else clip.faces[index]
                entries.append([] if box is None else [[box.x1, box.y1, box.x2, box.y2, 1.0, None]])
                writer.write(image)
    path.with_suffix(".faces.json").write_text(json.dumps({"fps": "25/1", "faces": entries}))
    return path


class Untouchable:
    """A detector that must not be built."""

    def __init__(self) -> None:
        raise AssertionError("the detector was built")


def test_lrs2_layout_to_the_contract(corpus: Path, done: Path) -> None:
    folder = done / "speaker00" / "00000"
    names = sorted(entry.name for entry in folder.iterdir())
    assert names == [*[f"{i:05d}.jpg" for i in range(35)], "audio.wav", "manifest.json"]
    clip = Clip(folder)
    manifest = clip.manifest
    assert manifest["source"] == "main/speaker00/00000.mp4"
    assert (manifest["version"], manifest["fps"], manifest["frames"], manifest["size"]) == (
        1,
        "25/1",
        35,
        [96, 96],
    )
    assert manifest["detector"] == "AnnotatedDetector()"
    assert manifest["av_offset"] is None
    assert len(manifest["boxes"]) == len(manifest["present"]) == 35
    waveform = load_waveform(corpus / "main" / "speaker00" / "00000.mp4")
    np.testing.assert_allclose(clip.waveform(), waveform[: 35 * 640], atol=1e-4)
    for split in ("train", "val", "test"):
        assert read_filelist(done / "filelists" / f"{split}.txt") == read_filelist(
            corpus / "filelists" / f"{split}.txt"
        )
    assert not list(done.rglob("*.part"))


def test_report_counts_add_up(done: Path) -> None:
    report = json.loads((done / "report.json").read_text())
    assert (report["seen"], report["kept"], report["dropped"], report["repaired_offsets"]) == (4, 4, [], [])
    assert report["split_by"] == "file lists of the data"
    assert report["scanned"] == "main"
    assert [source["frames"] for source in report["sources"]] == [35] * 4


def test_crops_show_the_face_whose_mouth_follows_the_truth(corpus: Path, done: Path) -> None:
    clip = Clip(done / "speaker00" / "00000")
    truth = json.loads((corpus / "main" / "speaker00" / "00000.mouth.json").read_text())["aperture"]
    measured = measure_aperture(clip.frames(clip.present, 96))
    assert np.corrcoef(measured, np.array(truth)[clip.present])[0, 1] > 0.93


def test_pads_grow_the_crop_and_stop_at_the_border(corpus: Path, done: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path, pads=(0, 7, 3, 500))
    x1, y1, _, y2 = Clip(done / "speaker00" / "00000").manifest["boxes"][17]
    padded = Clip(tmp_path / "speaker00" / "00000")
    px1, py1, px2, py2 = padded.manifest["boxes"][17]
    assert (px1, py1, px2) == (x1 - 3, y1, 96)
    assert py2 - y2 in (6, 7, 8)  # rounding of the padded box
    assert padded.image(17).shape == (py2 - py1, px2 - px1, 3)


def test_two_runs_give_the_same_bytes_also_with_workers(corpus: Path, done: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run(corpus, tmp_path, workers=2, progress=lambda count, total, name: seen.append((count, total)))
    assert files(tmp_path) == files(done)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_finished_sources_are_not_done_again(corpus: Path, done: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(done, output)
    before = files(output)
    shutil.rmtree(output / "speaker01" / "00003")  # what an interrupted run has not written yet
    detectors: list[AnnotatedDetector] = []

    def factory() -> AnnotatedDetector:
        detectors.append(AnnotatedDetector())
        return detectors[-1]

    factory.__qualname__ = "AnnotatedDetector"
    report = preprocess(corpus, output, factory)
    assert (report.kept, report.reused) == (4, 3)
    assert len(detectors) == 1
    after = files(output)
    for volatile in (before, after):
        del volatile["report.json"]
    assert after == before
    Untouchable.__qualname__ = "AnnotatedDetector"
    assert preprocess(corpus, output, Untouchable).reused == 4  # type: ignore[arg-type]


def test_other_settings_or_overwrite_do_everything_again(corpus: Path, done: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(done, output)
    assert run(corpus, output, overwrite=True).reused == 0
    assert run(corpus, output, pads=(1, 0, 0, 0)).reused == 0
    assert run(corpus, output, pads=(1, 0, 0, 0)).reused == 4


def test_a_changed_source_replaces_its_clips(tmp_path: Path) -> None:
    head, other = draw_clip(0, 0, 1.5, size=96), draw_clip(1, 1, 1.5, size=96)
    path = video(tmp_path / "raw" / "a" / "v.mp4", [(head, 30), (None, 25), (other, 30)])
    run(tmp_path / "raw", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == ["v_000", "v_001"]
    video(path, [(head, 30)])
    run(tmp_path / "raw", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out" / "a").iterdir()] == ["v"]


def test_one_clip_a_face_track_with_the_sound_of_its_own_seconds(tmp_path: Path) -> None:
    head, other = draw_clip(0, 0, 1.6, size=96), draw_clip(1, 1, 1.6, size=96)
    path = video(tmp_path / "raw" / "talk.mp4", [(None, 20), (head, 40), (None, 25), (other, 30), (head, 10)])
    report = run(tmp_path / "raw", tmp_path / "out", min_frames=25)
    names = ["raw/talk_000", "raw/talk_001"]
    assert report.sources[0]["clips"] == names
    assert report.sources[0]["frames"] == 125
    assert report.sources[0]["frames_without_face"] == 45
    assert report.sources[0]["short_tracks"] == 1
    waveform = load_waveform(path)
    for name, first, frames in zip(names, (20, 85), (40, 30), strict=True):
        clip = Clip(tmp_path / "out" / name)
        assert (clip.manifest["first_frame"], clip.length) == (first, frames)
        assert clip.present.tolist() == list(range(frames))
        np.testing.assert_allclose(clip.waveform(), waveform[first * 640 : (first + frames) * 640], atol=1e-4)


def test_a_single_track_keeps_the_plain_name(tmp_path: Path) -> None:
    head = draw_clip(0, 0, 1.5, size=96)
    video(tmp_path / "raw" / "a" / "b" / "talk.mp4", [(None, 20), (head, 30), (None, 20), (head, 8)])
    run(tmp_path / "raw", tmp_path / "out")
    clip = Clip(tmp_path / "out" / "a" / "b" / "talk")
    assert clip.manifest["first_frame"] == 20
    assert clip.manifest["start"] == 0.8


def test_bad_files_are_listed_and_skipped(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    head = draw_clip(0, 0, 1.5, size=96)
    write_clip(head, raw / "a" / "good.mp4")
    video(raw / "a" / "empty.mp4", [(None, 40)])
    video(raw / "a" / "short.mp4", [(head, 12), (None, 20)])
    (raw / "a" / "zero.mp4").write_bytes(b"")
    (raw / "a" / "text.mp4").write_text("not a video")
    whole = (raw / "a" / "good.mp4").read_bytes()
    (raw / "a" / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    shutil.copy(raw / "a" / "good.faces.json", raw / "a" / "cut.faces.json")
    with VideoWriter(raw / "a" / "mute.mp4", 96, 96, Fraction(25), None) as writer:
        for image in head.frames():
            writer.write(image)
    report = run(raw, tmp_path / "out")
    assert (report.seen, report.kept) == (7, 1)
    reasons = {entry["clip"].removeprefix("a/"): entry["reason"] for entry in report.dropped}
    assert set(reasons) == {"empty", "short", "zero", "text", "cut", "mute"}
    assert "no face in any of its 40 frames" in reasons["empty"]
    assert "no face stays for 25 frames" in reasons["short"]
    assert "longest: 12" in reasons["short"]
    assert "no sound" in reasons["mute"]
    for name, reason in reasons.items():
        assert f"{name}.mp4" in reason
        assert "\n" not in reason
    assert [p.name for p in (tmp_path / "out" / "a").iterdir()] == ["good"]
    assert read_filelist(tmp_path / "out" / "filelists" / "train.txt") == ["a/good"]


def test_nothing_usable_is_an_error_that_points_to_the_report(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_text("not a video")
    with pytest.raises(DataError, match="none of its 1 videos can be used"):
        run(tmp_path / "raw", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["kept"] == 0
    assert not (tmp_path / "out" / "filelists").exists()


def test_missing_or_empty_data_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        run(tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match="no video file"):
        run(tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize("wrong", [{"pads": (1, 2)}, {"every": 0}, {"min_frames": 2}, {"workers": -1}])
def test_wrong_settings(corpus: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        run(corpus, tmp_path, **wrong)


def test_errors_that_are_not_the_files_fault_are_not_swallowed(corpus: Path, tmp_path: Path) -> None:
    class Broken:
        def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        preprocess(corpus, tmp_path, Broken)
    assert any("while preprocessing" in note for note in caught.value.__notes__)
    assert not list(tmp_path.rglob("*.jpg"))


def test_leftovers_of_a_killed_run_are_removed(corpus: Path, tmp_path: Path) -> None:
    stale = tmp_path / "speaker00" / "00000_003.part"
    stale.mkdir(parents=True)
    (stale / "00000.jpg").write_bytes(b"half")
    run(corpus, tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_names_that_file_lists_cannot_hold(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    head = draw_clip(0, 0, 1.2, size=96)
    write_clip(head, raw / "#Zoë 語" / "take 1.v2.mp4")
    write_clip(head, raw / "#Zoë 語" / "take_1.v2.mkv")
    write_clip(head, raw / "b" / "UPPER.MP4")
    write_clip(head, raw / ".hidden" / "a.mp4")
    report = run(raw, tmp_path / "out")
    kept = ["_Zoë_語/take_1.v2", "b/UPPER"]
    assert [clip for source in report.sources for clip in source["clips"]] == kept
    assert "another video has the same name" in report.dropped[0]["reason"]
    lists = [tmp_path / "out" / "filelists" / f"{split}.txt" for split in ("train", "val")]
    assert sorted(name for path in lists for name in read_filelist(path)) == kept


def test_sources_follow_links_once_and_leave_out_the_output(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "a").mkdir(parents=True)
    (raw / "out").mkdir()
    for name in ("a/1.mp4", "a/2.MOV", "a/notes.txt", "out/3.mp4"):
        (raw / name).write_bytes(b"x")
    (raw / "loop").symlink_to(raw)
    assert [source.name for source in find_sources(raw, raw / "out").videos] == ["a/1", "a/2"]


def test_own_lists_name_what_is_kept_only(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    head, other = draw_clip(0, 0, 1.2, size=96), draw_clip(1, 1, 1.2, size=96)
    video(raw / "main" / "s" / "two.mp4", [(head, 30), (None, 25), (other, 30)])
    write_clip(head, raw / "main" / "s" / "one.mp4")
    write_clip(head, raw / "main" / "s" / "rest.mp4")
    write_filelist(raw / "filelists" / "train.txt", ["s/two", "s/lost"])
    (raw / "filelists" / "val_seen.txt").write_text("main/s/one NF\n")
    report = run(raw, tmp_path / "out")
    assert read_filelist(tmp_path / "out" / "filelists" / "train.txt") == ["s/two_000", "s/two_001"]
    assert read_filelist(tmp_path / "out" / "filelists" / "val_seen.txt") == ["s/one"]
    assert (report.unlisted, report.clips, report.seen) == (1, 4, 3)


def test_two_sources_never_share_a_clip(tmp_path: Path) -> None:
    head, other = draw_clip(0, 0, 1.2, size=96), draw_clip(1, 1, 1.2, size=96)
    video(tmp_path / "raw" / "s" / "a.mp4", [(head, 30), (None, 25), (other, 30)])
    write_clip(head, tmp_path / "raw" / "s" / "a_000.mp4")
    report = run(tmp_path / "raw", tmp_path / "out")
    assert report.kept == 1
    assert "already belongs to" in report.dropped[0]["reason"]


def test_detector_description_tells_settings_apart() -> None:
    assert describe(MtcnnDetector) == "MtcnnDetector()"
    assert describe(functools.partial(MtcnnDetector, min_score=0.9, max_side=320)) == (
        "MtcnnDetector(max_side=320, min_score=0.9)"
    )


def test_storage_pack_writes_packs_beside_the_clips(
    corpus: Path, done: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    output = shutil.copytree(done, tmp_path / "out")
    settings = (f"data_root={corpus}", f"preprocessed_root={output}", "detector=annotated", "workers=0")

    def command(*extra: str) -> int:
        monkeypatch.setattr(sys, "argv", ["preprocess.py", *settings, *extra])
        GlobalHydra.instance().clear()
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    monkeypatch.chdir(tmp_path)
    assert command("storage=lmdb") == 2
    assert "storage=lmdb: give clips or pack" in capsys.readouterr().err
    assert command("storage=pack", "pack_size=97") == 2
    assert "pack size 97" in capsys.readouterr().err
    assert command("storage=pack", "pack_size=64") == 0
    assert "4 of 4 videos kept" in capsys.readouterr().out
    listed = [path.stem for path in (output / "filelists").glob("*.txt") if read_filelist(path)]
    assert sorted(path.name for path in (output / "pack").iterdir()) == sorted(f"{s}_64" for s in listed)
    packed = load_pack(output, "train", 64).clips[0]
    clip = Clip(output / packed.name)
    np.testing.assert_array_equal(packed.frames(packed.present, 64), clip.frames(clip.present, 64))
    before = (output / "pack" / "train_64").stat().st_ino
    assert command("storage=pack", "pack_size=64") == 0
    assert (output / "pack" / "train_64").stat().st_ino == before


@pytest.mark.shared
def test_real_videos_of_any_rate_and_shape(shared: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "wild").mkdir(parents=True)
    for name in ("grid_s1/bbaf2n.mpg", "wild/retalk_man_22fps_700.mp4"):
        (raw / "wild" / Path(name).name).symlink_to(shared / "data" / "raw" / name)
    report = preprocess(raw, tmp_path / "out", MtcnnDetector)
    assert (report.kept, report.clips) == (2, 2)
    for source in report.sources:
        clip = Clip(tmp_path / "out" / source["clips"][0])
        seconds = sum(1 for _ in VideoReader(raw / clip.manifest["source"], fps=Fraction(25))) / 25
        assert abs(clip.length / 25 - seconds) < 0.2
        assert abs(len(clip.waveform()) / 16000 - clip.length / 25) < 0.1
        assert len(clip.window_starts()) > 0.8 * clip.length
        picture = clip.image(int(clip.present[0]))
        assert 0.9 < picture.shape[0] / picture.shape[1] < 1.8
        assert cv2.Laplacian(picture, cv2.CV_64F).var() > 10
