from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lipsync.metrics.functional import (
    DistanceStream,
    SyncScore,
    framewise_confidence,
    lse,
    median_filter,
    score_distances,
    sync_distances,
)


def _fixture_features():
    video = np.random.default_rng(501).standard_normal((60, 1024)).astype(np.float32) * np.float32(0.25)
    noise = np.random.default_rng(502).standard_normal((60, 1024)).astype(np.float32) * np.float32(0.1)
    return video, np.roll(video, 3, axis=0) + noise


def test_parity_with_the_reference(parity):
    _, arrays = parity("syncnet_pdist")
    video, audio = _fixture_features()
    distances = sync_distances(video, audio)
    np.testing.assert_allclose(distances.numpy(), arrays["dists"], rtol=1e-5)
    np.testing.assert_allclose(distances.mean(0).numpy(), arrays["mdist"], rtol=1e-5)
    distance, confidence, offset = lse(video, audio)
    assert offset == int(arrays["offset"]) == -3
    assert distance == pytest.approx(float(arrays["minval"]), rel=1e-5)
    assert confidence == pytest.approx(float(arrays["conf"]), rel=1e-5)
    np.testing.assert_allclose(
        framewise_confidence(distances), arrays["framewise_conf_median9"], rtol=1e-4, atol=1e-4
    )


def test_tensor_and_array_agree():
    video, audio = _fixture_features()
    assert lse(torch.from_numpy(video), torch.from_numpy(audio)) == lse(video, audio)


@pytest.mark.parametrize("delay", [-7, 0, 4])
def test_the_offset_undoes_the_delay(delay):
    video = np.random.default_rng(1).standard_normal((80, 16)).astype(np.float32)
    assert lse(video, np.roll(video, delay, axis=0)).offset == -delay


def test_the_shorter_side_counts():
    video, audio = _fixture_features()
    assert lse(video[:40], audio) == lse(video[:40], audio[:40])
    assert lse(video, audio[:40]) == lse(video[:40], audio[:40])


def test_vshift_sets_the_number_of_columns():
    video, audio = _fixture_features()
    assert sync_distances(video, audio, vshift=4).shape == (60, 9)


def test_nan_padding_leaves_missing_pairs_out():
    video, audio = _fixture_features()
    distances = sync_distances(video, audio, 5, padding=math.nan)
    assert torch.isnan(distances[:5, 0]).all()
    assert not torch.isnan(distances[5:55]).any()
    column = distances[:, 0]
    assert float(torch.nanmean(distances, 0)[0]) == pytest.approx(float(column[5:].mean()), rel=1e-6)
    with pytest.raises(ValueError, match="too few rows"):
        score_distances(sync_distances(video[:5], audio[:5], 5, padding=math.nan))


@pytest.mark.parametrize("padding", [0.0, math.nan])
@pytest.mark.parametrize("drop", [0, 1])
@pytest.mark.parametrize("blocks", [[60], [1] * 60, [7, 30, 23], [59, 1], [3], [1], [16, 0, 1]])
def test_blocks_give_the_distances_of_the_whole(blocks, drop, padding):
    video, audio = (torch.from_numpy(side) for side in _fixture_features())
    stream = DistanceStream(6, padding=padding, drop=drop)
    for part, heard in zip(
        video[: sum(blocks)].split(blocks), audio.split([*blocks, 60 - sum(blocks)]), strict=False
    ):
        stream.push(part, heard)
    rows = sum(blocks) - drop
    found = stream.finish()
    assert found.shape == (rows, 13)
    if rows:
        expected = sync_distances(video[:rows], audio[:rows], 6, padding=padding)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_blocks_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="twice"):
        DistanceStream().push(torch.zeros(3, 4), torch.zeros(2, 4))
    assert DistanceStream().finish().shape == (0, 31)


@pytest.mark.parametrize(
    ("video", "audio"),
    [(np.zeros((3, 4)), np.zeros((3, 5))), (np.zeros(4), np.zeros(4)), (np.zeros((0, 4)), np.zeros((3, 4)))],
)
def test_wrong_shapes_are_refused(video, audio):
    with pytest.raises(ValueError, match="feature"):
        lse(video.astype(np.float32), audio.astype(np.float32))


def test_features_that_are_not_finite_are_refused():
    video, audio = _fixture_features()
    video[:] = np.nan
    with pytest.raises(ValueError, match="broken features"):
        lse(video, audio)


def test_median_filter_equals_scipy():
    from scipy.signal import medfilt

    values = np.random.default_rng(3).standard_normal(40)
    np.testing.assert_array_equal(median_filter(values, 13), medfilt(values, 13))
    # shorter than the window: the zeros beyond both ends win
    np.testing.assert_array_equal(median_filter(np.array([5.0, 6.0]), 9), [0.0, 0.0])


def test_score_unpacks():
    distance, confidence, offset = SyncScore(1.0, 2.0, 3)
    assert (distance, confidence, offset) == (1.0, 2.0, 3)
