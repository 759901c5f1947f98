from __future__ import annotations

import csv
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_evaluation import SHA, SYSTEMS, fake_evaluation, names

from lipsync.errors import DataError
from lipsync.evaluation.columns import Column
from lipsync.evaluation.report import write_report
from lipsync.evaluation.results import Evaluation, SystemResult, VideoResult

FILES = ("scores.csv", "summary.json", "report.md", "report.html")


class Page(HTMLParser):
    """Text and attributes of a page; fails where tags are not balanced or something would be loaded."""

    VOID = frozenset({"meta", "img", "br"})
    SHAPES = frozenset({"rect", "line", "circle", "path"})

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags = [], [], []
        self.feed(text)
        assert self.open == []
        self.all_text = "".join(self.text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object", "use"), f"the page must load nothing: {tag}"
        assert not any(name.startswith("on") for name in given)
        assert given.get("src", "data:").startswith("data:image/jpeg;base64,") or "src" not in given
        assert given.get("href", "#").startswith("#")
        self.tags.append((tag, given))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        assert tag in self.SHAPES
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def of_class(self, name):
        return [attrs for _, attrs in self.tags if name in attrs.get("class", "").split()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    evaluation = fake_evaluation()
    return evaluation, write_report(evaluation, folder), folder


def _rows(folder):
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_four_complete_files(written):
    _, summary, folder = written
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == summary
    assert "Infinity" not in (folder / "summary.json").read_text()


def test_scores_have_a_row_for_each_video_of_each_system(written):
    evaluation, _, folder = written
    rows = _rows(folder)
    assert list(rows[0])[:5] == ["system", "name", "status", "reason", "sync_reason"]
    assert len(rows) == 60 * len(SYSTEMS)
    assert [row["name"] for row in rows[:60]] == names(60)
    wanted = {c.key for c in evaluation.columns if c.per_video} | {"fps", "width", "n_frames", "duration"}
    assert wanted <= set(rows[0])
    assert "fid" not in rows[0]
    by_name = {row["name"]: row for row in rows if row["system"] == "reconstruction"}
    for result in evaluation.main_system.results:
        row = by_name[result.name]
        assert row["status"] == ("not scored" if "sync" in result.reasons else "scored")
        assert row["lse_d"] == (f"{result.values['lse_d']:.6f}" if "lse_d" in result.values else "")
        assert row["image_reason"] == result.reasons.get("image", "")
        assert row["reason"] == next(iter(result.reasons.values()), "")
        assert row["notes"] == "; ".join(result.notes)


def test_top_level_is_the_main_system(written):
    evaluation, summary, _ = written
    values = [r.values for r in evaluation.main_system.results]
    for key in ("lse_d", "lse_c", "offset", "ssim", "csim", "lmd", "n_frames"):
        expected = np.mean([v[key] for v in values if key in v])
        assert summary[key] == pytest.approx(expected), key
        own = summary["systems"]["reconstruction"]["values"][key]
        assert own["mean"] == summary[key]
        assert own["low"] <= own["mean"] <= own["high"]
    offsets = [v["offset"] for v in values if "offset" in v]
    assert summary["offset_within_1"] == pytest.approx(np.mean(np.abs(offsets) <= 1))
    assert sum(summary["offset_histogram"].values()) == len(offsets) == summary["n_scored"] == 57
    assert list(summary["offset_histogram"]) == sorted(summary["offset_histogram"], key=int)
    assert len(summary["out_of_sync"]) == sum(abs(k) > 1 for k in offsets)
    assert (summary["n_videos"], summary["n_failed"]) == (60, 3)
    assert {f["reason"] for f in summary["failures"]} == {
        "no audio stream",
        "no face track of 100 frames <or more>",
    }
    assert summary["image_failures"][0]["reason"] == "no reference of this name"
    assert summary["n_frames_compared"] == sum(v.get("n_frames_compared", 0) for v in values)
    assert summary["fid"] == 4.4
    assert summary["expert_d"] is summary["expert_c"] is summary["lpips"] is summary["shift_exact"] is None
    assert summary["judge"] == {"name": "syncnet_v2", "kind": "lse", "sha256": SHA["judge"]}
    assert (summary["protocol"], summary["judge_trained_generator"]) == ("wild", False)
    assert summary["settings"]["limit"] == "inf"
    assert {"torch", "scipy", "platform", "torch threads"} <= set(summary["versions"])


def test_infinite_values_are_counted_but_not_averaged(written):
    evaluation, summary, folder = written
    finite = [r.values["psnr"] for r in evaluation.main_system.results if "psnr" in r.values]
    assert not np.isfinite(finite).all()
    assert summary["psnr"] == pytest.approx(np.mean([v for v in finite if np.isfinite(v)]))
    assert [row["psnr"] for row in _rows(folder) if row["psnr"] == "inf"]


def test_each_system_is_paired_with_the_unmodified_clips(written):
    evaluation, summary, _ = written
    assert set(summary["differences"]) == set(SYSTEMS) - {"real"}
    by_name = {
        system.name: {r.name: r.values["lse_d"] for r in system.results if "lse_d" in r.values}
        for system in evaluation.systems
    }
    found = summary["differences"]["cross"]
    assert found["against"] == "real"
    expected = [by_name["cross"][name] - by_name["real"][name] for name in by_name["real"]]
    assert found["values"]["lse_d"]["mean"] == pytest.approx(np.mean(expected))
    assert found["values"]["lse_d"]["n"] == 57
    assert "n_frames" not in found["values"]


def test_the_page_is_well_formed_escaped_and_loads_nothing(written):
    _, _, folder = written
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for name in names(3):
        assert name in page.all_text
    assert "<script" not in text
    assert not re.search(r"https?://|url\(|@import", text)
    assert "no face track of 100 frames <or more>" in page.all_text
    assert "30 fps: <the protocol> was made for 25" in page.all_text
    assert SHA["judge"] in page.all_text
    assert '"videos": "clips/<x>"' in page.all_text
    assert "nan" not in page.all_text.lower().split()


def _rows_of(text, kind):
    """Cells with that class, by the name of the system of their row, of the tables of systems."""
    found = {}
    for row in re.findall(r'<tr class="[a-z]*"><th scope="row" class="stick">.*?</tr>', text, re.DOTALL):
        label = re.sub(r"<[^>]+>", "", row.partition("</th>")[0])
        cells = len(re.findall(rf'<td class="num[^"]*\b{kind}\b', row))
        found[label] = found.get(label, 0) + cells
    return found


def test_a_run_ranks_nothing_since_its_systems_are_of_one_generator(written):
    _, _, folder = written
    best = _rows_of((folder / "report.html").read_text(encoding="utf-8"), "best")
    assert set(best) >= {
        "unmodified clipsceiling",
        "shuffled soundfloor",
        "silencecheck",
        "Wav2Lip, own sound",
    }
    assert not any(best.values())
    assert "**" not in (folder / "report.md").read_text()


def test_columns_that_other_systems_lack_stand_in_a_table_of_their_own(written):
    _, _, folder = written
    text = (folder / "report.html").read_text(encoding="utf-8")
    missing = _rows_of(text, "none")
    assert len(missing) == len(SYSTEMS)
    assert not any(missing.values())


def test_the_page_shows_systems_charts_and_clips(written):
    _, _, folder = written
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert len([tag for tag, _ in page.tags if tag == "details"]) == len(SYSTEMS)
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert "Distribution of LSE-C" in labels
    assert sum(label.startswith("Offsets of") for label in labels) == len(SYSTEMS)
    assert "shifted sound: known shifts and what was measured" in labels
    assert sum(label.startswith("Confidence of") for label in labels) == 12
    assert len(page.of_class("card")) == 12
    assert 1 <= len([tag for tag, _ in page.tags if tag == "img"]) <= 12
    assert "Worst by LSE-C" in page.all_text
    assert not page.of_class("red")
    assert len(page.of_class("bad")) == 3 * len(SYSTEMS)


def test_the_judge_that_trained_the_generator_ranks_nothing(tmp_path):
    summary = write_report(fake_evaluation(trained=True), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert summary["judge_trained_generator"] is True
    assert summary["lse_c"] is not None
    assert len(page.of_class("red")) == 1
    assert "The judge trained the generator" in page.all_text
    assert "Worst by LSE-C" not in page.all_text
    assert "Worst by PSNR mouth" in page.all_text
    assert "gauge" not in {name for _, attrs in page.tags for name in attrs.get("class", "").split()}
    for cell in re.findall(r'<td class="([^"]*)"', text):
        assert not {"best", "muted"} <= set(cell.split())
    assert "The judge trained the generator" in (tmp_path / "report.md").read_text()


def test_no_judge_at_all(tmp_path):
    summary = write_report(fake_evaluation(8, ("reconstruction",), judged=False), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert summary["judge"] is None
    assert summary["lse_d"] is None
    assert summary["offset_histogram"] == {}
    assert summary["n_failed"] == 0
    assert summary["differences"] == {}
    assert "Audio-video offset" not in page.all_text
    assert "- Judge: none" in (tmp_path / "report.md").read_text()


def _system(results):
    return [SystemResult("videos", "videos", "", results)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_videos(tmp_path, n):
    summary = write_report(fake_evaluation(n, ("real", "shuffled"), main="real"), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert (summary["systems"]["real"]["values"]["lse_d"]["low"] is None) == (n == 1)
    assert len(page.of_class("card")) == n
    assert "Intervals" in page.all_text


def test_nothing_scored_is_a_report_all_the_same(tmp_path):
    results = [VideoResult(f"{i}.mp4", f"{i}.mp4", {}, {"sync": "cannot be read"}) for i in range(3)]
    evaluation = Evaluation(_system(results), "videos", (), None, "lrs", None)
    summary = write_report(evaluation, tmp_path)
    assert (summary["n_failed"], summary["lse_d"]) == (3, None)
    assert "Nothing could be scored" in Page((tmp_path / "report.html").read_text()).all_text
    assert "cannot be read" in (tmp_path / "report.md").read_text()


def test_equal_values_everywhere(tmp_path):
    column = Column("lse_d", "LSE-D", "sync", "lower", judged=True)
    results = [VideoResult(f"{i}", f"{i}", {"lse_d": 7.0, "offset": 0}, {}) for i in range(5)]
    evaluation = Evaluation(_system(results), "videos", (column,), fake_evaluation(1).judge, "lrs", "x")
    summary = write_report(evaluation, tmp_path)
    assert summary["systems"]["videos"]["values"]["lse_d"]["high"] == 7.0
    assert summary["offset_within_1"] == 1.0
    Page((tmp_path / "report.html").read_text())


def test_markdown_keeps_its_shape(written):
    _, _, folder = written
    text = (folder / "report.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("| System")]
    assert len(tables) > 1
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1
        assert not any("n/a |" in line for line in table)
    labels = {line.split(" | ")[0] for table in tables for line in table[2:]}
    assert len(labels) == len(SYSTEMS)
    assert any("sha256 `ab12" in line for line in lines)
    assert any("BCa" in line and "seed" in line for line in lines)


def test_the_same_evaluation_gives_the_same_bytes(written, tmp_path):
    evaluation, *_ = written
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(replace(evaluation), tmp_path / name)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"output=DIR") as error:
        write_report(fake_evaluation(2, ("real",), main="real"), tmp_path / "missing")
    assert "\n" not in str(error.value)


def test_a_large_run_stays_small_and_fast(tmp_path):
    evaluation = fake_evaluation(1243, ("real", "reconstruction", "cross", "shuffled"))
    begin = time.process_time()
    write_report(evaluation, tmp_path)
    assert time.process_time() - begin < 6
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
