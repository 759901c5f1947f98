"""Who made a video is told by the file itself."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media.provenance import SOURCE_TYPE, Provenance, is_synthetic, read_provenance
from lipsync.media.writer import VideoWriter

GENERATOR, EXPERTS = "ab" * 32, ("12" * 32, "cd" * 32)


def write(path: Path, metadata: dict[str, str] | None) -> Path:
    sound = np.zeros(1600, np.float32)
    with VideoWriter(path, 32, 32, Fraction(25), sound, preset="ultrafast", metadata=metadata) as writer:
        writer.write(np.full((32, 32, 3), 90, np.uint8))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv"])
@pytest.mark.parametrize(
    "provenance",
    [Provenance(GENERATOR), Provenance(GENERATOR, EXPERTS), Provenance(GENERATOR, EXPERTS[:1], "f" * 64)],
)
def test_round_trip(tmp_path: Path, suffix: str, provenance: Provenance) -> None:
    assert read_provenance(write(tmp_path / f"out{suffix}", provenance.metadata)) == provenance


def test_a_name_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mp4", Provenance(GENERATOR).metadata).rename(tmp_path / "other.mp4")
    assert read_provenance(path) == Provenance(GENERATOR)


def test_the_comment_reads_as_documented() -> None:
    comment = Provenance("a", ("b", "c"), "d").comment
    label = f"lipsync AI-generated synthetic media digital-source-type={SOURCE_TYPE}"
    assert comment == f"{label} generator=a experts=b,c job=d"
    assert Provenance().comment == label
    assert SOURCE_TYPE.endswith("/compositeWithTrainedAlgorithmicMedia")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_unknown_generator_leaves_the_mark(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"out{suffix}", Provenance().metadata)
    assert is_synthetic(path)
    assert read_provenance(path) is None


@pytest.mark.parametrize(
    ("comment", "ours"),
    [
        (f"lipsync generator={GENERATOR} job=x", True),
        (Provenance(GENERATOR, EXPERTS, "job").comment, True),
        ("lipsync is fun", False),
        ("AI-generated, they say", False),
        ("", False),
    ],
)
def test_old_and_new_marks_are_known(tmp_path: Path, comment: str, ours: bool) -> None:
    assert is_synthetic(write(tmp_path / "out.mp4", {"comment": comment})) is ours


def test_comments_of_earlier_versions_are_read(tmp_path: Path) -> None:
    comment = f"lipsync generator={GENERATOR} experts={','.join(EXPERTS)} job=abc"
    path = write(tmp_path / "out.mp4", {"comment": comment})
    assert read_provenance(path) == Provenance(GENERATOR, EXPERTS, "abc")


@pytest.mark.parametrize(
    "comment",
    [None, "", "   ", "holiday in Rome", "lipsync is fun", "other generator=ab", "lipsync experts=ab"],
)
def test_files_of_others_tell_nothing(tmp_path: Path, comment: str | None) -> None:
    metadata = None if comment is None else {"comment": comment}
    assert read_provenance(write(tmp_path / "out.mp4", metadata)) is None


def test_words_of_later_versions_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mkv", {"comment": f"lipsync generator={GENERATOR} mood=good extra"})
    assert read_provenance(path) == Provenance(GENERATOR)


def test_unreadable_files_are_named(tmp_path: Path, make: Callable[..., Path]) -> None:
    with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
        read_provenance(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError, match=r"text\.mp4"):
        read_provenance(tmp_path / "text.mp4")
    assert read_provenance(make("titled.mp4", title="lipsync generator=ab")) is None
