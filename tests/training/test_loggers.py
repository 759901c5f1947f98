"""metrics.csv over several runs in one folder."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lipsync.training.loggers import AppendingCSVLogger


def run(folder: Path, *rows: tuple[int, dict[str, float]]) -> None:
    """One process that logs these rows into ``folder/metrics.csv``."""
    logger = AppendingCSVLogger(str(folder), name="", version="")
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
    logger.save()
    logger.finalize("success")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_of_an_earlier_run_are_kept(tmp_path: Path) -> None:
    run(tmp_path, (0, {"train/l1": 0.5}), (1, {"train/l1": 0.25}))
    first = (tmp_path / "metrics.csv").read_text()
    run(tmp_path, (2, {"train/l1": 0.125}))
    assert (tmp_path / "metrics.csv").read_text().startswith(first)
    assert [(row["step"], row["train/l1"]) for row in table(tmp_path)] == [
        ("0", "0.5"),
        ("1", "0.25"),
        ("2", "0.125"),
    ]
    run(tmp_path, (3, {"train/l1": 0.0625}))
    assert len(table(tmp_path)) == 4
    assert not list(tmp_path.glob("*.part"))


def test_columns_are_added(tmp_path: Path) -> None:
    run(tmp_path, (0, {"train/l1": 0.5}))
    run(tmp_path, (1, {"train/l1": 0.25, "train/sync": 2.0}), (2, {"val/l1": 0.75}))
    assert table(tmp_path) == [
        {"step": "0", "train/l1": "0.5", "train/sync": "", "val/l1": ""},
        {"step": "1", "train/l1": "0.25", "train/sync": "2.0", "val/l1": ""},
        {"step": "2", "train/l1": "", "train/sync": "", "val/l1": "0.75"},
    ]


def test_a_first_run_starts_a_new_file(tmp_path: Path) -> None:
    run(tmp_path / "new", (7, {"train/sync": 1.5}))
    assert table(tmp_path / "new") == [{"step": "7", "train/sync": "1.5"}]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["metrics.csv"]


def test_the_file_of_an_aborted_start_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("")
    run(tmp_path, (0, {"train/l1": 0.5}))
    assert table(tmp_path) == [{"step": "0", "train/l1": "0.5"}]


def test_rows_that_a_resumed_run_writes_again_are_dropped(tmp_path: Path) -> None:
    rows = [(step, {"train/l1": 1 / (3 + step)}) for step in range(6)]
    rows.insert(4, (3, {"val/l1": 0.75}))
    run(tmp_path, *rows)
    whole = (tmp_path / "metrics.csv").read_bytes()
    logger = AppendingCSVLogger(str(tmp_path), name="", version="")
    logger.drop_from(3)
    assert [row["step"] for row in table(tmp_path)] == ["0", "1", "2"]
    for step, metrics in rows[3:]:
        logger.log_metrics(metrics, step)
    logger.save()
    assert (tmp_path / "metrics.csv").read_bytes() == whole
    AppendingCSVLogger(str(tmp_path / "new"), name="", version="").drop_from(3)
    assert not (tmp_path / "new").exists()


def test_a_row_that_was_cut_off_is_forgotten(tmp_path: Path) -> None:
    run(tmp_path, (0, {"train/l1": 0.5}), (1, {"train/l1": 0.25}))
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-4])
    run(tmp_path, (1, {"train/l1": 0.25}))
    assert [(row["step"], row["train/l1"]) for row in table(tmp_path)] == [("0", "0.5"), ("1", "0.25")]


def test_new_columns_never_leave_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed while the file is written anew for another column loses no row."""
    run(tmp_path, (0, {"train/l1": 0.5}))
    before = (tmp_path / "metrics.csv").read_bytes()
    seen = []
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda a, b: (seen.append((tmp_path / "metrics.csv").read_bytes()), replace(a, b))[1]
    )
    run(tmp_path, (1, {"train/l1": 0.25, "train/sync": 2.0}))
    assert seen
    assert set(seen) == {before}, "the old file is whole until the new one is"
    assert len(table(tmp_path)) == 2
