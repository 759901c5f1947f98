from __future__ import annotations

from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from lipsync.errors import CheckpointError
from lipsync.media.reader import VideoReader
from lipsync.metrics.lpips import LPIPS, VideoLPIPS
from lipsync.models.alexnet_features import AlexNetFeatures


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    # As torchvision's file, with the classifier that is not needed.
    torch.save({**AlexNetFeatures().state_dict(), "classifier.1.weight": torch.zeros(2, 2)}, path)
    return path


@pytest.fixture(scope="module")
def network(weights):
    return LPIPS(weights)


def _picture(seed, size=(80, 96)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def _transcribed(weights, one, other):
    """The formula in float64 with nothing of the implementation but its files."""
    state = torch.load(weights, weights_only=True)
    lpips = LPIPS(weights)

    def maps(picture):
        x = torch.from_numpy(picture[:, :, ::-1].astype(np.float64) / 255 * 2 - 1).permute(2, 0, 1)[None]
        x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor(
            [0.458, 0.448, 0.450]
        ).view(1, 3, 1, 1)
        found = []
        for key, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            if key in (3, 6):
                x = functional.max_pool2d(x, 3, 2)
            weight, bias = (state[f"features.{key}.{name}"].double() for name in ("weight", "bias"))
            x = functional.relu(functional.conv2d(x, weight, bias, stride, padding))
            found.append(x[0].numpy())
        return found

    total = 0.0
    for a, b, w in zip(maps(one), maps(other), lpips.linear, strict=True):
        unit = [m / (np.sqrt((m**2).sum(axis=0)) + 1e-10) for m in (a, b)]
        difference = (unit[0] - unit[1]) ** 2
        total += float((difference * w.numpy().reshape(-1, 1, 1)).sum(axis=0).mean())
    return total


def test_it_is_the_published_formula(weights, network):
    one, other = _picture(0), _picture(1)
    expected = _transcribed(weights, one, other)
    assert expected > 0.01
    assert network.distance(one, other) == pytest.approx(expected, rel=1e-4)


def test_zero_for_equal_pictures_and_symmetric(network):
    one, other = _picture(0), _picture(1)
    assert network.distance(one, one) == 0.0
    assert float(network(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))) == 0.0
    assert network.distance(one, other) == pytest.approx(network.distance(other, one), rel=1e-6)


def test_channel_order_matters(network):
    one, other = _picture(0), _picture(1)
    swapped = network.distance(one[:, :, ::-1].copy(), other[:, :, ::-1].copy())
    assert swapped != pytest.approx(network.distance(one, other), rel=1e-3)


@pytest.mark.parametrize("size", [(20, 30), (64, 64), (100, 700)])
def test_every_size_has_a_value(network, size):
    assert network.distance(_picture(0, size), _picture(1, size)) > 0
    assert network.distance(_picture(0, size), _picture(1, size), 128) > 0


def test_sizes_must_agree(network):
    with pytest.raises(ValueError, match="cannot be compared"):
        network.distance(_picture(0), _picture(0, (80, 80)))


def test_video_mean_and_shared_network(network):
    metric = VideoLPIPS(network)
    metric.update(_picture(0), _picture(0))
    metric.update(_picture(0), _picture(1))
    assert float(metric.compute()) == pytest.approx(network.distance(_picture(0), _picture(1)) / 2)
    assert not metric.state_dict()
    assert not list(metric.parameters())


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        LPIPS(path)


@pytest.mark.shared
def test_real_weights_order_what_looks_worse(shared):
    path = shared / "weights" / "lpips_alexnet_features.pth"
    network = LPIPS(path)
    video = VideoReader(shared / "data" / "raw" / "wild" / "vox_224.mp4")
    frame = next(islice(iter(video), 5, None)).image
    blurred = [cv2.GaussianBlur(frame, (0, 0), sigma) for sigma in (0.7, 1.5, 3, 6)]
    distances = [network.distance(frame, picture) for picture in blurred]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 < distances[-1] < 1
    # A small shift hurts less than a blur of equal squared error: what LPIPS is for.
    shifted = np.roll(frame, 1, axis=1)
    assert network.distance(frame, shifted) < distances[1]
    assert network.distance(frame, blurred[2]) == pytest.approx(
        _transcribed(path, frame, blurred[2]), rel=1e-4
    )
