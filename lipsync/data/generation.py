"""Windows for the generator: what to draw, what to draw it from, and the speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipsync.audio.spec import MEL_STEPS, SYNC_FRAMES
from lipsync.audio.windows import training_start
from lipsync.data.augmentation import change_mel, draw_geometry, draw_mel_change, warp
from lipsync.data.base_clip import BaseClip
from lipsync.data.window_dataset import Ints, ResidentStore, WindowDataset, int_tensor, speech_windows


class GenerationPlan(NamedTuple):
    """Where one window lies; ``(B, ...)`` when collated."""

    clip: Tensor
    """int64: which clip."""
    target: Tensor
    """int64: position of the target's first picture among the clip's pictures."""
    reference: Tensor
    """int64: likewise, another window of the same clip."""
    columns: Tensor
    """``(T + 2 + M,)`` int64: first mel columns of frames, window, reference, other speech."""
    augment: Tensor
    """``(12,)`` float32: geometry of target (5) and reference (5), mel change (2); ``(0,)``: as it is."""


class GenerationSample(NamedTuple):
    """One window, as the workers deliver it; ``(B, ...)`` when collated."""

    target: Tensor
    """``(T, H, W, 3)`` uint8."""
    reference: Tensor
    """``(T, H, W, 3)`` uint8: another window of the same clip."""
    speech: Tensor
    """``(T + 2 + M, 80, 16)`` float32: the frames' segments, the window, the reference, other moments."""
    augment: Tensor


class GenerationBatch(NamedTuple):
    """``B`` windows, ready for the generator."""

    faces: Tensor
    """``(B, 6, T, H, W)`` in [0, 1]: target with its lower half black, then reference."""
    target: Tensor
    """``(B, 3, T, H, W)`` in [0, 1]."""
    mels: Tensor
    """``(B, T, 1, 80, 16)``: one segment a frame, for the generator."""
    mel: Tensor
    """``(B, 1, 80, 16)``: the whole window, for the expert."""
    reference_mel: Tensor
    """``(B, 1, 80, 16)``: the speech of the reference window."""
    other_mels: Tensor | None = None
    """``(B, M, 1, 80, 16)``: the clip's speech at other moments."""


