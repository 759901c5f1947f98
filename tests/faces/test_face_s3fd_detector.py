from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipsync.errors import CheckpointError, ConfigError
from lipsync.faces.detector import FaceDetector, S3FDDetector
from lipsync.models.device import resolve_device
from lipsync.models.s3fd import S3FD
from lipsync.types import Face, Frame


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "s3fd.pth"
    torch.manual_seed(0)
    torch.save(S3FD().state_dict(), path)
    return path


class Recorder(nn.Module):
    """Stands in for the network: keeps its inputs, gives fixed maps."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        first = sum(len(batch) for batch in self.inputs)
        self.inputs.append(images)
        return [level[first : first + len(images)] for level in self.maps]


def fixture_maps(manifest: dict) -> list[Tensor]:
    """The maps by the rule that stands in the fixture."""
    batch, maps = manifest["batch"], []
    for level, (height, width) in enumerate(manifest["map_sizes"]):
        rng = np.random.default_rng(400 + level)
        scores = rng.standard_normal((batch, 2, height, width)).astype(np.float32)
        offsets = (rng.standard_normal((batch, 4, height, width)) * 1.5).astype(np.float32)
        scores[:, 0] += 4
        scores[:, 1][rng.random((batch, height, width)) < 0.06] += 7
        scores[2, 1] = -9
        maps += [torch.from_numpy(scores), torch.from_numpy(offsets)]
    return maps


def rectangle(faces: list[Face]) -> list[int] | None:
    """The best box by the reference's rule: cut off at 0, truncated to whole pixels."""
    if not faces:
        return None
    box = faces[0].box
    return [int(max(0.0, value)) for value in (box.x1, box.y1, box.x2, box.y2)]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_final_rectangles_equal_the_reference(parity, weights: Path, batch_size: int) -> None:
    manifest, arrays = parity("s3fd_decode_nms")
    height, width = manifest["image_hw"]
    detector = S3FDDetector(weights, "cpu", max_side=None, batch_size=batch_size)
    detector.network = Recorder(fixture_maps(manifest))
    frames = [Frame(i, i / 25, np.zeros((height, width, 3), np.uint8)) for i in range(manifest["batch"])]
    found = detector.detect(frames)
    assert [rectangle(faces) for faces in found] == manifest["final_rects"]
    for i, faces in enumerate(found):
        kept = np.array([[f.box.x1, f.box.y1, f.box.x2, f.box.y2, f.score] for f in faces]).reshape(-1, 5)
        np.testing.assert_allclose(kept, arrays[f"kept_{i}"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("order", "expected"), [("bgr", (10, 20, 30)), ("rgb", (30, 20, 10))])
def test_channel_order_and_means(weights: Path, order: str, expected: tuple[int, int, int]) -> None:
    detector = S3FDDetector(weights, "cpu", channel_order=order, max_side=None)
    detector.network = Recorder([torch.zeros(1, 2 + 2 * (i % 2), 1, 1) for i in range(12)])
    detector.detect([Frame(0, 0.0, np.full((32, 48, 3), (10, 20, 30), np.uint8))])
    (batch,) = detector.network.inputs
    assert batch.shape == (1, 3, 32, 48)
    means = batch.mean(dim=(0, 2, 3)).tolist()
    assert means == [value - mean for value, mean in zip(expected, (104, 117, 123), strict=True)]


def test_real_network_with_frames_of_two_sizes(weights: Path) -> None:
    detector = S3FDDetector(weights, "cpu", max_side=64, min_score=0.0, batch_size=2)
    assert isinstance(detector, FaceDetector)
    rng = np.random.default_rng(0)
    sizes = [(96, 128), (96, 128), (96, 128), (64, 48), (64, 48)]
    frames = [Frame(i, 0.0, rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for i, size in enumerate(sizes)]
    together = detector.detect(frames)
    assert all(together)
    for frame, faces in zip(frames, together, strict=True):
        alone = detector.detect([frame])[0]
        assert len(alone) == len(faces)
        assert alone[0].score == pytest.approx(faces[0].score, abs=1e-5)
        assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)
    # Boxes come back in the pixels of the frame, twice those of the working image.
    assert max(face.box.x2 for face in together[0]) > 100


def test_the_device_is_chosen_or_named(weights: Path) -> None:
    assert S3FDDetector(weights, "auto").device == resolve_device("auto")
    with pytest.raises(ConfigError, match="device=tpu9 is unknown"):
        S3FDDetector(weights, "tpu9")


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        S3FDDetector(tmp_path / "missing.pth")
