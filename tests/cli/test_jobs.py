from __future__ import annotations

import csv
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from lipsync.cli.jobs import Job, job_digest, read_jobs, run_jobs
from lipsync.errors import DataError, NoFaceError
from lipsync.inference.report import RunReport


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "list.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def report(job: Job) -> RunReport:
    path = Path(job.outfile)
    path.write_bytes(b"video")
    return RunReport(path, Fraction(25), 50, 48, 2, 48, False, 0, 0, 0, 0.0, 2.0)


def results(path: Path) -> list[dict[str, str]]:
    with path.with_name(f"{path.stem}.results.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_list_is_read_with_its_settings(listed: Callable[[str], Path]) -> None:
    path = listed(
        "face,audio,outfile,pads,extend\n"
        '"a, b.mp4",a.wav,a_out.mp4,"[0,20,0,0]",\n'
        "c.mp4, c.wav ,c_out.mp4,,cut\n"
    )
    first, second = read_jobs(path)
    assert (first.face, first.audio, first.outfile) == ("a, b.mp4", "a.wav", "a_out.mp4")
    assert dict(first.settings) == {"pads": "[0,20,0,0]"}
    assert (second.row, second.audio, dict(second.settings)) == (3, "c.wav", {"extend": "cut"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column face, audio, outfile"),
        ("face,audio\na,b\n", "no column outfile"),
        ("face,audio,outfile,checkpoint\na,b,c,d\n", "unknown column checkpoint"),
        ("face,audio,outfile\n", "holds no job"),
        ("face,audio,outfile\na,,c\n", "line 2 has no audio"),
        ("face,audio,outfile\na,b,c,d\n", "line 2 has more cells"),
        ("face,audio,outfile\na,b,c\nd,e,./c\n", "lines 2 and 3 both write ./c"),
        ("face,audio,outfile\na,b,c\nd,e,a\n", "line 3 would overwrite a, which line 2 reads"),
        ('face,audio,outfile\na,"b,c\n', "is not CSV"),
    ],
)
def test_a_wrong_list_is_one_line_that_says_where(
    text: str, message: str, listed: Callable[[str], Path]
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_jobs(listed(text))
    assert "list.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        read_jobs(tmp_path / "none.csv")


def jobs_in(folder: Path, count: int) -> list[Job]:
    return [Job(i + 2, f"f{i}.mp4", f"a{i}.wav", str(folder / f"o{i}.mp4"), {}) for i in range(count)]


def test_a_failed_job_stops_nothing_and_all_is_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, jobs = tmp_path / "list.csv", jobs_in(tmp_path, 3)

    def run(job: Job) -> RunReport:
        if job.face == "f1.mp4":
            raise NoFaceError("f1.mp4: no face\nanywhere")
        return report(job)

    with pytest.raises(DataError, match=r"1 of 3 jobs failed \(line 3: f1.mp4: no face anywhere\)"):
        run_jobs(path, jobs, run, lambda job: "k")
    assert [row["status"] for row in results(path)] == ["done", "failed", "done"]
    assert [row["frames"] for row in results(path)] == ["50", "", "50"]
    assert results(path)[1]["message"] == "f1.mp4: no face anywhere"
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == ["1/3 ", "2/3 ", "3/3 "]


def test_finished_jobs_are_not_run_again_and_failed_ones_are(tmp_path: Path) -> None:
    path, jobs, ran = tmp_path / "list.csv", jobs_in(tmp_path, 4), list[str]()
    broken = {"f1.mp4"}

    def run(job: Job) -> RunReport:
        ran.append(job.face)
        if job.face in broken:
            raise NoFaceError("no face")
        if job.face == "f3.mp4" and broken:
            raise KeyboardInterrupt
        return report(job)

    with pytest.raises(KeyboardInterrupt):
        run_jobs(path, jobs, run, lambda job: job.face)
    assert [row["status"] for row in results(path)] == ["done", "failed", "done"]
    broken.clear()
    ran.clear()
    Path(jobs[2].outfile).unlink()  # somebody took it away
    run_jobs(path, jobs, run, lambda job: job.face)
    assert ran == ["f1.mp4", "f2.mp4", "f3.mp4"]
    assert [row["status"] for row in results(path)] == ["done"] * 4
    assert results(path)[0]["frames"] == "50", "what is known of a kept job stays"
    ran.clear()
    run_jobs(path, jobs, run, lambda job: "other settings")
    assert len(ran) == 4


def test_a_bug_in_one_job_is_shown_and_raised_after_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(job: Job) -> RunReport:
        if job.face == "f0.mp4":
            raise ZeroDivisionError("oops")
        return report(job)

    with pytest.raises(ZeroDivisionError, match="oops"):
        run_jobs(tmp_path / "list.csv", jobs_in(tmp_path, 2), run, lambda job: "k")
    assert [row["status"] for row in results(tmp_path / "list.csv")] == ["crashed", "done"]
    assert "Traceback" in capsys.readouterr().err


def test_the_digest_follows_inputs_and_settings(tmp_path: Path) -> None:
    face = tmp_path / "face.mp4"
    face.write_bytes(b"a")
    job = Job(2, str(face), str(tmp_path / "gone.wav"), "o.mp4", {})
    before = job_digest(job, {"pads": [0, 1]})
    assert job_digest(job, {"pads": [0, 1]}) == before
    assert job_digest(job, {"pads": [0, 2]}) != before
    face.write_bytes(b"ab")
    assert job_digest(job, {"pads": [0, 1]}) != before
