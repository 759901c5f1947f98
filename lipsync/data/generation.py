"""Windows for the generator: what to draw, what to draw it from, and the speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipsync.audio.spec import SYNC_FRAMES
from lipsync.audio.windows import mel_window, training_start
from lipsync.data.clip import Clip
from lipsync.data.sampling import clips_with_partners, speaker_weights


class GenerationSample(NamedTuple):
    """One window, as the workers deliver it."""

    target: Tensor
    """``(T, H, W, 3)`` uint8."""
    reference: Tensor
    """``(T, H, W, 3)`` uint8: another window of the same clip."""
    mels: Tensor
    """``(T, 80, 16)`` float32: one segment a frame, for the generator."""
    mel: Tensor
    """``(80, 16)`` float32: the whole window, for the expert."""
    reference_mel: Tensor
    """``(80, 16)`` float32: the speech of the reference window."""


class GenerationBatch(NamedTuple):
    """``B`` windows, ready for the generator."""

    faces: Tensor
    """``(B, 6, T, H, W)`` in [0, 1]: target with its lower half black, then reference."""
    target: Tensor
    """``(B, 3, T, H, W)`` in [0, 1]."""
    mels: Tensor
    """``(B, T, 1, 80, 16)``."""
    mel: Tensor
    """``(B, 1, 80, 16)``."""
    reference_mel: Tensor
    """``(B, 1, 80, 16)``."""


class GenerationDataset(Dataset[GenerationSample]):
    """Draws windows for the generator; item ``n`` depends on ``seed`` and ``n`` alone.

    Args:
        clips: Preprocessed clips; those without a target and a reference are left out (see ``skipped``).
        train: Random clips and windows; otherwise item ``i`` is a fixed window of clip ``i % len(clips)``.
        validation_windows: Fixed windows of each clip in a validation epoch.
        min_reference_gap: Frames between target and reference window, at least (the reference: 1).
        mel_shift: The segment of frame ``i`` starts at frame ``i + mel_shift``. The reference trains
            with -1 and infers with 0; our checkpoints carry the value they were trained with.
        speaker_exponent: A speaker's share of the draws is proportional to its clips to this power.
        image_size: Side of the square face crop.
        seed: Of the draws.

    Raises:
        DataError: No clip is long enough.
    """

    items_per_draw = 1

    def __init__(
        self,
        clips: Sequence[Clip],
        train: bool,
        *,
        min_reference_gap: int = 5,
        mel_shift: int = -1,
        speaker_exponent: float = 0.6,
        validation_windows: int = 1,
        image_size: int = 96,
        seed: int = 0,
    ) -> None:
        self.clips, self.starts = clips_with_partners(clips, min_reference_gap)
        self.skipped = len(clips) - len(self.clips)
        self.train, self.min_reference_gap, self.mel_shift = train, min_reference_gap, mel_shift
        self.validation_windows, self.image_size, self.seed = validation_windows, image_size, seed
        self._weights = speaker_weights(self.clips, speaker_exponent)

    def __len__(self) -> int:
        """Draws of one epoch: the number of clips, or of validation windows."""
        return len(self.clips) * (1 if self.train else self.validation_windows)

    def __getitem__(self, draw: int) -> GenerationSample:
        """The window of draw number ``draw`` (any integer >= 0)."""
        rng = np.random.default_rng([self.seed, draw])
        index = int(rng.choice(len(self.clips), p=self._weights)) if self.train else draw % len(self.clips)
        target, reference = self._windows(self.starts[index], rng)
        clip = self.clips[index]
        span = np.arange(SYNC_FRAMES)
        images = clip.frames(np.concatenate([target + span, reference + span]), self.image_size)
        mel = clip.mel()
        segments = [mel_window(mel, training_start(target + k + self.mel_shift)) for k in span.tolist()]
        return GenerationSample(
            target=torch.from_numpy(images[:SYNC_FRAMES]),
            reference=torch.from_numpy(images[SYNC_FRAMES:]),
            mels=_tensor(np.stack(segments)),
            mel=_tensor(mel_window(mel, training_start(target))),
            reference_mel=_tensor(mel_window(mel, training_start(reference))),
        )

    def _windows(self, starts: npt.NDArray[np.int64], rng: np.random.Generator) -> tuple[int, int]:
        """A target start and a reference start at least ``min_reference_gap`` frames away."""
        target = int(rng.choice(starts))
        partners = starts[np.abs(starts - target) >= self.min_reference_gap]
        return target, int(rng.choice(partners))

    @staticmethod
    def collate(samples: Sequence[GenerationSample]) -> GenerationSample:
        """Stack draws along a new first dimension."""
        return GenerationSample(*(torch.stack(fields) for fields in zip(*samples, strict=True)))

    @staticmethod
    def assemble(sample: GenerationSample) -> GenerationBatch:
        """Collated samples -> network inputs; masks the lower half of the target on the device."""
        target, reference = _planes(sample.target), _planes(sample.reference)
        masked = target.clone()
        masked[..., target.shape[-2] // 2 :, :] = 0
        return GenerationBatch(
            faces=torch.cat([masked, reference], dim=1),
            target=target,
            mels=sample.mels.unsqueeze(2),
            mel=sample.mel.unsqueeze(1),
            reference_mel=sample.reference_mel.unsqueeze(1),
        )


def _planes(images: Tensor) -> Tensor:
    """``(B, T, H, W, 3)`` uint8 -> ``(B, 3, T, H, W)`` in [0, 1]."""
    return images.permute(0, 4, 1, 2, 3).float() / 255


def _tensor(array: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
