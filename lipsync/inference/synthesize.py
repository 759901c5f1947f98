"""Repaint faces with the Wav2Lip generator, in batches.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild", ACM MM 2020.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lipsync.audio.mel import mel_basis
from lipsync.audio.windows import MelWindows
from lipsync.checkpoints.networks import load_generator
from lipsync.checkpoints.store import Progress
from lipsync.faces.crop import crop, whole_box
from lipsync.inference.detect import Pads
from lipsync.models.batching import BatchSize, run_batched
from lipsync.models.device import Precision, autocast, repeatable, resolve_device, resolve_precision
from lipsync.models.wav2lip import Wav2Lip
from lipsync.models.wav2lip_folded import FoldedWav2Lip
from lipsync.types import Box, FaceFrame, Image, Patch

RELEASED_PADS: Pads = (0, 10, 0, 0)
"""``--pads`` of the reference inference script: released checkpoints expect the chin inside the box."""
TRAINED_PADS: Pads = (0, 0, 0, 0)
"""Checkpoints of ``train.py`` learnt from the detector's box as it is."""
RELEASED_MEL_SHIFT = 0
"""The reference inference rule, which released checkpoints are used with."""

FloatArray: TypeAlias = npt.NDArray[np.float32]

_ADVICE = "use device=cpu, precision=bfloat16 or a checkpoint for smaller pictures"


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
        """Most frames in a batch."""

    def __call__(self, faces: Iterable[FaceFrame], speech: MelWindows, top: float = 0.0) -> Iterator[Patch]:
        """One patch for each frame, in order, without an image where the frame has no face.

        Rows of the image above the fraction ``top`` of its height are not wanted and may show the source.
        """


