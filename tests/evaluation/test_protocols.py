from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lipsync.errors import NotScorableError
from lipsync.evaluation.protocols import LrsProtocol, StrictProtocol, WildProtocol, passes
from lipsync.evaluation.scoring import score_clip
from lipsync.evaluation.tracks import Track
from lipsync.faces.detector import AnnotatedDetector
from lipsync.media.waveform import load_waveform


def _levels(crops):
    """Mean grey level of each crop; the drawn videos encode the frame index in it."""
    return crops.reshape(len(crops), -1).mean(axis=1)


@pytest.mark.parametrize("lossless", [False, True])
def test_lrs_is_the_whole_frame_at_its_own_rate(tmp_path, make_video, recorder, lossless):
    path = make_video(tmp_path / "a.mp4", 36, fps=Fraction(30))
    judge = recorder()
    protocol = LrsProtocol(lossless=lossless)
    score = score_clip(path, judge, protocol)
    sound = protocol.load_sound(path, judge)
    # 36 frames last 1.2 s, but the sound of frame i is looked for at i * 40 ms: it ends with frame 30
    assert judge.crops[0].shape == (30, 32, 32, 3)
    np.testing.assert_allclose(_levels(judge.crops[0]), 20 + np.arange(30), atol=2)
    np.testing.assert_array_equal(judge.waveforms[0], sound)
    assert score.windows == 29  # the reference leaves the last one out
    assert len(score.tracks) == 1
    assert "30 fps" in score.notes[0]


def test_sound_is_that_of_the_ffmpeg_program_unless_lossless(tmp_path, make_video, recorder):
    path = make_video(tmp_path / "a.mp4", 50)
    truth = load_waveform(path)
    sounds = {
        (protocol.name, protocol.lossless): protocol.load_sound(path, recorder())
        for protocol in (LrsProtocol(), LrsProtocol(lossless=True), WildProtocol(None, lossless=True))
    }
    np.testing.assert_array_equal(sounds["lrs", True], truth)
    np.testing.assert_array_equal(sounds["wild", True], truth)
    np.testing.assert_allclose(sounds["lrs", False], truth[: len(sounds["lrs", False])], atol=1 / 32768)
    # by MP3, 1105 samples late
    late = WildProtocol(None).load_sound(path, recorder())
    correlation = np.correlate(late[:20000], truth[:16000])
    assert int(np.argmax(correlation)) == 1105
    # a judge of face boxes gives no LSE: nothing to be equal to
    np.testing.assert_array_equal(WildProtocol(None).load_sound(path, recorder("face")), truth)


def test_25_fps_has_no_note(tmp_path, make_video, recorder):
    path = make_video(tmp_path / "a.mp4", 30)
    assert score_clip(path, recorder(), LrsProtocol()).notes == ()


def test_an_expert_keeps_the_last_window(tmp_path, make_video, recorder):
    path = make_video(tmp_path / "a.mp4", 40, faces=lambda index: [(8.0, 4.0, 40.0, 44.0)])
    assert score_clip(path, recorder("face"), LrsProtocol(AnnotatedDetector())).windows == 40


def test_another_waveform_can_be_scored(tmp_path, make_video, recorder):
    path = make_video(tmp_path / "mute.mp4", 40, sound=False)
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
    assert score.notes == (), "read at 25 fps, sound and picture stay together"
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


@pytest.mark.parametrize(("view", "lossless"), [("scene", True), ("face", True), ("face", False)])
def test_wild_follows_every_face_in_every_shot(tmp_path, make_video, recorder, view, lossless):
    path = _two_shots(make_video, tmp_path / "a.mp4")
    judge = recorder(view)
    score = score_clip(path, judge, WildProtocol(AnnotatedDetector(), lossless=lossless))
    less = 1 if view == "scene" else 0
    expected = [(0, 130 - less), (0, 130 - less), (130, 120 - less)]
    assert [(t.start, t.windows) for t in score.tracks] == expected
    own = load_waveform(path)
    for crops, sound in zip(judge.crops, judge.waveforms, strict=True):
        start = 0 if len(crops) == 130 else 130 * 640
        assert sound.size == len(crops) * 640
        np.testing.assert_array_equal(sound, own[start : start + sound.size])
        middle = crops[:, 14:18, 14:18]  # inside the frame, away from the grey border
        expected = 20 + np.arange(130) // 5 if start == 0 else 180 + np.arange(130, 250) // 5
        np.testing.assert_allclose(_levels(middle)[10:-10], expected[10:-10], atol=2)


def test_wild_shows_frames_late_as_its_avi_file_does(tmp_path, make_video, recorder):
    path = _two_shots(make_video, tmp_path / "a.mp4")
    judge = recorder()
    score = score_clip(path, judge, WildProtocol(AnnotatedDetector()))
    # cuts are counted in the AVI file, whose pictures are dumped two files late where the sound has 16 kHz
    assert [(track.start, track.windows) for track in score.tracks] == [(0, 129), (0, 129), (130, 119)]
    late = next(crops for crops in judge.crops if len(crops) == 120)
    levels = _levels(late[:, 14:18, 14:18])
    shown = np.arange(130, 250) - 2
    np.testing.assert_allclose(levels, np.where(shown < 130, 20, 180) + shown // 5, atol=4)


def test_wild_does_not_depend_on_the_batch(tmp_path, make_video, recorder):
    path = _two_shots(make_video, tmp_path / "a.mp4")
    scores = [score_clip(path, recorder(), WildProtocol(AnnotatedDetector(), batch=n)) for n in (1, 64)]
    assert scores[0] == scores[1]


def test_a_clip_is_the_mean_over_its_tracks(tmp_path, make_video, recorder):
    path = _two_shots(make_video, tmp_path / "a.mp4")
    score = score_clip(path, recorder(), WildProtocol(AnnotatedDetector(), lossless=True))
    parts = [track.score for track in score.tracks]
    assert score.distance == pytest.approx(np.mean([part.distance for part in parts]))
    assert score.confidence == pytest.approx(np.mean([part.confidence for part in parts]))
    assert score.offset == max(parts, key=lambda part: part.confidence).offset
    assert score.windows == sum(track.windows for track in score.tracks) == 377
    assert score.best.score == max(parts, key=lambda part: part.confidence)


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
    kinds = (LrsProtocol, WildProtocol, StrictProtocol)
    texts = [kind(AnnotatedDetector()).describe(recorder(view)) for kind in kinds]
    assert [("not LSE" in text) for text in texts] == [view == "face"] * 3
    assert all("AnnotatedDetector" in text for text in texts[1:])
    assert all("32 x 32" in text for text in texts)


def test_descriptions_say_whether_frames_are_lossless(recorder):
    for kind in (LrsProtocol, WildProtocol):
        lossy, lossless = (kind(None, lossless=value).describe(recorder()) for value in (False, True))
        assert "lossless" in lossless
        assert "lossless" not in lossy
        assert "JPEG" in lossy
