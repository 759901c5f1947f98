from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fake_evaluation import COLUMNS, SHA, fake_evaluation
from test_report import Page

from lipsync.errors import DataError
from lipsync.evaluation.compare import compare, load_run, write_comparison
from lipsync.evaluation.report import write_report
from lipsync.evaluation.results import GeneratorInfo, JudgeInfo


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes ``runs(name, change, **options)``: a finished run in a folder of that name."""
    root = tmp_path_factory.mktemp("runs")

    def make(name, change=None, **options):
        folder = root / name
        if not folder.exists():
            folder.mkdir(parents=True)
            evaluation = fake_evaluation(options.pop("n", 40), ("real", "reconstruction"), **options)
            write_report(replace(evaluation, **(change or {})), folder)
        return load_run(folder)

    return make


def test_a_run_comes_back_as_it_was_written(runs):
    run = runs("first", seed=1)
    evaluation = fake_evaluation(40, ("real", "reconstruction"), seed=1)
    written = {r.name: r.values for r in evaluation.main_system.results}
    assert run.name == "first"
    assert run.label == "Wav2Lip, own sound"
    assert run.videos == tuple(written)
    for key in ("lse_d", "lse_c", "offset", "ssim"):
        expected = {name: values[key] for name, values in written.items() if key in values}
        assert run.values[key] == pytest.approx(expected, abs=1e-6)
    assert set(run.failures.values()) == {"no audio stream", "no face track of 100 frames <or more>"}
    assert {column.key for column in COLUMNS} <= {column.key for column in run.columns}
    assert all(v < 1e9 for v in run.values["psnr"].values())


def test_values_of_other_networks_are_not_compared(runs):
    one = runs("arcface", {"weights": {"identity": "a" * 64}}, seed=1)
    other = runs("sface", {"weights": {"identity": "b" * 64}}, seed=2)
    comparison = compare([one, other])
    assert comparison.refused == {"csim"}
    assert "CSIM was computed in different ways" in comparison.refusals[0]


def test_one_protocol_with_other_settings_is_another_one(runs):
    comparison = compare([runs("first", seed=1), runs("kept", {"protocol_description": "lossless"}, seed=2)])
    assert {"lse_d", "lse_c"} <= comparison.refused
    assert "different settings" in comparison.refusals[0]


def test_verdicts_follow_the_interval(runs, tmp_path):
    comparison = compare([runs("first", seed=1), runs("better", seed=2, gain=0.5), runs("again", seed=3)])
    content = write_comparison(comparison, tmp_path)
    better, again = content["differences"]["better"], content["differences"]["again"]
    assert better["against"] == "first"
    assert better["values"]["lse_d"]["verdict"] == "better"
    assert better["values"]["lse_c"]["verdict"] == "better"
    assert better["values"]["lse_d"]["high"] < 0 < better["values"]["lse_c"]["low"]
    assert again["values"]["lse_c"]["verdict"] == "no difference shown"
    assert content["refusals"] == []
    assert content["same_videos"] is True
    assert content["n_common"] == 40
    assert json.loads((tmp_path / "compare.json").read_text()) == content
    page = Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert "no difference shown" in page.all_text
    assert len(page.of_class("best")) >= 3
    assert not page.of_class("red")
    markdown = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert "better (n = 38)" in markdown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.html", "compare.json", "compare.md"]


def test_the_other_way_round_is_worse(runs):
    comparison = compare([runs("better", seed=2, gain=0.5), runs("first", seed=1)])
    assert comparison.differences["first"]["lse_d"].verdict("lower") == "worse"


@pytest.mark.parametrize(
    ("name", "change", "options", "why"),
    [
        ("other protocol", {"protocol": "lrs"}, {}, "protocols lrs and wild"),
        ("other judge", {"judge": JudgeInfo("other", "lse", "ee" * 32)}, {}, "different judges"),
        ("no judge", {}, {"judged": False}, "no judge has no judge"),
        ("trained", {}, {"trained": True}, "the judge trained one of the generators"),
        (
            "taught",
            {"generators": [GeneratorInfo("g", "ff" * 32, [SHA["judge"]])], "judge": None},
            {"judged": False},
            "the judge trained one of the generators",
        ),
    ],
)
def test_sync_scores_that_do_not_compare_are_refused(runs, tmp_path, name, change, *, options, why):
    comparison = compare([runs("first", seed=1), runs(name, change, seed=4, **options)])
    content = write_comparison(comparison, tmp_path)
    assert any(why in text for text in content["refusals"])
    assert {"lse_d", "lse_c", "offset", "offset_within_1"} <= set(content["refused"])
    assert set(content["differences"][name]["values"]) == {"psnr", "psnr_mouth", "ssim", "csim", "lmd"}
    page = Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert page.of_class("red")
    assert why in page.all_text
    assert "Not compared" in (tmp_path / "compare.md").read_text()


def test_nothing_left_to_compare_is_an_error(runs):
    sync = tuple(column for column in COLUMNS if column.family == "sync")

    def only_sync(name, **change):
        evaluation = fake_evaluation(6, ("real",), main="real")
        return runs(name, {"systems": evaluation.systems, "columns": sync, "main": "real"} | change)

    with pytest.raises(DataError, match="protocols") as error:
        compare([only_sync("wild"), only_sync("lrs", protocol="lrs")])
    assert "\n" not in str(error.value)


def test_a_column_computed_in_another_way_is_refused(runs):
    columns = tuple(replace(c, about="By another network.") if c.key == "csim" else c for c in COLUMNS)
    comparison = compare([runs("first", seed=1), runs("other csim", {"columns": columns}, seed=1)])
    assert "csim" in comparison.refused
    assert "lse_d" not in comparison.refused
    assert any("CSIM" in text for text in comparison.refusals)


def test_videos_of_one_run_only_are_listed(runs, tmp_path):
    comparison = compare([runs("first", seed=1), runs("longer", seed=2, n=44)])
    content = write_comparison(comparison, tmp_path)
    assert content["same_videos"] is False
    assert [len(run["not_in_all"]) for run in content["runs"]] == [0, 4]
    assert content["differences"]["longer"]["values"]["lse_d"]["n"] == 38
    page = Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert content["runs"][1]["not_in_all"][0] in page.all_text
    assert "did not score the same videos" in page.all_text
    assert not page.of_class("best")


def test_runs_of_one_name_are_told_apart(runs):
    comparison = compare([runs("a/run", seed=1), runs("b/run", seed=2)])
    assert len({run.name for run in comparison.runs}) == 2
    assert all(run.name.endswith("run") for run in comparison.runs)


def test_the_same_runs_give_the_same_bytes(runs, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_comparison(compare([runs("first", seed=1), runs("again", seed=3)]), tmp_path / name)
    for name in ("compare.json", "compare.md", "compare.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def _damage(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "summary.json").unlink(), "no finished run"),
        (lambda f: (f / "scores.csv").unlink(), "no finished run"),
        (lambda f: _damage(f, "summary.json", '{"main": '), "is damaged"),
        (lambda f: _damage(f, "summary.json", "[1]"), "is not a report"),
        (lambda f: _damage(f, "summary.json", '{"lse_d": 7.0}'), "lacks main"),
        (lambda f: _damage(f, "scores.csv", "name,lse_d\na,1\n"), "is damaged"),
        (lambda f: _damage(f, "scores.csv", "system,name,status,reason\nreal,a,scored,\n"), "has no video"),
        (
            lambda f: _damage(f, "scores.csv", "system,name,status,reason,lse_d\nreal,a,scored,,x\n"),
            "no video",
        ),
        (
            lambda f: _damage(f, "scores.csv", "system,name,status,lse_d\nreconstruction,a,scored,x\n"),
            "damaged",
        ),
        (lambda f: (f / "scores.csv").write_bytes(b"\xff\xfe\xff"), "cannot be read"),
    ],
)
def test_folders_without_a_finished_run(tmp_path, damage, message):
    write_report(fake_evaluation(3, ("real", "reconstruction")), tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        load_run(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_runs_that_cannot_be_compared(runs, tmp_path):
    first = runs("first", seed=1)
    with pytest.raises(DataError, match="at least two"):
        compare([first])
    with pytest.raises(DataError, match="given twice"):
        compare([first, first])
    with pytest.raises(DataError, match="no finished run"):
        load_run(tmp_path / "nowhere")
    other = runs("other data", seed=1)
    renamed = replace(other, videos=tuple(f"x{name}" for name in other.videos))
    with pytest.raises(DataError, match="no video has the same name"):
        compare([first, renamed])
