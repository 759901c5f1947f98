"""Windows for the sync expert: five lower-half faces and the 0.2 s of speech beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipsync.audio.windows import training_start
from lipsync.data.augmentation import (
    change_levels,
    change_mel,
    draw_geometry,
    draw_levels,
    draw_mel_change,
    warp,
)
from lipsync.data.base_clip import BaseClip
from lipsync.data.window_dataset import Ints, ResidentStore, WindowDataset, int_tensor, speech_windows

_CACHED_WINDOWS = 4


class SyncPlan(NamedTuple):
    """Where ``K`` windows of one clip lie."""

    clip: Tensor
    """``(K,)`` int64: which clip; windows of one clip are hard negatives of each other."""
    frame: Tensor
    """``(K,)`` int64: first frame of the speech window."""
    picture: Tensor
    """``(K,)`` int64: position of the first picture among the clip's pictures."""
    column: Tensor
    """``(K,)`` int64: first mel column."""
    match: Tensor
    """``(K,)`` float32: 1 where face and speech belong together, else 0."""
    augment: Tensor
    """``(K, 9)`` float32: geometry (5), levels (2), mel (2); ``(K, 0)``: as it is."""


class SyncSample(NamedTuple):
    """``K`` windows of one clip, as the workers deliver them."""

    face: Tensor
    """``(K, 5, S, S, 3)`` uint8; lower halves ``(K, 5, S / 2, S, 3)`` where nothing is augmented."""
    mel: Tensor
    """``(K, 80, 16)`` float32."""
    clip: Tensor
    frame: Tensor
    match: Tensor
    augment: Tensor


class SyncBatch(NamedTuple):
    """``N`` windows, ready for the expert."""

    face: Tensor
    """``(N, 15, S / 2, S)`` in [0, 1], frame-major BGR."""
    mel: Tensor
    """``(N, 1, 80, 16)`` in [-4, 4]."""
    clip: Tensor
    frame: Tensor
    match: Tensor


