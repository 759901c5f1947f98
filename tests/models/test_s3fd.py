"""S3FD, both weight layouts, against the references' recorded maps and detections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lipsync.models.s3fd import BGR_MEAN, S3FD, Layout
from lipsync.models.s3fd_decoding import (
    decode_syncnet_python,
    decode_wav2lip,
    normalised_priors,
    wav2lip_rect,
)

Load = Callable[[str], tuple[dict[str, Any], Any]]
Fill = Callable[..., Any]
LAYOUTS: list[tuple[str, Layout]] = [("s3fd", "wav2lip"), ("s3fd_syncnet_python", "syncnet_python")]


@pytest.fixture(scope="module")
def image() -> Tensor:
    image = np.random.default_rng(131).integers(0, 256, (1, 160, 192, 3))
    return torch.from_numpy((image - np.array(BGR_MEAN)).transpose(0, 3, 1, 2).astype(np.float32))


def record(net: S3FD, names: dict[str, str]) -> dict[str, Tensor]:
    """Filled with the outputs of submodules (name -> path) at the next forward pass."""
    seen: dict[str, Tensor] = {}
    for name, path in names.items():
        net.get_submodule(path).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out.clone()})
        )
    return seen


def assert_statistics(value: Tensor, expected: dict[str, Any]) -> None:
    assert list(value.shape) == expected["shape"]
    found = [value.double().mean().item(), value.double().std(correction=0).item()]
    assert found == pytest.approx([expected["mean"], expected["std"]], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_state_dict_equals_the_released_one(name: str, layout: Layout, parity: Load) -> None:
    manifest, _ = parity(name)
    with torch.device("meta"):
        net = S3FD(layout)
    state = [[key, list(v.shape), str(v.dtype).removeprefix("torch.")] for key, v in net.state_dict().items()]
    assert state == manifest["keys"]
    assert sum(p.numel() for p in net.parameters()) == manifest["parameters"]


@torch.no_grad()
def test_maps_of_the_wav2lip_layout(parity: Load, fill: Fill, image: Tensor) -> None:
    manifest, expected = parity("s3fd")
    net = fill(S3FD(), key_gain=manifest["key_gain"])
    seen = record(net, {name: name for name in manifest["intermediates"]})
    maps = net(image)
    for level in range(6):
        for found, kind in zip(maps[2 * level : 2 * level + 2], ("cls", "reg"), strict=True):
            reference = expected[f"{kind}{level + 1}"]
            # The deeper maps reach 20: float32 rounding of the way there, relative to the map's own size.
            atol = 1e-5 * max(1.0, float(np.abs(reference).max()))
            np.testing.assert_allclose(
                found.numpy(), reference, rtol=1e-4, atol=atol, err_msg=f"{kind}{level}"
            )
    for name, stats in manifest["intermediates"].items():
        assert_statistics(seen[name], stats)


@torch.no_grad()
def test_detections_of_the_syncnet_python_layout(parity: Load, fill: Fill, image: Tensor) -> None:
    manifest, expected = parity("s3fd_syncnet_python")
    net = fill(S3FD("syncnet_python"), key_gain=manifest["key_gain"])
    seen = record(net, {"L2Norm3_3": "L2Norm3_3", "conv5_3": "vgg.28", "fc6": "vgg.31"})
    maps = net(image)
    flat = [level.flatten(2).transpose(1, 2) for level in maps]
    np.testing.assert_allclose(torch.cat(flat[1::2], 1), expected["loc"], rtol=1e-4, atol=5e-5)
    scores = torch.cat(flat[::2], 1).softmax(-1)
    np.testing.assert_allclose(scores, expected["conf"], rtol=1e-4, atol=1e-5)
    sizes = [(level.shape[2], level.shape[3]) for level in maps[::2]]
    np.testing.assert_allclose(normalised_priors(sizes, 160, 192), expected["priors"], rtol=1e-6)

    statistics = manifest["intermediates"]
    assert_statistics(seen["L2Norm3_3"], statistics["L2Norm3_3"])
    assert_statistics(functional.max_pool2d(seen["conv5_3"].relu(), 2), statistics["vgg_30"])
    assert_statistics(seen["fc6"].relu(), statistics["vgg_31"])

    found = decode_syncnet_python(maps, 160, 192)[0]
    assert len(found) <= 750
    score_first = found[:50, [4, 0, 1, 2, 3]]
    np.testing.assert_allclose(score_first, expected["detections_top50"][0], rtol=1e-4, atol=1e-5)
    assert len(decode_syncnet_python(maps, 160, 192, top_detections=7)[0]) == 7
    np.testing.assert_array_equal(decode_syncnet_python(maps, 160, 192, top_candidates=1)[0], found[:1])


def test_odd_sizes_pool_by_the_layouts_rule() -> None:
    with torch.device("meta"):
        nets = {layout: S3FD(layout) for _, layout in LAYOUTS}
        even, odd = torch.zeros(1, 3, 72, 104), torch.zeros(1, 3, 76, 76)
    heights = {layout: [m.shape[2] for m in net(even)[::2]] for layout, net in nets.items()}
    # 18 rows before pool3, where the forks agree; fc6 of wav2lip grows the map by 4.
    assert heights["wav2lip"] == [18, 9, 4, 6, 3, 2]
    assert heights["syncnet_python"] == [18, 9, 4, 2, 1, 1]
    # 19 rows before pool3.
    assert nets["wav2lip"](odd)[2].shape[2] == 9
    assert nets["syncnet_python"](odd)[2].shape[2] == 10


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="layout must be one of wav2lip, syncnet_python"):
        S3FD("s3fd")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def raw_maps(parity: Load) -> list[Tensor]:
    """Random maps of three images with a few confident locations; none in the third (rule of the fixture)."""
    maps = []
    for level, (height, width) in enumerate(parity("s3fd_decode_nms")[0]["map_sizes"]):
        rng = np.random.default_rng(400 + level)
        scores = rng.standard_normal((3, 2, height, width)).astype(np.float32)
        offsets = (rng.standard_normal((3, 4, height, width)) * 1.5).astype(np.float32)
        scores[:, 0] += 4
        hot = rng.random((3, height, width)) < 0.06
        scores[:, 1][hot] += 7
        scores[2, 1] = -9
        maps += [torch.from_numpy(scores), torch.from_numpy(offsets)]
    return maps


def test_candidates_equal_the_reference(parity: Load, raw_maps: list[Tensor]) -> None:
    raw = parity("s3fd_decode_nms")[1]["raw"]
    # No suppression and no second threshold: every candidate, best first.
    found = decode_wav2lip(raw_maps, nms_threshold=np.inf, min_score=0.0)
    for index in range(3):
        # The reference lists a location once for each image of the batch that fires there.
        expected = np.unique(raw[raw[:, index, 4] > 0.05, index], axis=0)
        expected = expected[np.lexsort(expected.T[[0, 4]])]
        actual = found[index][np.lexsort(found[index].T[[0, 4]])]
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_survivors_and_rectangles_equal_the_reference(parity: Load, raw_maps: list[Tensor]) -> None:
    manifest, expected = parity("s3fd_decode_nms")
    found = decode_wav2lip(raw_maps)
    for index in range(3):
        reference = expected[f"kept_{index}"]
        assert found[index].shape == reference.shape
        np.testing.assert_allclose(found[index], reference, rtol=0, atol=1e-4)
        rect = wav2lip_rect(found[index])
        assert (None if rect is None else list(rect)) == manifest["final_rects"][index]


def test_rectangle_is_cut_off_at_zero_only() -> None:
    detections = np.array([[-3.7, 2.9, 1e4 + 0.6, 7.99, 0.9], [0, 0, 1, 1, 0.8]], dtype=np.float32)
    assert wav2lip_rect(detections) == (0, 2, 10000, 7)
