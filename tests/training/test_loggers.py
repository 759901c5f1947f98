"""metrics.csv over several runs in one folder."""

from __future__ import annotations

import csv
from pathlib import Path

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
