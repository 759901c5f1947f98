from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from lipsync.errors import DataError, NotScorableError
from lipsync.evaluation.inputs import find_videos, match_references
from lipsync.evaluation.journal import Journal
from lipsync.evaluation.picture_observers import picture_observers
from lipsync.evaluation.protocols import LrsProtocol
from lipsync.evaluation.results import VideoResult
from lipsync.evaluation.runner import Evaluator, check_output
from lipsync.evaluation.systems import plan_videos
from lipsync.evaluation.visual import VisualPass
from lipsync.media.waveform import load_waveform
from lipsync.metrics.image import psnr


@pytest.fixture
def folder(tmp_path, make_video):
    root = tmp_path / "videos"
    make_video(root / "b" / "good.mp4", 40)
    make_video(root / "a <b>&.mp4", 40)
    make_video(root / "mute.mp4", 40, sound=False)
    make_video(root / "three frames.mp4", 3)
    (root / "corrupt.mp4").write_bytes(b"not a video" * 100)
    (root / "empty.mp4").touch()
    (root / "notes.txt").write_text("no video")
    return root


def _names(items):
    return [item.name for item in items]


def test_a_folder_is_searched_to_any_depth(folder):
    assert _names(find_videos(folder)) == [
        "a <b>&.mp4",
        "b/good.mp4",
        "corrupt.mp4",
        "empty.mp4",
        "mute.mp4",
        "three frames.mp4",
    ]


def test_glob_list_and_single_file(folder, tmp_path):
    assert _names(find_videos(f"{folder}/**/*o*.mp4")) == ["b/good.mp4", "corrupt.mp4"]
    assert _names(find_videos(folder / "b" / "good.mp4")) == ["good.mp4"]
    listed = tmp_path / "list.txt"
    listed.write_text(
        f"# two\nvideos/mute.mp4\n\n{folder / 'b' / 'good.mp4'}\nvideos/gone.mp4\nvideos/mute.mp4\n"
    )
    items = find_videos(listed)
    assert _names(items) == ["mute.mp4", "b/good.mp4", "gone.mp4"]
    assert items[0].path == folder / "mute.mp4"


