"""``lrs`` and ``wild`` against a literal transcription of the published steps with the real ffmpeg program.

Random weights, centred and scaled on the clip so that distances are near 9, as those of the released judge,
and half of a distance is what changes from window to window: far more than with the released weights, whose
rows have much in common. A difference of 0.01 therefore means what it says.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipsync.evaluation.protocols import LrsProtocol, WildProtocol
from lipsync.evaluation.scoring import score_clip, score_sounds
from lipsync.faces.detector import YunetDetector
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import VideoWriter
from lipsync.metrics.judges import SyncNetJudge
from lipsync.metrics.stretches import features
from lipsync.models.lse_syncnet import LSESyncNet
from lipsync.types import Frame

pytest.importorskip("imageio_ffmpeg")
import reference_lse as reference

TOLERANCE = 0.01
SPREAD = 6.0
"""Mean distance of a row from the mean row, in either stream."""


@pytest.fixture
def network(fill):
    """``network(path, protocol)``: judge's network whose features on the clip are centred and scaled."""

    def make(path, protocol):
        net = fill(LSESyncNet(), key_gain={"netcnnlip.0.weight": 0.02, "netcnnaud.0.weight": 0.1})
        judge = SyncNetJudge(net)
        segment = next(protocol.segments(path, judge))
        video, audio = features(judge, segment.frames, segment.sound(protocol.load_sound(path, judge)))
        with torch.no_grad():
            for rows, layer in ((video, net.netfclip[3]), (audio, net.netfcaud[3])):
                mean = rows.mean(dim=0)
                scale = SPREAD / (rows - mean).norm(dim=1).mean()
                layer.weight *= scale
                layer.bias.copy_((layer.bias - mean) * scale)
        return net

    return make


def _same(expected, track, tolerance):
    assert track.score.distance == pytest.approx(expected.distance, abs=tolerance)
    assert track.score.confidence == pytest.approx(expected.confidence, abs=tolerance)
    assert track.score.offset == expected.offset
    assert len(track.curve) == len(expected.curve) == track.windows
    assert 5 < expected.distance < 20


def test_lrs_equals_the_reference_on_a_short_clip(shared, tmp_path, network):
    # One on which both rate controls choose the same quantisers: on some frames they take neighbours.
    source = shared / "data/corpus/main/grid_s1/bbir8p.mp4"
    path = tmp_path / "short.mp4"
    with VideoWriter(path, 192, 192, VideoReader(source).info.fps, load_waveform(source)[:16000]) as writer:
        for frame, _ in zip(VideoReader(source), range(25), strict=False):
            writer.write(frame.image)
    net = network(path, LrsProtocol(lossless=True))
    expected = reference.evaluate(path, net, tmp_path / "work")
    score = score_clip(path, SyncNetJudge(net), LrsProtocol())
    _same(expected, score.best, 1e-3)
    np.testing.assert_allclose(score.best.curve, expected.curve, atol=1e-2)
    assert score.windows == 20


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("clip", ["grid_s1/bbaf2n", "BobMenendez/av2av_12", "TheresaMay/real3d_May"])
def test_lrs_equals_the_reference(shared, tmp_path, network, clip):
    path = shared / "data/corpus/main" / f"{clip}.mp4"
    net = network(path, LrsProtocol(lossless=True))
    expected = reference.evaluate(path, net, tmp_path / "work")
    score = score_clip(path, SyncNetJudge(net), LrsProtocol())
    _same(expected, score.best, TOLERANCE)
    assert score.notes == ()


@pytest.mark.slow
@pytest.mark.shared
def test_lrs_equals_the_reference_at_a_variable_rate(shared, tmp_path, network):
    path = shared / "data/raw/wild/retalk_man_22fps_700.mp4"
    net = network(path, LrsProtocol(lossless=True))
    expected = reference.evaluate(path, net, tmp_path / "work")
    score = score_clip(path, SyncNetJudge(net), LrsProtocol())
    _same(expected, score.best, TOLERANCE)
    assert "variable frame rate" in score.notes[0]


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["retalk_woman_590", "retalk_30fps_700", "retalk_man_22fps_700"])
def test_wild_equals_the_reference(shared, tmp_path, network, name):
    path = shared / "data/raw/wild" / f"{name}.mp4"
    detector = YunetDetector(shared / "weights/face_detection_yunet_2023mar.onnx")

    def detect(image):
        found = detector.detect([Frame(0, 0.0, image)])[0]
        return [(face.box.x1, face.box.y1, face.box.x2, face.box.y2) for face in found]

    net = network(path, WildProtocol(detector, lossless=True))
    crops = reference.run_pipeline(path, detect, tmp_path / "pipeline")
    expected = [reference.evaluate(crop, net, tmp_path / f"work{i}") for i, crop in enumerate(crops)]
    assert expected
    judge, protocol = SyncNetJudge(net), WildProtocol(detector)
    theirs = reference.read_wav(tmp_path / "pipeline/audio.wav").astype(np.float32) / 32768
    sounds = {"theirs": theirs, "own": protocol.load_sound(path, judge)}
    assert len(sounds["own"]) == len(theirs)
    scores = score_sounds(path, judge, protocol, sounds)
    # PyAV brings LAME 3.100, as the published programs had; newer ffmpeg programs bring LAME 4, another MP3.
    same_lame = b"LAME3.100" in (tmp_path / "pipeline/video.avi").read_bytes()
    for sound, tolerance in (("theirs", TOLERANCE), ("own", TOLERANCE if same_lame else 5 * TOLERANCE)):
        tracks = scores[sound].tracks
        assert len(tracks) == len(expected)
        for theirs_track, track in zip(expected, tracks, strict=True):
            _same(theirs_track, track, tolerance)
