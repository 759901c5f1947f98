from __future__ import annotations

import csv
import json
import math
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pytest

from lipsync.errors import DataError, NotScorableError
from lipsync.evaluation.images import compare_videos
from lipsync.evaluation.inputs import find_videos, match_references
from lipsync.evaluation.protocols import LrsProtocol
from lipsync.evaluation.report import write_report
from lipsync.evaluation.runner import check_output, evaluate_videos
from lipsync.evaluation.scoring import ClipScore, TrackScore
from lipsync.evaluation.summary import Evaluation
from lipsync.metrics.functional import SyncScore
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


def test_every_failure_is_listed_with_its_reason(folder, recorder, tmp_path):
    class Short(recorder):
        def features(self, frames, waveform):
            if len(waveform) < 6 * 640:
                raise NotScorableError("sound lasts 3 frames of 40 ms, at least 6 are needed")
            return super().features(frames, waveform)

    items = find_videos(folder)
    told = []
    results = evaluate_videos(items, Short(), LrsProtocol(), progress=lambda *step: told.append(step))
    assert told == [("evaluate", n, 6) for n in range(1, 7)]
    summary = write_report(Evaluation(results, Short(), LrsProtocol()), tmp_path)
    reasons = {failure["name"]: failure["reason"] for failure in summary["failures"]}
    assert set(reasons) == {"corrupt.mp4", "empty.mp4", "mute.mp4", "three frames.mp4"}
    assert "audio" in reasons["mute.mp4"]
    assert "at least 6" in reasons["three frames.mp4"]
    assert summary["n_videos"] == 6
    assert summary["n_failed"] == 4
    assert summary["n_scored"] == 2
    with (tmp_path / "scores.csv").open(newline="") as stream:
        table = {row["name"]: row for row in csv.DictReader(stream)}
    assert table["mute.mp4"]["status"] == "not scored"
    assert table["mute.mp4"]["lse_d"] == ""
    assert float(table["b/good.mp4"]["lse_d"]) > 0
    scored = [float(row["lse_d"]) for row in table.values() if row["lse_d"]]
    assert summary["lse_d"] == pytest.approx(np.mean(scored), abs=1e-5)
    assert not list(tmp_path.glob("*.part"))


def test_a_missing_file_of_a_list_is_a_row(tmp_path, recorder, folder):
    (tmp_path / "list.txt").write_text("videos/gone.mp4\n")
    results = evaluate_videos(find_videos(tmp_path / "list.txt"), recorder(), LrsProtocol())
    assert "no such file" in results[0].reason


def test_frames_against_references(tmp_path, make_video):
    video = make_video(tmp_path / "a.mp4", 12, level=lambda i: 100)
    reference = make_video(tmp_path / "b.mp4", 10, level=lambda i: 100 if i < 4 else 110)
    score = compare_videos(video, reference)
    assert (score.frames, score.video_frames, score.reference_frames) == (10, 12, 10)
    assert score.identical_frames == 4
    flat = np.full((48, 64, 3), 100, np.uint8)
    assert score.psnr == pytest.approx(psnr(flat, flat + np.uint8(10)), abs=1.5)
    assert 0.9 < score.ssim < 1


def test_identical_videos_have_no_finite_psnr(tmp_path, make_video, recorder):
    make_video(tmp_path / "a.mp4", 10)
    items = match_references(find_videos(tmp_path / "a.mp4"), tmp_path / "a.mp4")
    results = evaluate_videos(items, None, LrsProtocol(), with_references=True)
    assert math.isinf(results[0].image.psnr)
    summary = write_report(Evaluation(results, None, LrsProtocol(), ["no judge"]), tmp_path)
    assert summary["psnr"] is None
    assert summary["n_identical_to_reference"] == 1
    assert summary["ssim"] == pytest.approx(1.0)
    assert summary["judge"] is None
    assert summary["n_failed"] == 0
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize(
    ("other", "reason"), [({"size": (32, 32)}, "size 64 x 48"), ({"fps": Fraction(30)}, "30.000 fps")]
)
def test_frames_that_do_not_pair_are_refused(tmp_path, make_video, other, reason):
    video, reference = make_video(tmp_path / "a.mp4", 8), make_video(tmp_path / "b.mp4", 8, **other)
    with pytest.raises(NotScorableError, match=reason):
        compare_videos(video, reference)


def test_a_missing_reference_does_not_cost_the_sync_score(tmp_path, make_video, recorder):
    make_video(tmp_path / "videos" / "a.mp4", 40)
    (tmp_path / "references").mkdir()
    items = match_references(find_videos(tmp_path / "videos"), tmp_path / "references")
    results = evaluate_videos(items, recorder(), LrsProtocol(), with_references=True)
    summary = write_report(Evaluation(results, recorder(), LrsProtocol()), tmp_path)
    assert summary["n_failed"] == 0
    assert summary["image_failures"] == [{"name": "a.mp4", "reason": "no reference of this name"}]


def _with_offsets(results, offsets):
    from dataclasses import replace

    scores = [ClipScore((TrackScore(0, 30, SyncScore(7.0 + k, 5.0, k)),)) for k in offsets]
    return [replace(results[0], sync=score, sync_reason=None) for score in scores]


@pytest.mark.parametrize(
    ("view", "keys"), [("scene", ("lse_d", "lse_c")), ("face", ("expert_d", "expert_c"))]
)
def test_aggregates(tmp_path, make_video, recorder, view, keys):
    make_video(tmp_path / "a.mp4", 40)
    judge = recorder(view)
    results = evaluate_videos(find_videos(tmp_path / "a.mp4"), None, LrsProtocol())
    results = _with_offsets(results, [0, 1, -3, 0])
    summary = write_report(Evaluation(results, judge, LrsProtocol()), tmp_path)
    others = {"lse_d", "lse_c", "expert_d", "expert_c"} - set(keys)
    assert summary[keys[0]] == pytest.approx(6.5)
    assert summary[keys[1]] == pytest.approx(5.0)
    assert all(summary[key] is None for key in others)
    assert summary["offset"] == pytest.approx(-0.5)
    assert summary["offset_within_1"] == 0.75
    assert summary["offset_histogram"] == {"-3": 1, "0": 2, "1": 1}
    assert summary["out_of_sync"] == ["a.mp4"]
    assert summary["judge"] == {"name": "recorder", "kind": judge.kind, "sha256": "0" * 64}
    page = (tmp_path / "report.html").read_text()
    assert page.count("<rect") == 3
    assert ("LSE-D" in page) == (view == "scene")
    assert page.count('class="off"') == 1


class _Balance(HTMLParser):
    VOID = frozenset({"meta", "rect", "line", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img"), "the page must load nothing"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        assert tag in self.VOID

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_and_escaped(folder, recorder, tmp_path):
    results = evaluate_videos(find_videos(folder), recorder(), LrsProtocol())
    write_report(Evaluation(results, recorder(), LrsProtocol(), ["<script>alert(1)</script>"]), tmp_path)
    parser = _Balance()
    parser.feed((tmp_path / "report.html").read_text())
    assert parser.open == []
    assert "a <b>&.mp4" in parser.text
    assert "<script>alert(1)</script>" in parser.text


def test_the_same_input_gives_the_same_bytes(folder, recorder, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        judge = recorder()
        results = evaluate_videos(find_videos(folder), judge, LrsProtocol())
        write_report(Evaluation(results, judge, LrsProtocol()), tmp_path / name)
    for name in ("scores.csv", "summary.json", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_unusable_output_folder_is_found_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="output=DIR"):
        check_output(tmp_path / "file" / "below")
    check_output(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