@pytest.mark.parametrize("name", ["missing", "no*match", "empty_folder", "binary.dat"])
def test_nothing_to_score_is_an_error(tmp_path, name):
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "binary.dat").write_bytes(bytes(range(128, 256)))
    with pytest.raises(DataError) as error:
        find_videos(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_references_match_by_relative_path(folder, tmp_path, make_video):
    references = tmp_path / "references"
    make_video(references / "b" / "good.mkv", 5)
    make_video(references / "mute.mkv", 5)
    make_video(references / "mute.mp4", 5)
    matched = {item.name: item.reference for item in match_references(find_videos(folder), references)}
    assert matched["b/good.mp4"] == references / "b" / "good.mkv"
    assert matched["mute.mp4"] == references / "mute.mp4"
    assert matched["corrupt.mp4"] is None
    with pytest.raises(DataError, match="no such folder"):
        match_references(find_videos(folder), tmp_path / "nowhere")


@pytest.fixture
def run(tmp_path, recorder):
    """``run(plans, judge, visual, failed)`` -> systems by name; the journal stays open for the next run."""

    def score(plans, judge=None, visual=None, failed=None, progress=None):
        with Journal(tmp_path / "out", {"settings": 1}) as journal:
            evaluator = Evaluator(judge, LrsProtocol(lossless=True), visual, journal, progress)
            systems = [system for plan in plans for system in evaluator.system(plan, failed)]
        return {system.name: system for system in systems}

    (tmp_path / "out").mkdir()
    return score


class Short:
    """Wants six frames of sound."""

    def windows(self, waveform, *rows, **end):
        if len(waveform) < 6 * 640:
            raise NotScorableError("sound lasts 3 frames of 40 ms, at least 6 are needed")
        return super().windows(waveform, *rows, **end)


def test_every_failure_is_listed_with_its_reason(folder, recorder, run):
    class Judge(Short, recorder):
        pass

    told = []
    plans = plan_videos(find_videos(folder))
    systems = run(plans, Judge(), progress=lambda *step: told.append(step))
    assert told == [("score videos", n, 6) for n in range(1, 7)]
    results = {result.name: result for result in systems["videos"].results}
    reasons = {name: result.reason for name, result in results.items() if result.reason}
    assert set(reasons) == {"corrupt.mp4", "empty.mp4", "mute.mp4", "three frames.mp4"}
    assert "audio" in reasons["mute.mp4"]
    assert "at least 6" in reasons["three frames.mp4"]
    assert not any(key.startswith("lse") for key in results["mute.mp4"].values)
    assert results["b/good.mp4"].values["lse_d"] > 0
    assert results["b/good.mp4"].values["fps"] == 25


def test_a_missing_file_of_a_list_is_a_row(tmp_path, recorder, folder, run):
    (tmp_path / "list.txt").write_text("videos/gone.mp4\n")
    systems = run(plan_videos(find_videos(tmp_path / "list.txt")), recorder())
    assert "no such file" in systems["videos"].results[0].reason


def test_other_sounds_make_systems_of_their_own(tmp_path, recorder, make_video, run):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        make_video(tmp_path / "videos" / name, 40)
    judge = recorder()
    systems = run(plan_videos(find_videos(tmp_path / "videos"), max_shift=2), judge)
    assert list(systems) == ["videos", "shuffled", "shifted"]
    assert all(len(system.results) == 3 for system in systems.values())
    assert len(judge.crops) == 3, "the frames of a video are looked at once"
    assert len(judge.waveforms) == 3 * (1 + 1 + 5)
    (first, *_) = systems["shifted"].results
    assert first.values["n_shifts"] == 4
    assert set(first.offsets) == {"-2", "-1", "0", "1", "2"}


def test_a_known_shift_is_found_by_a_judge_that_hears(tmp_path, make_video, run, recorder):
    class Hears(recorder):
        """Sees what the sound of the file is and hears what it is given."""

        def look(self, frames):
            list(frames)
            yield self._rows(self.own)

        def windows(self, waveform, start, stop, *, last=False):
            return self._rows(waveform)[start:stop]

        def _rows(self, waveform):
            return torch.from_numpy(waveform[: 36 * 640].reshape(36, 640)[:, :16].copy())

    path = make_video(tmp_path / "a.mp4", 40)
    judge = Hears()
    judge.own = load_waveform(path)
    judge.padding = float("nan")
    systems = run(plan_videos(find_videos(path), max_shift=3), judge)
    (result,) = systems["shifted"].results
    assert result.values["shift_exact"] == 1
    assert result.offsets == {str(k): k for k in range(-3, 4)}


def test_what_could_not_be_made_is_a_row_with_its_reason(tmp_path, recorder, make_video, run):
    make_video(tmp_path / "a.mp4", 40)
    plans = plan_videos(find_videos(tmp_path / "a.mp4"))
    systems = run(plans, recorder(), failed={"a.mp4": "not generated: no face"})
    assert systems["videos"].results[0].reason == "not generated: no face"
    assert systems["videos"].results[0].values == {}


def test_what_could_not_be_made_again_has_no_score_of_an_earlier_run(tmp_path, recorder, make_video, run):
    make_video(tmp_path / "a.mp4", 40)
    plans = plan_videos(find_videos(tmp_path / "a.mp4"))
    assert run(plans, recorder())["videos"].results[0].reason is None
    systems = run(plans, recorder(), failed={"a.mp4": "not generated: no face"})
    assert systems["videos"].results[0].reason == "not generated: no face"


def test_counts_are_no_measurement():
    counted = {"fps": 25.0, "n_frames": 40, "n_frames_compared": 40, "n_frames_reference": 40}
    result = VideoResult("a", "a.mp4", counted, {"identity": "no face"})
    assert result.reason == "no face"
    assert replace(result, values={**counted, "csim": 0.9}).reason is None


def test_frames_against_references(tmp_path, make_video, run):
    make_video(tmp_path / "videos" / "a.mp4", 12, level=lambda i: 100)
    make_video(tmp_path / "references" / "a.mp4", 10, level=lambda i: 100 if i < 4 else 110)
    make_video(tmp_path / "videos" / "alone.mp4", 10)
    items = match_references(find_videos(tmp_path / "videos"), tmp_path / "references")
    systems = run(plan_videos(items), None, VisualPass(picture_observers(["frame"])))
    compared, alone = systems["videos"].results
    flat = np.full((48, 64, 3), 100, np.uint8)
    assert compared.values["n_frames_compared"] == 10
    assert compared.values["n_frames_identical"] == 4
    assert compared.values["psnr"] == pytest.approx(psnr(flat, flat + np.uint8(10)), abs=1.5)
    assert 0.9 < compared.values["ssim"] < 1
    assert "no reference of this name" in alone.reasons["image"]
    (real,) = systems["real"].results
    assert real.name == "a.mp4"
    assert "no reference" not in real.reasons["image"], "an unmodified clip has none to miss"


@pytest.mark.parametrize(
    ("other", "reason"), [({"size": (32, 32)}, "size 64 x 48"), ({"fps": Fraction(30)}, "30.000 fps")]
)
def test_frames_that_do_not_pair_are_refused(tmp_path, make_video, other, reason, run):
    make_video(tmp_path / "videos" / "a.mp4", 8)
    make_video(tmp_path / "references" / "a.mp4", 8, **other)
    items = match_references(find_videos(tmp_path / "videos"), tmp_path / "references")
    systems = run(plan_videos(items), None, VisualPass(picture_observers(["frame"])))
    (result,) = systems["videos"].results
    assert reason in result.reasons["image"]
    assert "psnr" not in result.values


def test_a_run_goes_on_where_it_stopped(folder, recorder, run, tmp_path):
    class StopError(Exception):
        pass

    def stop(step, done, total):
        if done == 3:
            raise StopError

    plans = plan_videos(find_videos(folder))
    judge, first, second = recorder(), recorder(), recorder()
    whole = run(plans, judge)
    # The mute video has no score of its own, but its frames are scored against another video's sound.
    assert len(judge.crops) == 4
    journal = tmp_path / "out" / ".unfinished" / "videos.jsonl"
    shutil.rmtree(journal.parent)
    with pytest.raises(StopError):
        run(plans, first, progress=stop)
    assert len(journal.read_text().splitlines()) == 1 + 3, "a video is kept before its progress is told"
    systems = run(plans, second)
    assert (len(first.crops), len(second.crops)) == (2, 2), "no video is looked at twice"
    assert len(journal.read_text().splitlines()) == 1 + 6
    assert [result.name for result in systems["videos"].results] == [
        result.name for result in whole["videos"].results
    ]


def test_an_unusable_output_folder_is_found_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="output=DIR"):
        check_output(tmp_path / "file" / "below")
    check_output(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