class SyncPairDataset(WindowDataset[SyncPlan, SyncSample]):
    """Draws windows for the expert; item ``n`` depends on ``seed`` and ``n`` alone.

    Args:
        clips: Preprocessed clips; those without two separate windows are left out (see ``skipped``).
        train: Random windows; otherwise item ``i`` is the longest run of windows of clip ``i``.
        objective: ``contrastive``: ``K`` matching windows of one clip. ``bce``: one window whose face
            is, with probability 1/2, taken from another frame of the clip (the reference's recipe).
        windows_per_clip: ``K`` of the contrastive objective.
        min_negative_gap: ``bce``: frames between the two windows of a negative pair, at least. The
            reference takes 1, whose negatives overlap the positive by up to four of five frames.
        speaker_exponent: A speaker's share of the draws is proportional to its clips to this power.
        augment: Flip, shift, scale, rotate, contrast, brightness; mel gain and a frequency mask.
        max_validation_windows: Upper bound of a validation item's run.
        image_size: Side of the square face crop.
        seed: Of the draws.

    Raises:
        DataError: No clip has two separate windows.
    """

    def __init__(
        self,
        clips: Sequence[BaseClip],
        train: bool,
        *,
        objective: Literal["contrastive", "bce"] = "contrastive",
        windows_per_clip: int = 16,
        min_negative_gap: int = 5,
        speaker_exponent: float = 0.6,
        augment: bool = True,
        max_validation_windows: int = 64,
        image_size: int = 96,
        seed: int = 0,
    ) -> None:
        super().__init__(
            clips,
            gap=min_negative_gap,
            mel_shift=0,
            speaker_exponent=speaker_exponent,
            image_size=image_size,
            seed=seed,
        )
        self.train, self.objective, self.augment = train, objective, augment and train
        self.items_per_draw = windows_per_clip if objective == "contrastive" else 1
        self.max_validation_windows = max_validation_windows

    def __len__(self) -> int:
        """Draws of one epoch: the number of clips."""
        return len(self.clips)

    def plan(self, draw: int) -> SyncPlan:
        """Where the windows of draw number ``draw`` lie."""
        if not self.train:
            return self._validation_run(draw % len(self.clips))
        rng = np.random.default_rng([self.seed, draw])
        index, starts, offset = self._draw_clip(rng)
        if self.objective == "bce":
            return self._labelled_pair(index, starts, offset, rng)
        few = len(starts) < self.items_per_draw
        frames = np.sort(rng.choice(starts, size=self.items_per_draw, replace=few))
        return self._plan(index, frames, frames, offset, rng)

    def _labelled_pair(self, index: int, starts: Ints, offset: int, rng: np.random.Generator) -> SyncPlan:
        frame = starts[rng.integers(len(starts), size=1)]
        others = starts[np.abs(starts - frame[0]) >= self.gap]
        face = frame if rng.random() < 0.5 else others[rng.integers(len(others), size=1)]
        return self._plan(index, frame, face, offset, rng)

    def _validation_run(self, index: int) -> SyncPlan:
        """The middle of the longest run of consecutive windows."""
        starts = self.starts[index]
        runs = np.split(starts, np.flatnonzero(np.diff(starts) != 1) + 1)
        run = max(runs, key=len)
        first = max(0, (len(run) - self.max_validation_windows) // 2)
        run = run[first : first + self.max_validation_windows]
        return self._plan(index, run, run, 0, None)

    def _plan(
        self, index: int, frames: Ints, face_frames: Ints, offset: int, rng: np.random.Generator | None
    ) -> SyncPlan:
        count = len(frames)
        changes = np.empty((count, 0), dtype=np.float32)
        if self.augment and rng is not None:
            parts = [draw_geometry(rng, count), draw_levels(rng, count), draw_mel_change(rng, count)]
            changes = np.concatenate(parts, axis=1)
        return SyncPlan(
            clip=torch.full((count,), index, dtype=torch.int64),
            frame=int_tensor(frames),
            picture=int_tensor(np.searchsorted(self.clips[index].present, face_frames)),
            column=int_tensor([training_start(frame + offset) for frame in frames.tolist()]),
            match=torch.from_numpy((frames == face_frames).astype(np.float32)),
            augment=torch.from_numpy(changes),
        )

    def read(self, plan: SyncPlan) -> SyncSample:
        """The windows of one planned draw."""
        clip = self.clips[int(plan.clip[0])]
        images = self._pictures(clip, plan.picture.numpy())
        return self._sample(
            plan,
            torch.from_numpy(np.ascontiguousarray(images[:, :, self._top() :])),
            speech_windows(clip.mel(), plan.column.numpy()),
        )

    def gather(self, plan: SyncPlan, store: ResidentStore) -> SyncSample:
        """The windows of collated plans, from a store on their device."""
        face = store.pictures(plan.clip, plan.picture, self._top())
        return self._sample(plan, face, store.speech(plan.clip, plan.column))

    def _top(self) -> int:
        """First picture row that is needed: a moved view of the lower half may show some of the upper."""
        return 0 if self.augment else self.image_size // 2

    @staticmethod
    def _sample(plan: SyncPlan, face: Tensor, mel: Tensor) -> SyncSample:
        return SyncSample(face, mel, plan.clip, plan.frame, plan.match, plan.augment)

    @staticmethod
    def collate(samples: Sequence[Any]) -> Any:
        """Join the windows of several plans or samples; validation runs differ in length."""
        return type(samples[0])(*(torch.cat(fields) for fields in zip(*samples, strict=True)))

    def assemble(self, sample: SyncSample) -> SyncBatch:
        """Collated samples of ``N`` windows -> batch, augmented and scaled to [0, 1]."""
        mel, changes = sample.mel, sample.augment
        if changes.shape[1]:
            mel = change_mel(mel, changes[:, 7:9])
        # On a CPU in parts that stay in its cache: three times as fast as all at once.
        step = len(changes) if changes.is_cuda else _CACHED_WINDOWS
        parts = zip(sample.face.split(step), changes.split(step), strict=True)
        face = torch.cat([expert_views(pictures, change) for pictures, change in parts])
        return SyncBatch(face, mel.unsqueeze(1), sample.clip, sample.frame, sample.match)


def expert_views(pictures: Tensor, changes: Tensor | None = None) -> Tensor:
    """What the expert sees of windows: ``(N, 15, S / 2, S)`` in [0, 1], frame-major BGR.

    Args:
        pictures: ``(N, 5, S / 2, S, 3)`` uint8 lower halves, or ``(N, 5, S, S, 3)`` beside ``changes``.
        changes: ``(N, 9)``, see :class:`SyncPlan`; None or ``(N, 0)``: as they are.
    """
    face = pictures.permute(0, 1, 4, 2, 3).flatten(1, 2).float().div_(255)
    if changes is None or not changes.shape[1]:
        return face
    return change_levels(warp(face, changes[:, :5], lower_half=True), changes[:, 5:7])
