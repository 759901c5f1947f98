"""Lists of clips, and which speech each face gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_lists import NAMES, listing

from lipsync.errors import DataError
from lipsync.evaluation.pairs import deranged, read_clips


class TestLists:
    def test_an_lrs2_list(self, corpus: Path) -> None:
        listed = read_clips(corpus / "filelists" / "test.txt")
        assert [clip.name for clip in listed.clips] == list(NAMES)
        assert [clip.path.suffix for clip in listed.clips] == [".mp4", ".mp4", ".mkv", ".mp4"]
        assert all(clip.path.is_file() for clip in listed.clips)
        assert (listed.pairs, listed.notes) == (None, ())

    def test_a_pairs_list_names_the_sound_first(self, corpus: Path) -> None:
        listed = read_clips(listing(corpus, "anna/1 ben/1\n\n# x\ncarl/7 ben/1\nanna/1 anna/2\n"))
        assert listed.pairs is not None
        pairs = [(sound.name, face.name) for sound, face in listed.pairs]
        assert pairs == [("anna/1", "ben/1"), ("carl/7", "ben/1"), ("anna/1", "anna/2")]
        assert [clip.name for clip in listed.clips] == ["ben/1", "anna/2"], "each face once, no mere sounds"

    @pytest.mark.parametrize("root", ["main", "."])
    def test_clips_lie_below_main_or_not(self, corpus: Path, root: str) -> None:
        listed = read_clips(listing(corpus, "anna/1.mp4\n"), corpus / root)
        assert listed.clips[0].name == "anna/1"
        assert listed.clips[0].path.samefile(corpus / "main" / "anna" / "1.mp4")

    def test_flat_corpora(self, corpus: Path) -> None:
        folder = corpus / "main" / "anna"
        assert read_clips(listing(corpus, "1 2\n2 1\n"), folder).pairs is not None
        assert read_clips(listing(corpus, "1 NF\n2 MV x\n"), folder).pairs is None

    def test_the_list_may_lie_beside_main(self, corpus: Path) -> None:
        (corpus / "test.txt").write_text("anna/1\n")
        assert read_clips(corpus / "test.txt").clips[0].path.is_file()

    def test_repeated_and_missing_clips_are_told(self, corpus: Path) -> None:
        listed = read_clips(listing(corpus, "anna/1\nanna/1 NF\nben/9\nanna/1.mp4\n"))
        assert [clip.name for clip in listed.clips] == ["anna/1", "ben/9"]
        assert listed.clips[1].path == corpus / "main" / "ben" / "9.mp4"
        repeated, missing = listed.notes
        assert "2 of 4 lines repeat" in repeated
        assert "1 of 2 clips have no file (ben/9)" in missing

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "lists no clip"),
            ("anna/1\n\nben/1 anna/2\n", r"list\.txt:3: names 2 where the lines before name 1"),
            ("anna/1 ben/1\nben/1 NF\n", r"list\.txt:2: names 1 where the lines before name 2"),
            ("anna/1 ben/1 carl/7\n", r"list\.txt:1: 3 words"),
            ("anna/1\n../ben/1\n", r"list\.txt:2: '\.\./ben/1' is no folder/id"),
            ("/anna/1\n", r"list\.txt:1: '/anna/1'"),
            ("anna/1 /ben/1\n", r"list\.txt:1: '/ben/1'"),
            ("dora/1\ndora/2\n", r"none of its 2 clips is below .* \(looked for .*dora/1\.mp4\)"),
        ],
    )
    def test_wrong_lists_name_the_line(self, corpus: Path, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            read_clips(listing(corpus, text))
        assert "\n" not in str(caught.value)

    def test_wrong_places(self, corpus: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone\.txt: cannot be read|gone\.txt: cannot read"):
            read_clips(corpus / "filelists" / "gone.txt")
        with pytest.raises(DataError, match="gone: no such folder; give data_root"):
            read_clips(corpus / "filelists" / "test.txt", tmp_path / "gone")
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists" / "test.txt").write_text("anna/1\n")
        with pytest.raises(DataError, match="has a folder main; give data_root=DIR"):
            read_clips(tmp_path / "lists" / "test.txt")
        (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="not UTF-8"):
            read_clips(tmp_path / "bytes.txt", corpus)


class TestDerangement:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("sizes", [(2,), (1, 1), (3, 3), (5, 1), (4, 3, 2, 1), (1,) * 9, (7, 2, 2)])
    def test_everyone_gets_another_one_of_another_group_where_possible(
        self, sizes: tuple[int, ...], seed: int
    ) -> None:
        groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
        names = [f"{group}/{index}" for index, group in enumerate(groups)]
        given = deranged(names, groups, seed)
        assert sorted(given) == sorted(given.values()) == sorted(names)
        assert all(name != other for name, other in given.items())
        group = dict(zip(names, groups, strict=True))
        within = sum(group[name] == group[other] for name, other in given.items())
        assert within == max(0, 2 * max(sizes) - len(names)), "no more than must be"

    def test_order_does_not_matter_and_the_seed_does(self) -> None:
        names = [f"s{number % 4}/{number}" for number in range(12)]
        groups = [name.partition("/")[0] for name in names]
        assert deranged(names, groups, 1) == deranged(names[::-1], groups[::-1], 1)
        assert deranged(names, groups, 1) != deranged(names, groups, 2)

    def test_one_alone_gets_nothing(self) -> None:
        assert deranged(["a"], [""]) == {}
        assert deranged([], []) == {}
