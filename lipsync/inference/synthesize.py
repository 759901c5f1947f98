"""Repaint faces with the Wav2Lip generator, in batches.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild", ACM MM 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lipsync.audio.windows import MelWindows
from lipsync.checkpoints.networks import load_generator
from lipsync.checkpoints.store import Progress
from lipsync.errors import ConfigError
from lipsync.faces.crop import crop, whole_box
from lipsync.inference.detect import Pads
from lipsync.inference.stage import batched
from lipsync.models.device import resolve_device
from lipsync.models.wav2lip import Wav2Lip
from lipsync.types import Box, FaceFrame, Image, Patch

RELEASED_PADS: Pads = (0, 10, 0, 0)
"""``--pads`` of the reference inference script: released checkpoints expect the chin inside the box."""
TRAINED_PADS: Pads = (0, 0, 0, 0)
"""Checkpoints of ``train.py`` learnt from the detector's box as it is."""
RELEASED_MEL_SHIFT = 0
"""The reference inference rule, which released checkpoints are used with."""

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]


class Synthesizer(Protocol):
    """Second stage of the pipeline: new pictures of the face region, driven by speech."""

    @property
    def pads(self) -> Pads:
        """Pixels to add to the detector's box, ``top, bottom, left, right``, where the user names none."""

    @property
    def mel_shift(self) -> int:
        """Frames of 40 ms by which mel windows are taken later, where the user names none."""

    @property
    def batch_size(self) -> int:
        """Frames held at a time."""

    def __call__(self, faces: Iterable[FaceFrame], speech: MelWindows) -> Iterator[Patch]:
        """One patch for each frame, in order, without an image where the frame has no face."""


class Wav2LipSynthesizer:
    """The generator with its input preparation, on a device.

    Args:
        generator: ``(mels (B, 1, 80, 16), faces (B, 6, S, S)) -> (B, 3, S, S)`` in [0, 1], S being its
            ``image_size``; moved to ``device`` and put into eval mode.
        pads: Default ``top, bottom, left, right`` padding of the detector's box, in pixels.
        mel_shift: Default shift of the mel windows, in frames of 40 ms; see
            :class:`lipsync.audio.windows.MelWindows`.
        batch_size: Frames per forward; None chooses 8 on a CPU (larger is slower there) and 32 elsewhere.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``bfloat16`` runs the generator under autocast; ``auto`` does so on GPUs that support it.

    Raises:
        ConfigError: The device is not there, or a setting is out of range.
    """

    def __init__(
        self,
        generator: Wav2Lip,
        *,
        pads: Pads = RELEASED_PADS,
        mel_shift: int = RELEASED_MEL_SHIFT,
        batch_size: int | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "float32",
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: give 1 or more")
        self.device = resolve_device(device)
        self.pads = pads
        self.mel_shift = mel_shift
        self.image_size = generator.image_size
        self.batch_size = batch_size or (8 if self.device.type == "cpu" else 32)
        self.half = _runs_in_bfloat16(precision, self.device)
        # mypy does not know the keyword, which is documented for nn.Module.to
        self.generator = generator.to(self.device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        batch_size: int | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        progress: Progress | None = None,
    ) -> Wav2LipSynthesizer:
        """The synthesizer of a checkpoint, with the padding and the mel shift it was trained with.

        Args:
            checkpoint: A name of the catalogue, or a path.
            batch_size: As in the constructor, like ``device`` and ``precision``.
            device: See above.
            precision: See above.
            progress: Called while a file of the catalogue is downloaded.

        Raises:
            CheckpointError: The checkpoint is missing, damaged or not a Wav2Lip generator.
            ConfigError: As the constructor.
        """
        device = resolve_device(device)  # a mistake shows before anything is downloaded
        generator, loaded = load_generator(checkpoint, progress)
        # Only checkpoints of this project carry hyper-parameters.
        return cls(
            generator,
            pads=TRAINED_PADS if loaded.hparams else RELEASED_PADS,
            mel_shift=loaded.hparams.get("mel_shift", RELEASED_MEL_SHIFT),
            batch_size=batch_size,
            device=device,
            precision=precision,
        )

    def __call__(self, faces: Iterable[FaceFrame], speech: MelWindows) -> Iterator[Patch]:
        """One patch for each frame, in order; the frame of index ``i`` is driven by mel window ``i``."""
        for batch in batched(faces, self.batch_size):
            yield from self._patches(batch, speech)

    def _patches(self, batch: list[FaceFrame], speech: MelWindows) -> Iterator[Patch]:
        boxes = [_pixels(item) for item in batch]
        present = [(item, box) for item, box in zip(batch, boxes, strict=True) if box is not None]
        images: Iterator[Image] = iter(())
        if present:
            crops = np.stack([crop(item.frame.image, box, self.image_size) for item, box in present])
            mels = np.stack([speech[item.frame.index] for item, _ in present])
            images = iter(self.repaint(crops, mels))
        for item, box in zip(batch, boxes, strict=True):
            yield Patch(item.frame) if box is None else Patch(item.frame, box, next(images))

    def repaint(self, crops: Image, mels: np.ndarray) -> Image:
        """New pictures of faces.

        Args:
            crops: ``(B, S, S, 3)`` uint8 BGR, S being the generator's ``image_size``.
            mels: ``(B, 80, 16)`` float32 log-mel windows.

        Returns:
            ``(B, S, S, 3)`` uint8 BGR, rounded to the nearest value.
        """
        with torch.inference_mode(), self._autocast():
            faces = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
            speech = torch.from_numpy(mels).to(self.device).unsqueeze(1)
            fake = self.generator(speech, network_input(faces))
            pixels = (fake.float() * 255).round().clamp(0, 255).to(torch.uint8)
            return np.asarray(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()


def network_input(faces: Tensor) -> Tensor:
    """``(B, 3, H, W)`` crops -> ``(B, 6, H, W)`` channels-last: lower half set to 0, then as they are."""
    masked = faces.clone()
    masked[:, :, faces.shape[2] // 2 :] = 0
    return torch.cat((masked, faces), dim=1).contiguous(memory_format=torch.channels_last)


def _runs_in_bfloat16(precision: str, device: torch.device) -> bool:
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision={precision} is unknown: use float32, bfloat16 or auto")
    return precision == "bfloat16"


def _pixels(item: FaceFrame) -> Box | None:
    """The face's box in whole pixels inside the frame; None without a face or where none of it is visible."""
    if item.face is None:
        return None
    height, width = item.frame.image.shape[:2]
    return whole_box(item.face.box, width, height)
