from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from lipsync.errors import NotScorableError
from lipsync.evaluation.protocols import StrictProtocol
from lipsync.evaluation.scoring import score_clip, score_sounds
from lipsync.evaluation.tracks import Track, TrackRules, crop_regions, link_tracks
from lipsync.faces.detector import AnnotatedDetector
from lipsync.media.waveform import load_waveform
from lipsync.types import Box


def _box(index):
    return [(8.0, 4.0, 56.0, 44.0)]


@pytest.fixture
def protocol():
    return StrictProtocol(AnnotatedDetector())


def _levels(crops):
    return crops[:, 14:18, 14:18].reshape(len(crops), -1).mean(axis=1)


@pytest.mark.parametrize("fps", [25, 30, 50])
def test_every_rate_is_read_at_25_fps(tmp_path, make_video, recorder, protocol, fps):
    path = make_video(
        tmp_path / "a.mp4", 2 * fps, fps=Fraction(fps), faces=_box, level=lambda i: 20 + 50 * i // fps
    )
    judge = recorder()
    score = score_clip(path, judge, protocol)
    assert len(judge.crops[0]) == 50
    assert score.windows == 50  # the judge of these tests gives a row for every frame; none is dropped
    np.testing.assert_allclose(_levels(judge.crops[0]), 20 + 2 * np.arange(50), atol=3)
    np.testing.assert_array_equal(judge.waveforms[0], load_waveform(path)[: 50 * 640])
    assert score.notes == ()


def test_pairs_without_sound_are_left_out(tmp_path, make_video, recorder, protocol):
    path = make_video(tmp_path / "a.mp4", 40, faces=_box)
    judge = recorder()
    track = score_clip(path, judge, protocol).best
    video, audio = judge._noise(1, 40).double(), judge._noise(-1, 40).double()
    means = []
    for shift in range(-15, 16):
        rows = range(max(0, -shift), min(40, 40 - shift))
        means.append(np.mean([float((video[i] - audio[i + shift] + 1e-6).norm()) for i in rows]))
    assert track.score.distance == pytest.approx(min(means), abs=1e-5)
    assert track.score.confidence == pytest.approx(np.median(means) - min(means), abs=1e-5)
    assert track.score.offset == 15 - int(np.argmin(means))
    # the curve covers the frames that have sound at the best shift
    assert len(track.curve) == 40 - abs(track.score.offset)
    assert track.curve_start == max(0, track.score.offset)
    assert np.isfinite(track.curve).all()


def test_ten_pairs_must_stand_behind_every_shift(tmp_path, make_video, recorder, protocol):
    class FiveFrames(recorder):  # one row for every five-frame window, as real judges give them
        def look(self, frames):
            yield torch.cat(list(super().look(frames)))[:-4]

    enough = make_video(tmp_path / "a.mp4", 29, faces=_box)
    assert score_clip(enough, FiveFrames(), protocol).windows == 25
    short = make_video(tmp_path / "b.mp4", 28, faces=_box)
    with pytest.raises(NotScorableError, match="28 frames together, at least 29"):
        score_clip(short, FiveFrames(), protocol)


def test_the_most_confident_face_is_the_score(tmp_path, make_video, recorder, protocol):
    def faces(index):
        return [(10.0, 10.0, 90.0, 110.0), (120.0, 10.0, 200.0, 110.0)]

    path = make_video(tmp_path / "a.mp4", 60, (240, 120), faces=faces)
    score = score_clip(path, recorder(), protocol)
    assert len(score.tracks) == 2
    best = max(score.tracks, key=lambda track: track.score.confidence)
    assert (score.distance, score.confidence, score.offset) == pytest.approx(best.score)
    assert score.windows == best.windows == 60


def test_faces_too_small_or_absent_are_a_reason(tmp_path, make_video, recorder, protocol):
    path = make_video(tmp_path / "a.mp4", 40, faces=lambda index: [(8.0, 4.0, 48.0, 44.0)])
    with pytest.raises(NotScorableError, match="more than 40 pixels"):
        score_clip(path, recorder(), protocol)


def test_a_short_gap_does_not_split_a_face(tmp_path, make_video, recorder, protocol):
    path = make_video(tmp_path / "a.mp4", 80, faces=lambda index: [] if 30 <= index < 50 else _box(index))
    score = score_clip(path, recorder(), protocol)
    assert [(track.start, track.windows) for track in score.tracks] == [(0, 80)]


def test_expert_judges_see_the_face_box(tmp_path, make_video, recorder, protocol):
    path = make_video(tmp_path / "a.mp4", 50, faces=_box)
    judge = recorder("face", 16)
    assert score_clip(path, judge, protocol).windows == 50
    assert judge.crops[0].shape == (50, 16, 16, 3)


def test_sounds_share_one_look(tmp_path, make_video, recorder, protocol):
    path = make_video(tmp_path / "a.mp4", 80, faces=_box)
    own = load_waveform(path)
    judge = recorder()
    sounds = {"own": own, "late": np.roll(own, 1280), "short": own[: 35 * 640], "none": own[:1000]}
    scores = score_sounds(path, judge, protocol, sounds)
    assert len(judge.crops) == 1
    for name, heard in zip(sounds, judge.waveforms, strict=True):
        np.testing.assert_array_equal(heard, sounds[name])
    assert scores["own"].windows == 80
    assert list(scores) == list(sounds)


def test_frames_beyond_the_longest_sound_are_not_looked_at(tmp_path, make_video, recorder, protocol):
    path = make_video(tmp_path / "a.mp4", 80, faces=_box)
    judge = recorder()
    score_sounds(path, judge, protocol, {"a": np.zeros(40 * 640, np.float32), "b": np.zeros(9, np.float32)})
    assert len(judge.crops[0]) == 40


def test_one_sound_may_fail_alone(tmp_path, make_video, recorder, protocol):
    class Picky(recorder):
        def windows(self, waveform, *rows, **end):
            if not waveform.any():
                raise NotScorableError("silence")
            return super().windows(waveform, *rows, **end)

    path = make_video(tmp_path / "a.mp4", 60, faces=_box)
    own = load_waveform(path)
    scores = score_sounds(path, Picky(), protocol, {"quiet": 0 * own, "own": own})
    assert isinstance(scores["quiet"], NotScorableError)
    assert str(scores["quiet"]) == "stretch at frame 0: silence"
    assert scores["own"].windows == 60


def test_crops_follow_the_face_to_the_end():
    boxes = np.tile([100.0, 80.0, 200.0, 180.0], (30, 1))
    boxes[:, [0, 2]] += 4.0 * np.arange(30)[:, None]
    last = [crop_regions(Track(np.arange(30), boxes), edges=edges)[-1].x1 for edges in (True, False)]
    assert last[0] - last[1] == 6 * 4  # with zeros beyond the end the median is that of six frames before


def test_the_nearest_face_is_followed():
    near, rival = Box(0, 0, 100, 100), Box(20, 0, 120, 100)
    faces = [[near]] + [[rival, near]] * 39
    rules = TrackRules(detections=15, span=1, face=40, nearest=True)
    assert [len(track.frames) for track in link_tracks(faces, rules=rules)] == [40, 39]
    np.testing.assert_array_equal(link_tracks(faces, rules=rules)[0].boxes[:, 0], np.zeros(40))