class Wav2LipSynthesizer:
    """The generator with its input preparation, on a device.

    Args:
        generator: A :class:`Wav2Lip`, of which a folded copy is made; or a network of another kind,
            ``(mels (B, 1, 80, 16), faces (B, 6, S, S)) -> (B, 3, S, S)`` in [0, 1] with S as its
            ``image_size``, which is used as it is, moved to ``device`` and in eval mode.
        pads: Default ``top, bottom, left, right`` padding of the detector's box, in pixels.
        mel_shift: Default shift of the mel windows, in frames of 40 ms; see
            :class:`lipsync.audio.windows.MelWindows`.
        batch_size: Most frames per forward; None chooses by device. It is halved when a GPU's memory runs
            out; only what failed is run again.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: What the generator computes in: ``float32``, ``bfloat16``, ``float16`` (GPUs), or ``auto``,
            bfloat16 where the device has instructions for it and float32 elsewhere.
        compiled: Run the generator through ``torch.compile``: the first batch takes a minute or more, which
            only long jobs on a GPU can earn back. On a CPU it gains nothing.

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
        compiled: bool = False,
    ) -> None:
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        self.pads = pads
        self.mel_shift = mel_shift
        self.image_size = generator.image_size
        self.compiled = compiled
        self._size = BatchSize.of(batch_size, self.device)
        if compiled:
            self._size = BatchSize(self._size.most)
        # A subclass may compute something else.
        folds = type(generator) is Wav2Lip
        network = (FoldedWav2Lip if folds else PlainGenerator)(generator, self.dtype)
        self.network = network.to(self.device).eval()
        mel_basis()  # loaded with the network, not in the first run: it takes a second
        if compiled:
            self.network.compile(dynamic=False)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        batch_size: int | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        compiled: bool = False,
        progress: Progress | None = None,
    ) -> Wav2LipSynthesizer:
        """The synthesizer of a checkpoint, with the padding and the mel shift it was trained with.

        Args:
            checkpoint: A name of the catalogue, or a path.
            batch_size: As in the constructor, like the settings that follow.
            device: See above.
            precision: See above.
            compiled: See above.
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
            compiled=compiled,
        )

    @property
    def batch_size(self) -> int:
        """Most frames per forward, fewer once memory has run out."""
        return self._size.most

    def __call__(self, faces: Iterable[FaceFrame], speech: MelWindows, top: float = 0.0) -> Iterator[Patch]:
        """One patch for each frame, in order; the frame of index ``i`` is driven by mel window ``i``.

        On a GPU the next batch is prepared and sent while one is computed. Each call begins
        with small batches again.

        Args:
            faces: The frames.
            speech: Mel windows by frame index.
            top: Fraction of the height, below 1. Rows above are not repainted but show the crop; the decoder
                computes only what the rows below need.

        Raises:
            ConfigError: The device has not enough memory for a single frame.
        """
        self._size.restart()
        frames = iter(faces)
        under_way: deque[_Batch] = deque()
        while items := list(islice(frames, self._size.current)):
            under_way.append(self._begun(items, speech, top))
            if len(under_way) > (self.device.type != "cpu"):
                yield from under_way.popleft().patches()
        while under_way:
            yield from under_way.popleft().patches()

    def repaint(self, crops: Image, mels: FloatArray, top: float = 0.0) -> Image:
        """New pictures of faces.

        Args:
            crops: ``(B, S, S, 3)`` uint8 BGR, S being the generator's ``image_size``; B of at least 1.
            mels: ``(B, 80, 16)`` float32 log-mel windows.
            top: As for the call.

        Returns:
            ``(B, S, S, 3)`` uint8 BGR, rounded to the nearest value.

        Raises:
            ConfigError: As for the call.
        """
        self._size.restart()
        first = self._first_row(top)
        pictures = crops.copy()
        pictures[:, first:] = _fetched(self._painted(list(crops), list(mels), first))
        return pictures

    def _begun(self, items: list[FaceFrame], speech: MelWindows, top: float) -> _Batch:
        boxes = [_pixels(item) for item in items]
        present = [(item.frame, box) for item, box in zip(items, boxes, strict=True) if box is not None]
        crops = [crop(frame.image, box, self.image_size) for frame, box in present]
        mels = [speech[frame.index] for frame, _ in present]
        first = self._first_row(top)
        return _Batch(items, boxes, crops, first, self._painted(crops, mels, first))

    def _first_row(self, top: float) -> int:
        if not 0 <= top < 1:
            raise ValueError(f"top={top}: give a fraction of the height, 0 <= top < 1")
        return max(0, int(top * self.image_size) - 1)  # resizing to the box mixes neighbouring rows

    def _painted(self, crops: Sequence[Image], mels: Sequence[FloatArray], first: int) -> list[Tensor]:
        """Rows from ``first`` on of each picture, ``(B, rows, S, 3)`` uint8, in parts, on the device."""
        pairs = list(zip(crops, mels, strict=True))
        return list(
            run_batched(lambda part: self._forward(part, first), pairs, self._size, self.device, _ADVICE)
        )

    @torch.inference_mode()
    def _forward(self, pairs: Sequence[tuple[Image, FloatArray]], first: int) -> Tensor:
        crops, mels = (np.stack(values) for values in zip(*pairs, strict=True))
        if self.compiled:  # batches of one size, so that it is compiled once
            lacking = (0, self._size.current - len(pairs))
            crops, mels = (np.pad(v, (lacking, *[(0, 0)] * (v.ndim - 1))) for v in (crops, mels))
        with repeatable(self.device):
            rows: Tensor = self.network(self._sent(mels).unsqueeze(1), self._sent(crops), first)
        return rows[: len(pairs)]

    def _sent(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Frames whose pictures are being computed."""

    items: list[FaceFrame]
    boxes: list[Box | None]
    crops: list[Image]
    """Of the frames with a box; ours to write to."""
    first: int
    rows: list[Tensor]
    """The pictures from row ``first`` on, in parts, on the device."""

    def patches(self) -> Iterator[Patch]:
        """One for each frame; waits for the device."""
        if self.crops:
            for picture, rows in zip(self.crops, _fetched(self.rows), strict=True):
                picture[self.first :] = rows
        pictures = iter(self.crops)
        for item, box in zip(self.items, self.boxes, strict=True):
            if box is None:
                yield Patch(item.frame)
            else:
                yield Patch(item.frame, box, next(pictures), item.face)


class PlainGenerator(nn.Module):
    """A generator of any make behind the interface of :class:`FoldedWav2Lip`.

    Args:
        generator: See :class:`Wav2LipSynthesizer`.
        dtype: Other than float32: run under autocast.
    """

    def __init__(self, generator: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        # mypy does not know the keyword, which is documented for nn.Module.to
        self.generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype

    def forward(self, mels: Tensor, crops: Tensor, first: int = 0) -> Tensor:
        """As :meth:`FoldedWav2Lip.forward`; the whole picture is computed."""
        faces = crops.permute(0, 3, 1, 2).float() / 255
        with autocast(crops.device, self.dtype):
            fake = self.generator(mels, network_input(faces))
        pixels = (fake[:, :, first:].float() * 255).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous()


def network_input(faces: Tensor) -> Tensor:
    """``(B, 3, H, W)`` crops -> ``(B, 6, H, W)`` channels-last: lower half set to 0, then as they are."""
    masked = faces.clone()
    masked[:, :, faces.shape[2] // 2 :] = 0
    return torch.cat((masked, faces), dim=1).contiguous(memory_format=torch.channels_last)


def _fetched(parts: Sequence[Tensor]) -> Image:
    return np.concatenate([part.cpu().numpy() for part in parts])


def _pixels(item: FaceFrame) -> Box | None:
    """The face's box in whole pixels inside the frame; None without a face or where none of it is visible."""
    if item.face is None:
        return None
    height, width = item.frame.image.shape[:2]
    return whole_box(item.region or item.face.box, width, height)
