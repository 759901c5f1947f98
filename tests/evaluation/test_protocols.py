from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lipsync.errors import NotScorableError
from lipsync.evaluation.protocols import LrsProtocol, WildProtocol, passes
from lipsync.evaluation.scoring import score_clip
from lipsync.evaluation.tracks import Track
from lipsync.faces.detector import AnnotatedDetector
from lipsync.media.waveform import load_waveform


def _levels(crops):
    """Mean grey level of each crop; the drawn videos encode the frame index in it."""
    return crops.reshape(len(crops), -1).mean(axis=1)


def test_lrs_is_the_whole_frame_at_its_own_rate(tmp_path, make_video, recorder):
    path = make_video(tmp_path / "a.mp4", 30, fps=Fraction(30))
    judge = recorder()
    score = score_clip(path, judge, LrsProtocol())
    assert judge.crops[0].shape == (30, 32, 32, 3)
    np.testing.assert_allclose(_levels(judge.crops[0]), 20 + np.arange(30), atol=1.5)
    np.testing.assert_array_equal(judge.waveforms[0], load_waveform(path))
    assert score.windows == 30
    assert len(score.tracks) == 1


def test_another_waveform_can_be_scored(tmp_path, make_video, recorder):
    path = make_video(tmp_path / "mute.mp4", 30, sound=False)
    silence = np.zeros(30 * 640, dtype=np.float32)
    judge = recorder()
    score_clip(path, judge, LrsProtocol(), waveform=silence)
    np.testing.assert_array_equal(judge.waveforms[0], silence)


def _box(index):
    return [(8.0, 4.0, 40.0, 44.0)]


def test_lrs_with_an_expert_scores_runs_of_faces(tmp_path, make_video, recorder):
    # annotations are looked up at 25 fps, so a 50 fps file shows that frames are converted
    def faces(index):
        return [] if 120 <= index < 200 else _box(index)

    path = make_video(tmp_path / "a.mp4", 320, fps=Fraction(50), faces=faces, level=lambda i: 20 + i // 2)
    judge = recorder("face", 16)
    score = score_clip(path, judge, LrsProtocol(AnnotatedDetector()))
    assert [len(crops) for crops in judge.crops] == [60, 60]
    assert [track.start for track in score.tracks] == [0, 100]
    np.testing.assert_allclose(_levels(judge.crops[1]), 20 + np.arange(100, 160), atol=1.5)
    own = load_waveform(path)
    np.testing.assert_array_equal(judge.waveforms[1], own[100 * 640 :])


def test_lrs_without_a_face_says_so(tmp_path, make_video, recorder):
    path = make_video(tmp_path / "a.mp4", 30, faces=lambda index: [])
    with pytest.raises(NotScorableError, match="no face found"):
        score_clip(path, recorder("face"), LrsProtocol(AnnotatedDetector()))


def _two_shots(make_video, path):
    """130 and 120 frames with a cut between; a second face during the whole of the first shot."""

    def faces(index):
        first = (40.0 + 0.1 * index, 30.0, 160.0 + 0.1 * index, 150.0)
        return [first, (190.0, 60.0, 310.0, 180.0)] if index < 130 else [first]

    def level(index):
        return 20 + index // 5 if index < 130 else 180 + index // 5

    return make_video(path, 250, (320, 240), faces=faces, level=level)


@pytest.mark.parametrize("view", ["scene", "face"])
def test_wild_follows_every_face_in_every_shot(tmp_path, make_video, recorder, view):
    path = _two_shots(make_video, tmp_path / "a.mp4")
    judge = recorder(view)
    score = score_clip(path, judge, WildProtocol(AnnotatedDetector()))
    assert [(t.start, t.windows) for t in score.tracks] == [(0, 130), (0, 130), (130, 120)]
    own = load_waveform(path)
    for crops, sound in zip(judge.crops, judge.waveforms, strict=True):
        start = 0 if len(crops) == 130 else 130 * 640
        assert sound.size == len(crops) * 640
        np.testing.assert_array_equal(sound, own[start : start + sound.size])
        middle = crops[:, 14:18, 14:18]  # inside the frame, away from the grey border
        expected = 20 + np.arange(130) // 5 if start == 0 else 180 + np.arange(130, 250) // 5
        np.testing.assert_allclose(_levels(middle)[10:-10], expected[10:-10], atol=2)


def test_wild_does_not_depend_on_the_batch(tmp_path, make_video, recorder):
    path = _two_shots(make_video, tmp_path / "a.mp4")
    scores = [score_clip(path, recorder(), WildProtocol(AnnotatedDetector(), batch=n)) for n in (1, 64)]
    assert scores[0] == scores[1]


def test_a_clip_is_the_mean_over_its_tracks(tmp_path, make_video, recorder):
    path = _two_shots(make_video, tmp_path / "a.mp4")
    score = score_clip(path, recorder(), WildProtocol(AnnotatedDetector()))
    parts = [track.score for track in score.tracks]
    assert score.distance == pytest.approx(np.mean([part.distance for part in parts]))
    assert score.confidence == pytest.approx(np.mean([part.confidence for part in parts]))
    assert score.offset == max(parts, key=lambda part: part.confidence).offset
    assert score.windows == 380


def test_wild_refuses_short_clips_with_the_reason(tmp_path, make_video, recorder):
    path = make_video(tmp_path / "a.mp4", 100, (320, 240), faces=lambda index: [(40, 30, 180, 150)])
    with pytest.raises(NotScorableError, match="more than 100 detections"):
        score_clip(path, recorder(), WildProtocol(AnnotatedDetector()))


def test_passes_hold_tracks_that_do_not_overlap():
    def track(start, stop):
        return Track(np.arange(start, stop), np.zeros((stop - start, 4)))

    groups = passes([track(0, 10), track(5, 15), track(10, 20), track(30, 40), track(12, 14)])
    spans = [[(t.start, t.stop) for t in group] for group in groups]
    assert spans == [[(0, 10), (10, 20), (30, 40)], [(5, 15)], [(12, 14)]]


@pytest.mark.parametrize("view", ["scene", "face"])
def test_descriptions_name_what_was_done(recorder, view):
    texts = [
        p.describe(recorder(view))
        for p in (LrsProtocol(AnnotatedDetector()), WildProtocol(AnnotatedDetector()))
    ]
    assert ("not LSE" in texts[0]) == ("not LSE" in texts[1]) == (view == "face")
    assert "AnnotatedDetector" in texts[1]
    assert "32 x 32" in texts[0]