class GenerationDataset(WindowDataset[GenerationPlan, GenerationSample]):
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
        reference: ``random``, or ``silent``: the partner window with the quietest speech, so that the
            reference shows a resting mouth.
        flip: Mirror half of the windows.
        crop_margin: Scale and shift target and reference, each on its own, by up to this share of the
            face, so that their crops do not line up.
        mel_mask: Silence a random stripe of mel bands and change the gain of the generator's speech.
        other_speech: Windows of the clip's speech at other moments, further negatives of the sync loss.
        seed: Of the draws.

    Raises:
        DataError: No clip is long enough.
    """

    def __init__(
        self,
        clips: Sequence[BaseClip],
        train: bool,
        *,
        min_reference_gap: int = 5,
        mel_shift: int = -1,
        speaker_exponent: float = 0.6,
        validation_windows: int = 1,
        image_size: int = 96,
        reference: Literal["random", "silent"] = "random",
        flip: bool = False,
        crop_margin: float = 0.0,
        mel_mask: bool = False,
        other_speech: int = 0,
        seed: int = 0,
    ) -> None:
        if reference not in ("random", "silent"):
            raise ValueError(f"data.windows.reference={reference}: choose random or silent")
        super().__init__(
            clips,
            gap=min_reference_gap,
            mel_shift=mel_shift,
            speaker_exponent=speaker_exponent,
            image_size=image_size,
            seed=seed,
        )
        self.train, self.validation_windows, self.reference = train, validation_windows, reference
        self.flip, self.crop_margin, self.mel_mask = flip and train, crop_margin * train, mel_mask and train
        self.other_speech = other_speech if train else 0
        self._loudness: dict[int, npt.NDArray[np.float64]] = {}

    def __len__(self) -> int:
        """Draws of one epoch: the number of clips, or of validation windows."""
        return len(self.clips) * (1 if self.train else self.validation_windows)

    def plan(self, draw: int) -> GenerationPlan:
        """Where the window of draw number ``draw`` lies."""
        rng = np.random.default_rng([self.seed, draw])
        if self.train:
            index, starts, offset = self._draw_clip(rng)
        else:
            index, offset = draw % len(self.clips), 0
            starts = self.starts[index]
        target = int(starts[rng.integers(len(starts))])
        partners = starts[np.abs(starts - target) >= self.gap]
        reference = self._reference(index, partners, offset, rng)
        frames = [target + k + self.mel_shift for k in range(SYNC_FRAMES)] + [target, reference]
        if self.other_speech:
            frames += rng.choice(partners, self.other_speech).tolist()
        pictures = np.searchsorted(self.clips[index].present, [target, reference])
        return GenerationPlan(
            clip=int_tensor(index),
            target=int_tensor(pictures[0]),
            reference=int_tensor(pictures[1]),
            columns=int_tensor([training_start(frame + offset) for frame in frames]),
            augment=self._changes(rng),
        )

    def _reference(self, index: int, partners: Ints, offset: int, rng: np.random.Generator) -> int:
        if self.reference == "random":
            return int(partners[rng.integers(len(partners))])
        columns = np.array([training_start(frame + offset) for frame in partners.tolist()])
        return int(partners[self._loudness_at(index, columns).argmin()])

    def _loudness_at(self, index: int, columns: Ints) -> npt.NDArray[np.float64]:
        """Sum of the mel over a window from each column of a clip."""
        if index not in self._loudness:
            total = self.clips[index].mel().sum(axis=0, dtype=np.float64)
            self._loudness[index] = np.concatenate([[0.0], total.cumsum()])
        sums = self._loudness[index]
        return np.asarray(sums[columns + MEL_STEPS] - sums[columns])

    def _changes(self, rng: np.random.Generator) -> Tensor:
        if not (self.flip or self.crop_margin or self.mel_mask):
            return torch.empty(0)
        margin = self.crop_margin
        moves = draw_geometry(rng, 2, flip=self.flip, rotation=0.0, scale=margin, shift=margin)
        moves[1, 0] = moves[0, 0]  # target and reference face the same way
        return torch.from_numpy(np.concatenate([moves.ravel(), draw_mel_change(rng, 1)[0]]))

    def read(self, plan: GenerationPlan) -> GenerationSample:
        """The window of one planned draw."""
        clip = self.clips[int(plan.clip)]
        first = np.array([int(plan.target), int(plan.reference)])
        target, reference = torch.from_numpy(self._pictures(clip, first))
        return GenerationSample(
            target, reference, speech_windows(clip.mel(), plan.columns.numpy()), plan.augment
        )

    def gather(self, plan: GenerationPlan, store: ResidentStore) -> GenerationSample:
        """The windows of collated plans, from a store on their device."""
        count = plan.columns.shape[1]
        speech = store.speech(plan.clip.repeat_interleave(count), plan.columns.flatten())
        return GenerationSample(
            store.pictures(plan.clip, plan.target),
            store.pictures(plan.clip, plan.reference),
            speech.unflatten(0, (-1, count)),
            plan.augment,
        )

    @staticmethod
    def collate(samples: Sequence[Any]) -> Any:
        """Stack plans or samples along a new first dimension."""
        return type(samples[0])(*(torch.stack(fields) for fields in zip(*samples, strict=True)))

    def assemble(self, sample: GenerationSample) -> GenerationBatch:
        """Collated samples -> network inputs; masks the lower half of the target on the device."""
        target, reference = _planes(sample.target), _planes(sample.reference)
        speech, frames = sample.speech.unsqueeze(2), sample.target.shape[1]
        mels = speech[:, :frames]
        if self.flip or self.crop_margin:
            target = _moved(target, sample.augment[:, :5])
            reference = _moved(reference, sample.augment[:, 5:10])
        if self.mel_mask:
            change = sample.augment[:, 10:].repeat_interleave(frames, dim=0)
            mels = change_mel(mels.flatten(0, 2), change).view_as(mels)
        masked = target.clone()
        masked[..., target.shape[-2] // 2 :, :] = 0
        return GenerationBatch(
            faces=torch.cat([masked, reference], dim=1),
            target=target,
            mels=mels,
            mel=speech[:, frames],
            reference_mel=speech[:, frames + 1],
            other_mels=speech[:, frames + 2 :] if speech.shape[1] > frames + 2 else None,
        )


def _planes(images: Tensor) -> Tensor:
    """``(B, T, H, W, 3)`` uint8 -> ``(B, 3, T, H, W)`` in [0, 1]."""
    return images.permute(0, 4, 1, 2, 3).float().div_(255)


def _moved(window: Tensor, geometry: Tensor) -> Tensor:
    """All frames of each window ``(B, 3, T, H, W)`` by its ``geometry`` ``(B, 5)``."""
    return warp(window.flatten(1, 2), geometry).view_as(window)
