"""Regions of real, aligned faces, and the two numberings of the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from lipsync.errors import CheckpointError, ConfigError
from lipsync.faces import parsing
from lipsync.faces.align import FFHQ_SIZE, FFHQ_TEMPLATE, similarity, warp
from lipsync.faces.mtcnn import MtcnnDetector
from lipsync.faces.parsing import BISENET_ORDER, FACE, LIPS, PARSENET_ORDER, FaceParser, Region
from lipsync.media.reader import VideoReader
from lipsync.models.face_parser import BiSeNet, ParseNet
from lipsync.types import Image

Floats = npt.NDArray[np.float32]
CLIPS = ("hdtf_512_a", "retalk_woman_590")


@pytest.fixture(scope="module")
def crops(shared: Path) -> Image:
    """The first frame of each clip, its face put where networks want it."""
    faces = []
    for name in CLIPS:
        frame = next(iter(VideoReader(shared / "data" / "raw" / "wild" / f"{name}.mp4")))
        points = MtcnnDetector().detect([frame])[0][0].landmarks
        assert points is not None
        faces.append(warp(frame.image, similarity(points, FFHQ_TEMPLATE), FFHQ_SIZE))
    return np.stack(faces)


@pytest.fixture(scope="module")
def parser(shared: Path) -> FaceParser:
    return FaceParser(shared / "weights" / "bisenet_face_parsing_19.pth", device="cpu")


def center(mask: Floats) -> tuple[float, float]:
    """Middle ``(x, y)`` of what is likelier than not."""
    y, x = np.nonzero(mask > 0.5)
    return float(x.mean()), float(y.mean())


def overlap(first: Floats, second: Floats) -> float:
    one, two = first > 0.5, second > 0.5
    return float((one & two).sum() / (one | two).sum())


# --- numbering ---


def test_both_orders_hold_every_class_once() -> None:
    assert sorted(BISENET_ORDER) == sorted(PARSENET_ORDER) == sorted(Region)
    assert len(Region) == 19
    numbers = {
        "bisenet": (
            BISENET_ORDER,
            {1: "skin", 2: "left brow", 6: "glasses", 10: "nose", 11: "mouth", 17: "hair"},
        ),
        "parsenet": (
            PARSENET_ORDER,
            {1: "skin", 2: "nose", 3: "glasses", 6: "left brow", 10: "mouth", 13: "hair"},
        ),
    }
    for order, known in numbers.values():
        assert {number: order[number] for number in known} == known


def test_the_groups() -> None:
    assert {"mouth", "upper lip", "lower lip"} == LIPS
    assert LIPS < FACE
    assert not FACE & {
        Region.HAIR,
        Region.NECK,
        Region.LEFT_EAR,
        Region.RIGHT_EAR,
        Region.HAT,
        Region.EARRING,
    }
    # What the published pipelines cut out: ParseNet's numbers 1 to 7 and 10 to 12.
    assert {PARSENET_ORDER.index(region) for region in FACE} == {*range(1, 8), 10, 11, 12}


class OneClass(nn.Module):
    """Is sure that each pixel is of the class whose number is the pixel's blue value."""

    STRIDE, MEAN, STD = 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def scores(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        assert tuple(size) == tuple(x.shape[2:])
        blue = (x[:, 2] * 255).round().long()
        return 50 * nn.functional.one_hot(blue, 19).permute(0, 3, 1, 2).float()


class OneClassBiSeNet(OneClass, BiSeNet):
    """The same; counts as a BiSeNet."""


@pytest.mark.parametrize(("network", "order"), [(OneClassBiSeNet, BISENET_ORDER), (OneClass, PARSENET_ORDER)])
def test_regions_are_looked_up_in_the_order_of_the_network(
    monkeypatch: pytest.MonkeyPatch, network: type[OneClass], order: tuple[Region, ...]
) -> None:
    monkeypatch.setattr(parsing, "load_face_parser", lambda _source, _progress: (network(), None))
    parser = FaceParser(device="cpu", batch_size=2)
    crops = np.zeros((3, 512, 512, 3), np.uint8)
    crops[..., 0] = np.arange(512) // 16 % 19  # bands of every class
    crops[2] = crops[2, :, ::-1]
    bands = crops[0, 0, ::16, 0][:19]
    found = parser.region_probabilities(crops, [*([region] for region in Region), LIPS, Region, ()])
    assert found.shape == (22, 3, 512, 512)
    assert found.dtype == np.float32
    for row, region in enumerate(Region):
        assert [order[band] is region for band in bands] == list(found[row, 0, 0, ::16][:19] > 0.5)
    lips = np.isin(crops[..., 0], [order.index(region) for region in LIPS])
    np.testing.assert_allclose(found[-3], lips, atol=1e-6)
    np.testing.assert_allclose(found[-2], 1, atol=1e-6)
    assert not found[-1].any()
    np.testing.assert_array_equal(parser.probabilities(crops, LIPS), found[-3])
    assert parser.probabilities(crops[:0], LIPS).shape == (0, 512, 512)


def test_when_memory_runs_out_no_picture_is_parsed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(OneClassBiSeNet):
        room = 3

        def scores(self, x: Tensor, size: tuple[int, int]) -> Tensor:
            asked.append(len(x))
            if len(x) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().scores(x, size)

    asked: list[int] = []
    monkeypatch.setattr(parsing, "load_face_parser", lambda _source, _progress: (Small(), None))
    crops = np.zeros((5, 512, 512, 3), np.uint8)
    crops[..., 0] = np.arange(5)[:, None, None]  # one class each
    parser = FaceParser(device="cpu", batch_size=8)
    found = parser.region_probabilities(crops, [[region] for region in BISENET_ORDER[:5]])
    assert asked == [5, 2, 2, 1]
    np.testing.assert_allclose(found[..., 0, 0], np.eye(5), atol=1e-6)
    Small.room = 0
    with pytest.raises(ConfigError, match=r"^cpu: not enough memory .*face parser"):
        parser.probabilities(crops[:1], LIPS)


# --- real faces ---


def test_parts_lie_where_the_template_puts_them(parser: FaceParser, crops: Image) -> None:
    groups = [
        LIPS,
        {Region.NOSE},
        {Region.LEFT_EYE, Region.RIGHT_EYE},
        {Region.LEFT_BROW, Region.RIGHT_BROW},
        {Region.HAIR},
        {Region.NECK},
        FACE,
    ]
    found = parser.region_probabilities(crops, groups)
    assert (found >= 0).all()
    assert (found <= 1).all()
    lips, nose, eyes, brows, hair, neck, face = found
    mouth = FFHQ_TEMPLATE[3:].mean(0)
    for at in range(len(crops)):
        x, y = center(lips[at])
        assert abs(x - mouth[0]) < 25
        assert abs(y - mouth[1]) < 30
        assert np.hypot(*np.subtract(center(nose[at]), FFHQ_TEMPLATE[2])) < 40
        assert np.hypot(*np.subtract(center(eyes[at]), FFHQ_TEMPLATE[:2].mean(0))) < 25
        # Down the face: hair, brows, eyes, nose, lips, neck.
        heights = [center(part[at])[1] for part in (hair, brows, eyes, nose, lips, neck)]
        assert heights == sorted(heights)
        assert (lips[at] > 0.5).mean() < 0.06 < (face[at] > 0.5).mean() < 0.5
        assert (face[at] - lips[at]).min() > -1e-5


def test_the_answer_is_the_same_each_time_alone_or_in_a_batch(parser: FaceParser, crops: Image) -> None:
    together = parser.probabilities(crops, LIPS)
    np.testing.assert_array_equal(parser.probabilities(crops, LIPS), together)
    np.testing.assert_array_equal(parser.probabilities(crops[1:], LIPS)[0], together[1])


def test_the_network_sees_normalised_rgb(parser: FaceParser, crops: Image) -> None:
    rgb = torch.from_numpy(np.ascontiguousarray(crops[:1, ..., ::-1])).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        scores = parser.network((rgb - mean[:, None, None]) / std[:, None, None])
    expected = scores.softmax(1)[:, [11, 12, 13]].sum(1)
    np.testing.assert_allclose(parser.probabilities(crops[:1], LIPS), expected, atol=1e-3)


def test_other_sizes_and_precisions_agree(parser: FaceParser, crops: Image) -> None:
    weights, crops = parser.network.state_dict(), crops[:1]
    exact = parser.region_probabilities(crops, (LIPS, FACE))
    rough = FaceParser(weights, "cpu", "bfloat16").region_probabilities(crops, (LIPS, FACE))
    small = FaceParser(weights, "cpu", size=384).region_probabilities(crops, (LIPS, FACE))
    assert [overlap(a, b) > 0.98 for a, b in zip(rough, exact, strict=True)] == [True, True]
    assert [overlap(a, b) > 0.85 for a, b in zip(small, exact, strict=True)] == [True, True]
    halved = parser.region_probabilities(crops[:, ::2, ::2], (LIPS, FACE))
    assert halved.shape == (2, len(crops), 256, 256)
    assert overlap(halved[1], exact[1, :, ::2, ::2]) > 0.9


# --- settings and files ---


@pytest.mark.parametrize("size", [500, 256, 0])
def test_sizes_that_do_not_work_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"size={size}: give 512"):
        FaceParser({}, size=size)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size=0"):
        FaceParser({}, batch_size=0)
    with pytest.raises(ConfigError, match=r"batch_size=2\.5"):
        FaceParser({}, batch_size=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size=abc"):
        FaceParser({}, size="abc")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="precision=int8 is unknown"):
        FaceParser({}, "cpu", "int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="device=abacus"):
        FaceParser({}, "abacus")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "generator.pth"
    torch.save({"face_decoder_blocks.0.bias": torch.ones(1), "output_block.0.bias": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"generator\.pth: this is a Wav2Lip generator"):
        FaceParser(path, "cpu")


@pytest.mark.slow
def test_parse_net_takes_the_same_crops(crops: Image) -> None:
    network = ParseNet()
    parser = FaceParser(dict(network.state_dict()), "cpu")
    x = torch.from_numpy(np.ascontiguousarray(crops[:1, ..., ::-1])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = network.eval()(x)[0].softmax(1)[:, [10, 11, 12]].sum(1)
    np.testing.assert_allclose(parser.probabilities(crops[:1], LIPS), expected, atol=1e-3)
