"""Nothing half-written under a final name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipsync.files import replacing, write_text


def test_the_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_bytes(b"half")
        assert not path.exists()
        assert part.parent == tmp_path
    assert path.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "older\n")

    def fail() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"older\n"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "人\r\nö\n")
    assert (tmp_path / "a.txt").read_bytes() == "人\r\nö\n".encode()
