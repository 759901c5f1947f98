"""File lists: what is read, what is refused, and with which message."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lipsync.data.filelist import read_filelist, resolve_filelist, write_filelist
from lipsync.errors import DataError


def test_first_token_of_each_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("\n# LRS2\n6330311066473698535/00011 NF\n  a/b\tMV 3\n\n./c/d\n", encoding="utf-8")
    assert read_filelist(path) == ["6330311066473698535/00011", "a/b", "c/d"]


def test_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes("\ufeffZoë-語音/00001\r\nb/2\r\n".encode())
    assert read_filelist(path) == ["Zoë-語音/00001", "b/2"]


def test_repeated_names_count_once_and_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "train.txt"
    path.write_text("a/1\nb/2\na/1\na/1 MV\n")
    with caplog.at_level(logging.WARNING):
        assert read_filelist(path) == ["a/1", "b/2"]
    assert "2 repeated names" in caplog.text


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b", "..", "."])
def test_names_that_leave_the_data_folder_are_refused_with_their_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(f"a/1\n\n{name}\n")
    with pytest.raises(DataError, match=rf"{path}:3: "):
        read_filelist(path)


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"\xff\xfe\x00bad"])
def test_empty_or_binary_lists_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "val.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        read_filelist(path)


def test_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run preprocess first"):
        read_filelist(tmp_path / "train.txt")


def test_written_names_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "filelists" / "train.txt"
    write_filelist(path, ["b/2", "a/1"])
    assert read_filelist(path) == ["b/2", "a/1"]
    assert [entry.name for entry in path.parent.iterdir()] == ["train.txt"]


@pytest.mark.parametrize("name", ["", "a b/c", "#a/b", "a/b\n"])
def test_names_that_would_not_be_read_back_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a file list"):
        write_filelist(tmp_path / "train.txt", ["a/1", name])
    assert list(tmp_path.iterdir()) == []


def test_resolve_names_the_splits_that_exist(tmp_path: Path) -> None:
    write_filelist(tmp_path / "filelists" / "val_seen.txt", ["a/1"])
    assert resolve_filelist(tmp_path, "val_seen") == tmp_path / "filelists" / "val_seen.txt"
    with pytest.raises(DataError, match=r"test\.txt: no such file list \(splits found: val_seen\)"):
        resolve_filelist(tmp_path, "test")
