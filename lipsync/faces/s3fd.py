"""S3FD face detection, the detector whose boxes the released Wav2Lip weights were trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lipsync.checkpoints.loading import load_weights
from lipsync.faces.working_size import WorkingImage, checked_side, working_image
from lipsync.models.device import resolve_device
from lipsync.models.s3fd import BGR_MEAN, S3FD
from lipsync.models.s3fd_decoding import Detections, decode_wav2lip
from lipsync.types import Box, Face, Frame


class S3FDDetector:
    """Faces without landmarks; accurate and heavy (8.4 GMAC at 160 x 160, growing with the area).

    Args:
        weights: ``s3fd.pth`` as a path, or a name in the checkpoint catalogue.
        device: Where the network runs: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        channel_order: ``"bgr"`` feeds the network the channels it was trained on; ``"rgb"`` repeats the
            Wav2Lip reference, which swaps red and blue.
        max_side: Frames are shrunk to this longest side in pixels before detection; None keeps the size, as
            the reference does.
        min_score: Least probability for a face to be reported.
        batch_size: Most frames given to the network at once.

    Raises:
        CheckpointError: The weights are missing or do not fit.
        ConfigError: The device is not there, or a setting is out of range.
    """

    def __init__(
        self,
        weights: str | Path,
        device: str | torch.device = "auto",
        *,
        channel_order: Literal["bgr", "rgb"] = "bgr",
        max_side: int | None = 640,
        min_score: float = 0.5,
        batch_size: int = 8,
    ) -> None:
        self.device = resolve_device(device)
        self.channel_order = channel_order
        self.max_side = checked_side(max_side)
        self.min_score = min_score
        self.batch_size = batch_size
        self.network: torch.nn.Module = S3FD()
        load_weights(self.network, weights)
        self.network.to(self.device).eval()

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        """Faces of each frame in its own pixels, highest score first."""
        found = []
        for batch in self._batches([working_image(frame.image, self.max_side) for frame in frames]):
            for image, detections in zip(batch, self._forward(batch), strict=True):
                found.append([image.to_frame(_face(row)) for row in detections])
        return found

    def _batches(self, images: Sequence[WorkingImage]) -> Iterator[Sequence[WorkingImage]]:
        """Runs of images of one size, none longer than the batch size."""
        for _, group in groupby(images, key=lambda work: work.image.shape):
            run = list(group)
            for start in range(0, len(run), self.batch_size):
                yield run[start : start + self.batch_size]

    @torch.inference_mode()
    def _forward(self, images: Sequence[WorkingImage]) -> list[Detections]:
        pixels = torch.from_numpy(np.stack([work.image for work in images])).to(self.device)
        batch = pixels.permute(0, 3, 1, 2).float()
        if self.channel_order == "rgb":
            batch = batch.flip(1)
        # The reference subtracts the means in this order whichever order the channels are in.
        batch = batch - torch.tensor(BGR_MEAN, device=self.device)[:, None, None]
        return decode_wav2lip(self.network(batch), min_score=self.min_score)


def _face(row: Detections) -> Face:
    x1, y1, x2, y2, score = (float(value) for value in row)
    return Face(Box(x1, y1, x2, y2), score)
