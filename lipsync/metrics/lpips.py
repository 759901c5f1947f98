"""LPIPS: distance of pictures as a network sees them.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, version 0.1
with AlexNet: maps scaled to unit length per pixel, squared differences weighted per channel, mean over the
pixels, sum over five layers. The channel weights come with torchmetrics; AlexNet's are given by path.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lipsync.checkpoints.adapters import tensors
from lipsync.checkpoints.kinds import State
from lipsync.checkpoints.loading import load_state, load_weights
from lipsync.models.alexnet_features import AlexNetFeatures
from lipsync.types import Image

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Of R, G, B in [-1, 1]: ``(value - shift) / scale`` is what the network was trained on."""
MIN_SIDE = 64
"""Pictures with a shorter side are enlarged to it: the network sees too little of smaller ones."""
MAX_SIDE = 512
"""Pictures with a longer side are reduced to it: a frame of 1920 x 1080 takes 3 s on one core."""


class LPIPS(nn.Module):
    """The distance, 0 for equal pictures.

    Args:
        weights: File with the weights of AlexNet's convolutions under torchvision's names.
        device: Where it runs.

    Raises:
        CheckpointError: The file cannot be read or holds other weights.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: str | Path, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.network = AlexNetFeatures()
        self.sha256 = load_weights(self.network, str(weights), _convolutions).sha256
        self.linear = nn.ParameterList(_channel_weights())
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False).eval().to(device)

    def forward(self, pictures: Tensor, references: Tensor) -> Tensor:
        """Distance ``(B,)`` of RGB pictures ``(B, 3, H, W)`` in [-1, 1], sides of at least 31 pixels."""
        ours, theirs = ([_unit(m) for m in self.network(self._scaled(x))] for x in (pictures, references))
        total = pictures.new_zeros(len(pictures))
        for weights, one, other in zip(self.linear, ours, theirs, strict=True):
            total = total + ((one - other).square() * weights).sum(dim=1).mean(dim=(1, 2))
        return total

    def _scaled(self, pictures: Tensor) -> Tensor:
        return (pictures - self.shift) / self.scale

    @torch.inference_mode()
    def distance(self, picture: Image, reference: Image, side: int | None = None) -> float:
        """Distance of two pictures ``(H, W, 3)`` uint8 BGR of the same size.

        Args:
            picture: One.
            reference: The other.
            side: Both are resized to a square of this side first; None keeps their size and shape, unless
                the longest side exceeds 512 pixels or the shortest is below 64.

        Raises:
            ValueError: The shapes differ.
        """
        if picture.shape != reference.shape:
            raise ValueError(f"pictures of {picture.shape} and {reference.shape} cannot be compared")
        if np.array_equal(picture, reference):
            return 0.0
        return float(self(self._tensor(picture, side), self._tensor(reference, side)))

    def _tensor(self, picture: Image, side: int | None) -> Tensor:
        height, width = picture.shape[:2]
        factor = max(MIN_SIDE / min(height, width), min(1.0, MAX_SIDE / max(height, width)))
        size = (side, side) if side else (round(width * factor), round(height * factor))
        if size != (width, height):
            method = cv2.INTER_AREA if min(size) < min(height, width) else cv2.INTER_LINEAR
            picture = np.asarray(cv2.resize(picture, size, interpolation=method), dtype=np.uint8)
        rgb = torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1])).to(self.shift.device)
        return rgb.permute(2, 0, 1).unsqueeze(0).float() / 127.5 - 1


def _unit(maps: Tensor) -> Tensor:
    """Every pixel's channels scaled to length one."""
    return maps / (maps.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _convolutions(state: Mapping[str, Any]) -> State:
    """AlexNet without its classifier."""
    return {key: value for key, value in tensors(state).items() if key.startswith("features.")}


def _channel_weights() -> list[nn.Parameter]:
    """Weight of every channel of the five maps, ``(1, C, 1, 1)`` each."""
    resource = files("torchmetrics") / "functional" / "image" / "lpips_models" / "alex.pth"
    with as_file(resource) as path:
        state = load_state(path)
    return [nn.Parameter(state[f"lin{i}.model.1.weight"]) for i in range(len(AlexNetFeatures.channels))]


class VideoLPIPS(Metric):
    """Mean LPIPS over the frames of a video.

    Args:
        network: Measures; shared between metrics, and no part of their state.
        side: Square that frames are resized to; None keeps their size.
        **kwargs: For :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    total: Tensor
    frames: Tensor

    def __init__(self, network: LPIPS, side: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._distance = network.distance
        self.side = side
        self.add_state("total", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("frames", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, frame: Image, reference: Image) -> None:
        """Add one pair of frames, ``(H, W, 3)`` uint8 BGR each."""
        self.total += self._distance(frame, reference, self.side)
        self.frames += 1

    def compute(self) -> Tensor:
        """Mean over the frames; nan without frames."""
        return self.total / self.frames
