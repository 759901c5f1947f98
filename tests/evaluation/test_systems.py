"""Lists of clips, the systems made of them, their sounds, and the making of their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_lists import NAMES, listing

from lipsync.errors import ConfigError, MediaError, NoFaceError, UserError
from lipsync.evaluation.inputs import Sound, VideoItem
from lipsync.evaluation.pairs import read_clips
from lipsync.evaluation.sounds import SAMPLES_PER_FRAME, SoundShelf, fitted
from lipsync.evaluation.systems import (
    Job,
    Plan,
    generate,
    generators_of,
    plan_generator,
    plan_videos,
)
from lipsync.media.provenance import Provenance, read_provenance
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import VideoWriter

Make = Callable[..., Path]


def planned(corpus: Path, text: str | None = None, **options: Any) -> dict[str, Plan]:
    path = corpus / "filelists" / "test.txt" if text is None else listing(corpus, text)
    return {plan.name: plan for plan in plan_generator(read_clips(path), Path("out"), **options)}


class TestPlans:
    def test_all_systems_of_a_list(self, corpus: Path) -> None:
        plans = planned(corpus)
        assert list(plans) == ["real", "reconstruction", "cross", "static", "silence"]
        for name, plan in plans.items():
            assert [item.name for item in plan.items] == list(NAMES)
            assert {item.system for item in plan.items} == {name}
            assert plan.label
            assert plan.about
        assert not plans["real"].jobs
        assert all(len(plans[name].jobs) == 4 for name in list(plans)[1:])

    def test_the_real_row_carries_the_floor(self, corpus: Path) -> None:
        real = planned(corpus)["real"]
        clips = {item.name: item.path for item in real.items}
        for item in real.items:
            donor = item.probes["shuffled"].path
            assert donor in clips.values()
            assert donor != item.path
            assert list(item.probes) == ["shuffled"]
            assert item.reference is None
        assert len({item.probes["shuffled"].path for item in real.items}) == 4
        anna = next(item for item in real.items if item.name == "anna/1")
        assert anna.probes["shuffled"].path.parent.name != "anna"

    def test_shifts(self, corpus: Path) -> None:
        item = planned(corpus, max_shift=2)["real"].items[0]
        names = ["shuffled", "shifted:-2", "shifted:-1", "shifted:0", "shifted:1", "shifted:2"]
        assert list(item.probes) == names
        assert [item.probes[name].shift for name in names[1:]] == [-2, -1, 0, 1, 2]

    def test_how_each_system_is_made_and_scored(self, corpus: Path) -> None:
        plans = planned(corpus)
        clip = corpus / "main" / "anna" / "1.mp4"
        expected = {
            "reconstruction": (clip, True, Sound(), False),
            "static": (clip, False, Sound(), True),
            "silence": (None, False, Sound(clip), False),
        }
        for name, (audio, paired, sound, static) in expected.items():
            item, job = plans[name].items[0], plans[name].jobs[0]
            assert job == Job(clip, audio, Path("out") / name / "anna/1.mp4", static)
            assert (item.path, item.reference, item.paired) == (job.outfile, clip, paired)
            assert (item.sound, dict(item.probes)) == (sound, {})
        for item, job in zip(plans["cross"].items, plans["cross"].jobs, strict=True):
            assert (item.reference, item.paired, item.sound) == (job.face, False, Sound())
            assert job.audio is not None
            assert job.audio != job.face
            assert not job.static
        assert sorted(str(job.audio) for job in plans["cross"].jobs) == sorted(
            str(job.face) for job in plans["cross"].jobs
        )

    def test_a_pairs_list_makes_its_pairs(self, corpus: Path) -> None:
        plans = planned(corpus, "anna/1 ben/1\ncarl/7 anna/2\n")
        main = corpus / "main"
        assert [(job.audio, job.face) for job in plans["cross"].jobs] == [
            (main / "anna/1.mp4", main / "ben/1.mkv"),
            (main / "carl/7.mp4", main / "anna/2.mp4"),
        ]
        assert [item.name for item in plans["cross"].items] == ["ben/1", "anna/2"]
        assert [item.name for item in plans["real"].items] == ["ben/1", "anna/2"]

    def test_a_face_in_two_pairs_makes_two_videos(self, corpus: Path) -> None:
        cross = planned(corpus, "anna/1 ben/1\ncarl/7 ben/1\n")["cross"]
        assert [item.name for item in cross.items] == ["ben/1__anna/1", "ben/1__carl/7"]
        assert len({item.path for item in cross.items}) == 2

    def test_missing_clips_keep_their_rows(self, corpus: Path) -> None:
        plans = planned(corpus, "anna/1\ndora/1\nben/1\n")
        for plan in plans.values():
            assert [item.name for item in plan.items] == ["anna/1", "dora/1", "ben/1"]
        assert "shuffled" not in plans["real"].items[1].probes
        audios = [job.audio for job in plans["cross"].jobs if job.face.is_file()]
        assert all(audio is not None and audio.is_file() for audio in audios), "no clip gets a missing sound"
        assert "1 of 3 clips have no file" in plans["real"].notes[0]

    def test_one_clip_has_no_other_sound(self, corpus: Path) -> None:
        plans = planned(corpus, "anna/1\n")
        assert list(plans) == ["real", "reconstruction", "static", "silence"]
        assert not plans["real"].items[0].probes
        assert "There is one clip" in plans["real"].notes[0]
        with pytest.raises(ConfigError, match="needs two clips"):
            planned(corpus, "anna/1\n", systems=["cross"])

    def test_chosen_systems(self, corpus: Path) -> None:
        assert list(planned(corpus, systems=["silence", "cross"])) == ["cross", "silence"]
        (real,) = planned(corpus, systems=["shuffled"]).values()
        assert real.name == "real"
        assert not planned(corpus, systems=["real"])["real"].items[0].probes
        for systems, message in (
            (["reel"], "reel is unknown"),
            ([], "leaves nothing"),
            (["shifted"], "give max_shift"),
        ):
            with pytest.raises(ConfigError, match=message):
                planned(corpus, systems=systems)
        with pytest.raises(ConfigError, match="max_shift=-1"):
            planned(corpus, max_shift=-1)

    def test_the_seed_decides_the_pairs(self, corpus: Path) -> None:
        def audios(seed: int) -> list[Path | None]:
            return [job.audio for job in planned(corpus, seed=seed)["cross"].jobs]

        assert audios(1) == audios(1)
        assert len({tuple(audios(seed)) for seed in range(6)}) > 1


class TestVideos:
    def items(self, corpus: Path, *references: str | None) -> list[VideoItem]:
        main = corpus / "main"
        found = [main / f"{name}.{'mkv' if name == 'ben/1' else 'mp4'}" for name in NAMES]
        named = references or (None,) * len(NAMES)
        return [
            VideoItem(name, path, None if other is None else main / other)
            for name, path, other in zip(NAMES, found, named, strict=False)
        ]

    def test_videos_alone_have_their_floor_and_shifts(self, corpus: Path) -> None:
        (plan,) = plan_videos(self.items(corpus), max_shift=1)
        assert (plan.name, plan.jobs, plan.notes) == ("videos", (), [])
        for item in plan.items:
            assert list(item.probes) == ["shuffled", "shifted:-1", "shifted:0", "shifted:1"]
            assert item.probes["shuffled"].path != item.path

    def test_references_make_a_real_row_each_once(self, corpus: Path) -> None:
        items = self.items(corpus, "ben/1.mkv", "ben/1.mkv", None, "anna/1.mp4")
        videos, real = plan_videos(items, max_shift=1)
        assert [item.reference for item in videos.items] == [item.reference for item in items]
        assert [(item.name, item.path) for item in real.items] == [
            ("anna/1", corpus / "main/ben/1.mkv"),
            ("carl/7", corpus / "main/anna/1.mp4"),
        ]
        assert {item.system for item in real.items} == {"real"}
        assert list(videos.items[0].probes) == ["shuffled"], "real clips are what shifts are tried on"
        assert list(real.items[0].probes) == ["shifted:-1", "shifted:0", "shifted:1"]

    def test_one_video_has_no_floor(self, corpus: Path) -> None:
        (plan,) = plan_videos(self.items(corpus)[:1])
        assert not plan.items[0].probes
        assert "one clip" in plan.notes[0]

    def test_who_made_them(self, corpus: Path, tmp_path: Path) -> None:
        items = self.items(corpus)
        for number, digest in enumerate(("ab" * 32, "cd" * 32, "ab" * 32)):
            path = tmp_path / f"{number}.mp4"
            with VideoWriter(
                path, 8, 8, Fraction(25), metadata=Provenance(digest, ("e",)).metadata
            ) as writer:
                writer.write(np.zeros((8, 8, 3), np.uint8))
            items.append(VideoItem(path.name, path))
        items.append(VideoItem("gone", tmp_path / "gone.mp4"))
        made = generators_of(items)
        assert [(one.name, one.sha256, one.trained_with) for one in made] == [
            ("ab" * 6, "ab" * 32, ("e",)),
            ("cd" * 6, "cd" * 32, ("e",)),
        ]


class TestSounds:
    def test_own_sound_is_untouched_and_shifts_are_whole_frames(self, corpus: Path) -> None:
        clip = corpus / "main" / "carl" / "7.mp4"
        own = load_waveform(clip)
        shifts = {f"shifted:{k}": Sound(shift=k) for k in (-3, 0, 2, 99)}
        sounds = SoundShelf().sounds_for(VideoItem("x", clip, probes=shifts))
        assert list(sounds) == ["own", *shifts]
        got = {name: np.asarray(sound) for name, sound in sounds.items()}
        assert all(sound.shape == own.shape for sound in got.values())
        np.testing.assert_array_equal(got["own"], own)
        np.testing.assert_array_equal(got["shifted:0"], own)
        early = 2 * SAMPLES_PER_FRAME
        np.testing.assert_array_equal(got["shifted:2"][:-early], own[early:])
        assert not got["shifted:2"][-early:].any()
        late = 3 * SAMPLES_PER_FRAME
        np.testing.assert_array_equal(got["shifted:-3"][late:], own[:-late])
        assert not got["shifted:-3"][:late].any()
        assert not got["shifted:99"].any()
        assert np.shares_memory(got["own"], got["shifted:2"]), "shifts of a long clip need no memory"

    def test_other_sounds_are_repeated_or_cut(self, corpus: Path) -> None:
        short, long = corpus / "main" / "anna" / "1.mp4", corpus / "main" / "carl" / "7.mp4"
        stretched = SoundShelf().sounds_for(VideoItem("x", long, probes={"shuffled": Sound(short)}))
        other, given = load_waveform(short), np.asarray(stretched["shuffled"])
        assert given.size == 13 * SAMPLES_PER_FRAME
        np.testing.assert_array_equal(given[: other.size], other)
        np.testing.assert_array_equal(given[other.size :], other[: given.size - other.size])
        cut = SoundShelf().sounds_for(VideoItem("x", short, sound=Sound(long)))["own"]
        np.testing.assert_array_equal(cut, load_waveform(long)[: 10 * SAMPLES_PER_FRAME])

    def test_fitted(self) -> None:
        wave = np.arange(3, dtype=np.float32)
        assert fitted(wave, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert fitted(wave, 2).tolist() == [0, 1]
        assert fitted(wave, 0) is wave

    def test_each_sound_fails_for_itself(self, corpus: Path, tmp_path: Path, make_video: Make) -> None:
        silent = make_video(tmp_path / "mute.mp4", 5, (32, 32), sound=False)
        donor = corpus / "main" / "anna" / "1.mp4"
        probes = {"shuffled": Sound(donor), "shifted:1": Sound(shift=1), "gone": Sound(tmp_path / "gone.mp4")}
        sounds = SoundShelf().sounds_for(VideoItem("x", silent, probes=probes))
        assert isinstance(sounds["own"], MediaError)
        assert "mute.mp4: has no audio" in str(sounds["own"])
        assert isinstance(sounds["shifted:1"], UserError)
        assert isinstance(sounds["gone"], MediaError)
        np.testing.assert_array_equal(sounds["shuffled"], load_waveform(donor)[: 5 * SAMPLES_PER_FRAME])

    def test_a_file_is_decoded_once(self, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded: list[Path] = []

        def counted(path: Path, rate: int) -> np.ndarray:
            loaded.append(path)
            return load_waveform(path, rate)

        monkeypatch.setattr("lipsync.evaluation.sounds.load_waveform", counted)
        shelf = SoundShelf()
        for item in planned(corpus, max_shift=3)["real"].items:
            shelf.sounds_for(item)
        assert sorted(loaded) == sorted(set(loaded))
        assert len(loaded) == 4

    def test_long_sounds_are_let_go(self, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lipsync.evaluation.sounds._KEPT_SAMPLES", 15000)
        shelf = SoundShelf()
        for item in planned(corpus)["real"].items:
            shelf.sounds_for(item)
        assert sum(wave.size for wave in shelf._kept.values()) <= 15000


class Painter:
    """Writes a grey picture where the face exists; keeps the jobs it did."""

    def __init__(self, generator: str = "ab" * 32) -> None:
        self.generator = generator
        self.done: list[str] = []
        self.error: BaseException | None = None

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"generator": self.generator}

    def __call__(self, job: Job, key: str) -> None:
        if self.error is not None:
            raise self.error
        metadata = Provenance(self.generator, job=key).metadata
        with VideoWriter(job.outfile, 8, 8, Fraction(25), preset="ultrafast", metadata=metadata) as writer:
            writer.write(np.zeros((8, 8, 3), np.uint8))
        self.done.append(job.outfile.name)


class TestMaking:
    def plan(self, corpus: Path, folder: Path, system: str = "cross", **options: Any) -> Plan:
        listed = read_clips(corpus / "filelists" / "test.txt")
        (plan,) = plan_generator(listed, folder, systems=[system], **options)
        return plan

    def test_files_are_made_and_counted(self, corpus: Path, tmp_path: Path) -> None:
        plan, told = self.plan(corpus, tmp_path), []
        assert generate(plan, Painter(), lambda *progress: told.append(progress)) == {}
        assert told == [("generate cross", done, 4) for done in (1, 2, 3, 4)]
        assert all(item.path.is_file() for item in plan.items)

    def test_what_is_there_is_kept(self, corpus: Path, tmp_path: Path) -> None:
        plan = self.plan(corpus, tmp_path)
        generate(plan, Painter())
        plan.jobs[2].outfile.unlink()
        plan.jobs[3].outfile.write_bytes(b"cut short by a crash")
        again = Painter()
        generate(plan, again)
        assert again.done == [plan.jobs[2].outfile.name, plan.jobs[3].outfile.name]

    def test_another_generator_input_or_pair_makes_it_anew(self, corpus: Path, tmp_path: Path) -> None:
        plan = self.plan(corpus, tmp_path)
        generate(plan, Painter())
        other = Painter("cd" * 32)
        generate(plan, other)
        assert len(other.done) == 4
        assert read_provenance(plan.jobs[0].outfile).generator == other.generator
        seeds = [seed for seed in range(9) if self.plan(corpus, tmp_path, seed=seed).jobs != plan.jobs]
        changed = Painter("cd" * 32)
        generate(self.plan(corpus, tmp_path, seed=seeds[0]), changed)
        assert changed.done, "the same name stands for another pair"
        reconstruction = self.plan(corpus, tmp_path, "reconstruction")
        generate(reconstruction, Painter())
        clip = reconstruction.jobs[1].face
        status = clip.stat()
        os.utime(clip, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        touched = Painter()
        generate(reconstruction, touched)
        assert touched.done == [reconstruction.jobs[1].outfile.name]

    def test_files_of_others_are_not_taken_for_ours(self, corpus: Path, tmp_path: Path) -> None:
        plan = self.plan(corpus, tmp_path)
        plan.jobs[0].outfile.parent.mkdir(parents=True)
        plan.jobs[0].outfile.write_bytes(plan.jobs[0].face.read_bytes())
        painter = Painter()
        painter.error = NoFaceError("no face")
        assert len(generate(plan, painter)) == 4
        assert not plan.jobs[0].outfile.exists()

    def test_a_clip_that_fails_has_its_reason_and_no_file(self, corpus: Path, tmp_path: Path) -> None:
        listed = read_clips(listing(corpus, "anna/1\ndora/1\n"))
        (plan,) = plan_generator(listed, tmp_path, systems=["silence"])
        failed = generate(plan, Painter())
        assert list(failed) == ["dora/1"]
        assert failed["dora/1"].startswith("not generated: ")
        assert "dora/1.mp4: cannot be read (No such file or directory)" in failed["dora/1"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), ConfigError("wrong"), RuntimeError("bug")])
    def test_what_is_not_the_clips_fault_ends_the_run(
        self, corpus: Path, tmp_path: Path, error: BaseException
    ) -> None:
        painter = Painter()
        painter.error = error
        with pytest.raises(type(error)):
            generate(self.plan(corpus, tmp_path), painter)

    def test_real_clips_need_no_making(self, corpus: Path, tmp_path: Path) -> None:
        assert generate(self.plan(corpus, tmp_path, "real"), Painter()) == {}
