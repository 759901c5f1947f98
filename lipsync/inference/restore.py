"""Networks that restore faces, behind one interface: aligned pictures in, the same pictures sharper.

    restorer = GFPGANRestorer("gfpgan_v1.4")
    sharp = restorer(crops)                     # (N, 512, 512, 3) uint8 BGR, aligned as in FFHQ

They look at single pictures and draw no random numbers: the same batch gives the same answer each time, and
the same picture in another batch differs by rounding at most.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lipsync.checkpoints.kinds import Kind, gfpgan_kwargs
from lipsync.checkpoints.loading import Source, load_weights, read_network
from lipsync.checkpoints.networks import load_gfpgan
from lipsync.checkpoints.store import Progress
from lipsync.checks import is_whole
from lipsync.errors import ConfigError
from lipsync.models.batching import BatchSize, run_batched
from lipsync.models.device import Precision, autocast, resolve_device, resolve_precision
from lipsync.types import Image


class Restorer(Protocol):
    """Restores faces laid out like :data:`lipsync.faces.align.FFHQ_TEMPLATE`."""

    @property
    def size(self) -> int:
        """Side of the pictures."""

    def __call__(self, crops: Image) -> Image:
        """``(N, size, size, 3)`` uint8 BGR to the same shape, without randomness."""


class TorchRestorer(ABC):
    """What restorers that are torch networks share: conversion, batches and what to do when memory runs out.

    Args:
        network: ``(B, 3, size, size)`` RGB in [-1, 1] to the same; moved to ``device``, put into eval mode.
        size: Side of the pictures.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``bfloat16`` and ``float16`` run the network under autocast; ``auto`` as in
            :func:`lipsync.models.device.resolve_precision`.
        batch_size: Most pictures in a forward; None chooses 1 on a CPU (larger is no faster there) and 8
            elsewhere. When memory runs out it is halved for good; pictures already restored are kept.

    Raises:
        ConfigError: The device is not there, or a setting is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and not is_whole(batch_size, 1):
            raise ConfigError(f"restorer batch_size={batch_size}: give a whole number of 1 or more, or null")
        self.size = size
        self.device = resolve_device(device)
        self.batch_size = BatchSize(batch_size or (1 if self.device.type == "cpu" else 8))
        self.dtype = resolve_precision(precision, self.device)
        # mypy does not know the keyword, which is documented for nn.Module.to
        self.network = network.to(self.device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, crops: Image) -> Image:
        """``(N, size, size, 3)`` uint8 BGR to the same shape.

        Raises:
            ConfigError: The device has not enough memory for a single picture.
        """
        if not len(crops):
            return np.empty_like(crops)
        advice = "use device=cpu, precision=bfloat16 or enhancer=none"
        return np.concatenate(
            [*run_batched(self._restored, list(crops), self.batch_size, self.device, advice)]
        )

    @abstractmethod
    def _forward(self, faces: Tensor) -> Tensor:
        """The network on ``(B, 3, size, size)`` RGB in [-1, 1]."""

    def _restored(self, crops: Sequence[Image]) -> Image:
        with torch.inference_mode(), autocast(self.device, self.dtype):
            faces = torch.from_numpy(np.stack(crops)).to(self.device).flip(-1).permute(0, 3, 1, 2)
            faces = (faces.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            pixels = self._forward(faces).float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
            return np.asarray(pixels.permute(0, 2, 3, 1).flip(-1).contiguous().cpu().numpy())


class GFPGANRestorer(TorchRestorer):
    """GFP-GAN (Wang et al., CVPR 2021), the "clean" network of the released weights 1.2, 1.3 and 1.4.

    The network adds noise to its features. The noise stored with the weights is used, not a new draw for
    each picture, so a still face stays still.

    Args:
        weights: A name of the checkpoint catalogue, a path, or a loaded dict; the size of the network is told
            by the weights.
        device: As in :class:`TorchRestorer`, like ``precision`` and ``batch_size``.
        precision: See there.
        batch_size: See there.
        progress: Called while a file of the catalogue is downloaded.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
        ConfigError: The device is not there, or a setting is out of range.
    """

    def __init__(
        self,
        weights: Source = "gfpgan_v1.4",
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        device = resolve_device(device)  # a mistake shows before anything is downloaded
        network, _ = load_gfpgan(weights, progress)
        super().__init__(network, network.out_size, device=device, precision=precision, batch_size=batch_size)

    def _forward(self, faces: Tensor) -> Tensor:
        return self.network(faces)


class GfpganPackageRestorer(TorchRestorer):
    """The network of the ``gfpgan`` package with the same weights, to compare :class:`GFPGANRestorer` with.

    Args:
        weights: A name of the checkpoint catalogue or a path.
        device: As in :class:`TorchRestorer`, like ``precision`` and ``batch_size``.
        precision: See there.
        batch_size: See there.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
        ConfigError: The package does not import, the device is not there, or a setting is out of range.
    """

    def __init__(
        self,
        weights: Source = "gfpgan_v1.4",
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        batch_size: int | None = None,
    ) -> None:
        try:
            package = importlib.import_module("gfpgan.archs.gfpganv1_clean_arch")
        # torchvision built for another torch raises RuntimeError while it registers its operators.
        except (ImportError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"the gfpgan package does not import ({reason}); use restorer=gfpgan, the same "
                "network with the same weights"
            ) from error
        state, _ = read_network(weights, Kind.GFPGAN)
        settings = {"input_is_latent": True, "different_w": True, "sft_half": True, **gfpgan_kwargs(state)}
        network: nn.Module = package.GFPGANv1Clean(**settings)
        load_weights(network, state)
        size = int(settings["out_size"])
        super().__init__(network, size, device=device, precision=precision, batch_size=batch_size)

    def _forward(self, faces: Tensor) -> Tensor:
        return self.network(faces, return_rgb=False, randomize_noise=False)[0]
