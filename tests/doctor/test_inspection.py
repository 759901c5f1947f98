"""Each corpus made wrong on purpose names its own cause first; a sound one names none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from wrong_corpora import (
    QUICK,
    WRONG_DATA,
    Corpus,
    MemoryClip,
    constant_offset,
    late,
    of_rate,
    photographs,
    random_offsets,
)

from lipsync.data.clip import Clip
from lipsync.data.inspection.faces import measure_faces
from lipsync.data.inspection.findings import data_findings, histogram
from lipsync.data.inspection.lag_table import LAGS, face_movement, lag_table
from lipsync.data.inspection.negatives import near_negatives
from lipsync.data.inspection.offsets import clip_offsets, common_lag, relation
from lipsync.data.inspection.report import inspect_clips
from lipsync.data.inspection.sample import MIN_FRAMES, SIDE, draw_sample
from lipsync.data.inspection.sound import measure_sound
from lipsync.data.preprocessing.runner import preprocess
from lipsync.data.sync_pairs import SyncPairDataset
from lipsync.faces.detector import MtcnnDetector


def kinds() -> list[object]:
    return [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in WRONG_DATA]


def test_a_sound_corpus_is_not_accused(corpus: Corpus) -> None:
    data = inspect_clips(corpus)
    assert data_findings(data) == []
    assert data.speech is not None
    assert data.speech.fps == 25
    assert data.speech.related
    at = data.speech.rates[25]
    assert abs(at.lag) <= 1
    assert at.correlation > 0.5
    assert data.speech.offsets.confident.sum() >= 10
    assert not data.speech.offsets.astray.any()
    plain = json.loads(json.dumps(data.as_dict(), allow_nan=False))
    assert sum(plain["speech"]["offset_histogram"].values()) == plain["speech"]["confident_clips"]


@pytest.mark.parametrize("kind", kinds())
def test_a_wrong_corpus_names_its_cause_first(corpus: Corpus, kind: str) -> None:
    spoil, cause = WRONG_DATA[kind]
    findings = data_findings(inspect_clips(spoil(corpus)))
    assert findings, "something is wrong"
    assert findings[0].cause == cause
    assert all(0 < finding.strength <= 1 for finding in findings)
    assert [finding.strength for finding in findings] == sorted(
        (finding.strength for finding in findings), reverse=True
    )


def test_offsets_are_reported_in_the_direction_that_repairs_them(corpus: Corpus) -> None:
    (finding,) = data_findings(inspect_clips(constant_offset(corpus, 8)))
    assert re.search(r"all clips is [789] frames late", finding.evidence)
    assert re.search(r"\+[789]:", finding.evidence)
    assert re.search(r"by -[789] frames .* table with [789] for each", finding.advice)
    (finding,) = data_findings(inspect_clips(constant_offset(corpus, -5)))
    assert re.search(r"all clips is [456] frames early", finding.evidence)


@pytest.mark.slow
def test_a_table_of_repaired_offsets_settles_it(corpus: Corpus) -> None:
    wrong = constant_offset(corpus, 8)
    table: dict[str, int | None] = {clip.name: 8 for clip in wrong}
    assert data_findings(inspect_clips(wrong, offsets=table)) == []
    dropped = {**table, wrong[0].name: None}
    assert inspect_clips(wrong, offsets=dropped).sampled == len(wrong) - 1


def test_every_clip_s_own_offset_is_found(corpus: Corpus) -> None:
    """All clips have another offset, so there is no common lag to start from."""
    offsets = np.linspace(-9, 9, len(corpus)).round().astype(int)
    samples = draw_sample([late(clip, frames) for clip, frames in zip(corpus, offsets.tolist(), strict=True)])
    found = clip_offsets(face_movement(samples), samples)
    error = found.lags - offsets
    assert found.t > 4
    assert np.mean(np.abs(error - np.median(error)) <= 1) >= 0.9  # relative: nothing says which is right


def test_histogram_and_common_lag() -> None:
    lags = np.array([0, 0, 1, -1, 5, 0, -8])
    assert common_lag(lags) == 0
    assert common_lag(lags[:0]) == 0
    assert common_lag(np.array([7, 8, 9, 0])) == 8


@pytest.mark.slow
def test_exact_frame_rate_by_the_lips_alone(corpus: Corpus) -> None:
    """Sound cut to the length of the pictures: only the drift is left to tell."""
    wrong = []
    for clip in of_rate(corpus, 30):
        count = int(clip.mel_steps * 25 / 30)
        wrong.append(clip.changed(pictures=clip.images[: int(count / 3.2)], speech=clip.speech[:, :count]))
    data = inspect_clips(wrong)
    assert data.stretch[1] == pytest.approx(1, abs=0.05)
    finding = data_findings(data)[0]
    assert finding.cause == "wrong fps"
    assert "30 fps" in finding.evidence


def test_lengths_tell_the_rate_where_nothing_is_said(corpus: Corpus) -> None:
    """Too few clips for a regression."""
    (finding,) = data_findings(inspect_clips(of_rate(corpus[:4], 30)))
    assert (finding.cause, finding.strength) == ("wrong fps", 0.7)
    assert "1.2" in finding.evidence
    assert data_findings(inspect_clips(corpus[:4])) == []


def test_the_sample_is_reproducible_bounded_and_takes_speakers_in_turn(corpus: Corpus) -> None:
    crowded = [clip for clip in corpus if clip.name.startswith("speaker00")] * 5 + corpus[1:4]
    names = [f"{'many' if at < 15 else f'few{at}'}/{at}" for at in range(len(crowded))]
    clips = [MemoryClip(n, c.images, c.speech) for n, c in zip(names, crowded, strict=True)]
    once = draw_sample(clips, count=6, max_frames=40, seed=3)
    again = draw_sample(clips, count=6, max_frames=40, seed=3)
    assert [sample.name for sample in once] == [sample.name for sample in again]
    assert len(once) == 6
    assert {sample.name.partition("/")[0] for sample in once} == {"many", "few15", "few16", "few17"}
    assert all(sample.frames.shape == (40, SIDE, SIDE) for sample in once)
    assert once[0].first == 10
    other = draw_sample(clips, count=6, max_frames=40, seed=4)
    assert [sample.name for sample in once] != [sample.name for sample in other]


def test_short_and_broken_runs_are_left_out(corpus: Corpus) -> None:
    short = corpus[0].changed(pictures=corpus[0].images[: MIN_FRAMES - 1])
    data = inspect_clips([short])
    assert data.sampled == 0
    (finding,) = data_findings(data)
    assert finding.cause == "clips too short"
    assert json.dumps(data.as_dict(), allow_nan=False)


@pytest.mark.slow
def test_the_same_sample_gives_the_same_measurements(corpus: Corpus) -> None:
    one, two = (inspect_clips(random_offsets(corpus)).as_dict() for _ in range(2))
    assert one == two


def test_numbers_of_faces_and_sound(corpus: Corpus) -> None:
    samples = draw_sample(corpus)
    faces, sound = measure_faces(samples), measure_sound(samples)
    assert faces.jump < 0.01
    assert faces.disorder < 0.5
    assert faces.axis_spread < 0.02
    assert faces.still == 0
    assert sound.silent_windows == 0
    assert sound.flat_clips == 0
    frozen = measure_faces(draw_sample(photographs(corpus)[:3]))
    assert frozen.still == 1
    half = [replace(samples[0], mel=np.full_like(samples[0].mel, -4)), samples[1]]
    assert measure_sound(half).silent_windows == pytest.approx(0.5, abs=0.01)
    assert measure_sound(half).flat_clips == 0.5


def test_the_relation_peaks_where_the_sound_was_put(corpus: Corpus) -> None:
    for frames in (-6, 3):
        samples = draw_sample(constant_offset(corpus, frames))
        found = relation(lag_table(face_movement(samples), samples))
        assert abs(found.lag - frames) <= 1
        assert found.curve[found.lag == LAGS].item() > 0.9 * found.correlation
        assert found.curve.max() == pytest.approx(found.correlation)


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"objective": "bce", "min_negative_gap": 5}, 0, 0),
        ({"objective": "bce", "min_negative_gap": 3}, 0, 0),
        ({"objective": "bce", "min_negative_gap": 1}, 0.05, 0.14),
    ],
)
def test_near_negatives_of_labelled_pairs(corpus: Corpus, settings: dict, low: float, high: float) -> None:
    share = near_negatives(SyncPairDataset(corpus, True, **settings))
    assert share is not None
    assert low <= share <= high


def test_near_negatives_of_contrast(corpus: Corpus) -> None:
    windows = SyncPairDataset(corpus, True, windows_per_clip=8)
    assert near_negatives(windows, min_gap=3) == 0
    noisy = near_negatives(windows, min_gap=1)
    assert noisy is not None
    assert 0.05 < noisy < 0.14
    assert near_negatives(SyncPairDataset(corpus, True, windows_per_clip=1)) is None


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Sixteen clips of one real speaker."""
    raw, out = tmp_path_factory.mktemp("raw") / "main" / "grid_s1", tmp_path_factory.mktemp("out")
    raw.mkdir(parents=True)
    for path in sorted((shared / "data/raw/grid_s1").glob("*.mpg"))[:16]:
        (raw / path.name).symlink_to(path)
    preprocess(raw.parents[1], out, partial(MtcnnDetector))
    clips = [Clip(path.parent) for path in sorted(out.rglob("manifest.json"))]
    return [MemoryClip(clip.name, clip.frames(clip.present, 96), clip.mel()) for clip in clips]


@pytest.mark.slow
@pytest.mark.shared
def test_real_clips_are_sound_and_shifted_ones_are_not(real: Corpus) -> None:
    assert len(real) >= 12
    assert data_findings(inspect_clips(real)) == []
    (constant,) = data_findings(inspect_clips(constant_offset(real, 8)))
    assert constant.cause == "audio offset"
    assert re.search(r"all clips is [789] frames late", constant.evidence)
    shifted = inspect_clips(random_offsets(real, 0.3))
    findings = data_findings(shifted)
    assert findings[0].cause == "audio offset"
    assert shifted.speech is not None
    assert "0:" in histogram(shifted.speech.offsets)
    (rate,) = data_findings(inspect_clips(of_rate(real, 30)))
    assert rate.cause == "wrong fps"
