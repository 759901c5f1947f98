from __future__ import annotations

import numpy as np
import pytest
import torch

from lipsync.audio.mel import log_mel
from lipsync.audio.mfcc import mfcc
from lipsync.errors import CheckpointError, ConfigError, NotScorableError
from lipsync.metrics.judge_loading import load_judge
from lipsync.metrics.judges import ExpertJudge, SyncNetJudge, _exact
from lipsync.metrics.stretches import features, stretch_distances, sync_score
from lipsync.models.lse_folded import PRECISIONS
from lipsync.models.lse_syncnet import LSESyncNet
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip

GAIN = {"netcnnlip.0.weight": 0.0078125, "netcnnaud.0.weight": 0.125}


@pytest.fixture(scope="module")
def syncnet(fill):
    return fill(LSESyncNet(), 1.0, GAIN)


@pytest.fixture(scope="module")
def expert(fill):
    return fill(SyncNet(width=0.125, head="contrastive", embedding=32), 0.7)


def _frames(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _sound(frames, seed=1):
    return (np.random.default_rng(seed).standard_normal(frames * 640) * 0.1).astype(np.float32)


def test_syncnet_features_equal_window_by_window(syncnet):
    frames, sound = _frames(13, 224), _sound(13)
    video, audio = features(SyncNetJudge(syncnet, chunk=3), iter(frames), sound)
    assert video.shape == audio.shape == (9, 1024)
    silence = np.zeros(640, dtype=np.float32)  # behind the end, where the last window looks 15 ms into
    coefficients = mfcc(np.round(np.append(sound, silence) * 32768).astype(np.int16)).T
    with torch.inference_mode():
        for row in (0, 3, 8):
            window = torch.from_numpy(frames[row : row + 5]).permute(3, 0, 1, 2)[None].float()
            columns = torch.from_numpy(coefficients[:, 4 * row : 4 * row + 20].copy())[None, None]
            torch.testing.assert_close(video[row], syncnet.forward_lip(window)[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(audio[row], syncnet.forward_aud(columns)[0], rtol=1e-4, atol=1e-4)


def test_syncnet_chunks_change_nothing(syncnet):
    frames, sound = _frames(12, 224), _sound(12)
    one, _ = features(SyncNetJudge(syncnet, chunk=100), frames, sound)
    other, _ = features(SyncNetJudge(syncnet, chunk=1), frames, sound)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_syncnet_stops_reading_where_the_sound_ends(syncnet):
    read = []

    def frames():
        for index, frame in enumerate(_frames(30, 224)):
            read.append(index)
            yield frame

    video, audio = features(SyncNetJudge(syncnet, chunk=4), frames(), _sound(9))
    assert len(video) == len(audio) == 5
    assert len(read) == 9


@pytest.mark.parametrize(("frames", "sound"), [(3, 40), (5, 40), (40, 5), (40, 0), (0, 40)])
def test_syncnet_refuses_what_is_too_short(syncnet, frames, sound):
    with pytest.raises(NotScorableError, match="at least 6 are needed"):
        features(SyncNetJudge(syncnet), _frames(frames, 224), _sound(sound))


def test_six_frames_give_two_windows(syncnet):
    video, _ = features(SyncNetJudge(syncnet), _frames(6, 224), _sound(6))
    assert len(video) == 2


def test_the_reason_is_the_side_that_is_too_short(syncnet):
    judge = SyncNetJudge(syncnet)
    with pytest.raises(NotScorableError, match="sound lasts 5 frames"):
        features(judge, _frames(40, 224), _sound(5))
    with pytest.raises(NotScorableError, match="only 5 consecutive frames"):
        features(judge, _frames(5, 224), _sound(40))


def test_sound_behind_the_last_frame_is_heard_where_there_is_some(syncnet):
    judge, sound = SyncNetJudge(syncnet), _sound(20)
    ends = ((sound, 16), (sound, 5), (sound[: 9 * 640], 5))
    long, short, cut = (judge.hear(judge.windows(heard, 0, rows, last=True)) for heard, rows in ends)
    torch.testing.assert_close(short, long[:5], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(cut[:4], short[:4], rtol=1e-5, atol=1e-4)
    assert (cut[4] - short[4]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["syncnet", "expert"])
@pytest.mark.parametrize("samples", [40 * 640, 40 * 640 + 300])
def test_windows_of_a_range_are_those_of_the_whole_sound(kind, samples, request):
    network = request.getfixturevalue(kind)
    judge = SyncNetJudge(network) if kind == "syncnet" else ExpertJudge(network)
    sound = _sound(41)[:samples]
    whole = judge.windows(sound, 0, 1000, last=True)
    assert len(whole) == 36
    for start, stop in ((0, 1), (0, 7), (1, 2), (5, 20), (20, 35), (34, 36), (35, 99)):
        torch.testing.assert_close(judge.windows(sound, start, stop), whole[start:stop], rtol=1e-6, atol=1e-6)
    assert len(judge.windows(sound, 36, 40)) == 0


def test_an_expert_hears_nothing_behind_the_picture(expert):
    judge, sound = ExpertJudge(expert), _sound(60)
    open_end, end = (judge.windows(sound, 20, 30, last=last) for last in (False, True))
    torch.testing.assert_close(end, judge.windows(sound[: 34 * 640], 20, 30))
    torch.testing.assert_close(end[:-1], open_end[:-1])
    assert (end[-1] - open_end[-1]).abs().max() > 1e-3


def test_loud_sound_does_not_wrap_around(syncnet):
    loud = np.ones(10 * 640, dtype=np.float32)
    quieter = loud * np.float32(32767 / 32768)
    judge = SyncNetJudge(syncnet)
    frames = _frames(10, 224)
    torch.testing.assert_close(features(judge, frames, loud)[1], features(judge, frames, quieter)[1])


def test_expert_features_equal_window_by_window(expert):
    frames, sound = _frames(40, 96), _sound(40)
    video, audio = features(ExpertJudge(expert, chunk=7), iter(frames), sound)
    assert video.shape == audio.shape
    assert len(video) == 36
    mel = log_mel(sound)
    with torch.inference_mode():
        for row in (0, 8, 35):
            lower = frames[row : row + 5, 48:].transpose(0, 3, 1, 2).reshape(1, 15, 48, 96) / np.float32(255)
            start = int(80.0 * (row / 25.0))
            pair = expert(
                torch.from_numpy(mel[:, start : start + 16].copy())[None, None], torch.from_numpy(lower)
            )
            torch.testing.assert_close(audio[row], pair[0][0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(video[row], pair[1][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(video.norm(dim=1), torch.ones(36))


@pytest.mark.parametrize(("frames", "sound"), [(28, 100), (100, 28)])
def test_expert_needs_enough_windows(expert, frames, sound):
    with pytest.raises(NotScorableError, match="at least 29 are needed"):
        features(ExpertJudge(expert), _frames(frames, 96), _sound(sound))


def test_short_sound_is_to_blame_and_not_the_frames_cut_to_it(expert):
    (found,) = stretch_distances(ExpertJudge(expert), _frames(3, 96), [_sound(3)])
    assert isinstance(found, NotScorableError)
    assert "sound lasts 3 frames" in str(found)


class _Echo:
    """A judge whose features are what it is given, so that the right answer is known."""

    name, kind, sha256, view, size, vshift = "echo", "lse", "", "scene", 8, 15

    def __init__(self, padding=0.0, delay=0):
        self.padding, self.delay = padding, delay

    def look(self, frames):
        yield from torch.roll(self._rows(np.concatenate(list(frames))), -self.delay, 0).split(9)

    def windows(self, waveform, start, stop, *, last=False):
        return self._rows(waveform)[start:stop]

    def hear(self, windows):
        return windows

    def _rows(self, waveform):
        return torch.from_numpy(waveform).reshape(-1, 640)[:, :16]


@pytest.mark.parametrize("padding", [0.0, float("nan")])
@pytest.mark.parametrize("delay", [-4, 0, 6])
def test_scores_find_the_delay(delay, padding):
    sound = _sound(60)
    assert sync_score(_Echo(padding, delay), np.split(sound, 60), sound).offset == -delay


def test_broken_weights_are_named():
    class Broken(_Echo):
        def look(self, frames):
            yield torch.full((40, 16), torch.nan)

    class Deaf(_Echo):
        def hear(self, windows):
            return windows * torch.inf

    for judge in (Broken(), Deaf()):
        with pytest.raises(CheckpointError, match="judge echo: its features are not finite"):
            sync_score(judge, np.split(_sound(60), 60), _sound(60))


def test_judges_are_told_apart_by_their_weights(tmp_path, syncnet, expert):
    torch.save(syncnet.state_dict(), tmp_path / "a.model")
    torch.save({"state_dict": expert.state_dict()}, tmp_path / "b.pth")
    torch.save({"state_dict": Wav2Lip(width=0.125).state_dict()}, tmp_path / "c.pth")
    first, second = load_judge(tmp_path / "a.model"), load_judge(tmp_path / "b.pth")
    assert (first.kind, first.name, len(first.sha256)) == ("lse", "a.model", 64)
    assert (second.kind, second.name) == ("expert", "b.pth")
    assert second.network.head == "contrastive"
    with pytest.raises(CheckpointError, match="Wav2Lip generator"):
        load_judge(tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="missing"):
        load_judge(tmp_path / "missing.pth")


def test_cuda_computes_in_full_float32():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    try:
        with _exact(torch.device("cuda")):
            assert not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert torch.backends.cudnn.allow_tf32 == before[1]


def test_half_precision_judges_are_close(syncnet, expert, tmp_path):
    frames, sound = _frames(40, 96), _sound(40)
    full, half = (sync_score(ExpertJudge(expert, precision=p), frames, sound) for p in PRECISIONS)
    assert half.distance != full.distance
    assert half.distance == pytest.approx(full.distance, rel=0.01)
    torch.save(syncnet.state_dict(), tmp_path / "a.model")
    judge = load_judge(tmp_path / "a.model", precision="bfloat16")
    (rows,) = judge.look(_frames(6, 224))
    assert rows.dtype == torch.float32
    assert judge.network.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="precision=half: choose float32 or bfloat16"):
        load_judge(tmp_path / "a.model", precision="half")
