"""Windows for the sync expert: five lower-half faces and the 0.2 s of speech beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipsync.audio.spec import SYNC_FRAMES
from lipsync.audio.windows import mel_window, training_start
from lipsync.data.clip import Clip
from lipsync.data.sampling import clips_with_partners, speaker_weights

Frames = npt.NDArray[np.uint8]

MAX_ROTATION, MAX_SCALE, MAX_SHIFT = 0.1, 0.12, 0.08
"""Geometric augmentation: radians, relative change of size, share of the face's width."""


class SyncSample(NamedTuple):
    """``K`` windows of one clip, as the workers deliver them."""

    face: Tensor
    """``(K, 5, 48, 96, 3)`` uint8: lower halves."""
    mel: Tensor
    """``(K, 80, 16)`` float32."""
    clip: Tensor
    """``(K,)`` int64: which clip; windows of one clip are hard negatives of each other."""
    frame: Tensor
    """``(K,)`` int64: first frame of the speech window."""
    match: Tensor
    """``(K,)`` float32: 1 where face and speech belong together, else 0."""


class SyncBatch(NamedTuple):
    """``N`` windows, ready for the expert."""

    face: Tensor
    """``(N, 15, 48, 96)`` in [0, 1], frame-major BGR."""
    mel: Tensor
    """``(N, 1, 80, 16)`` in [-4, 4]."""
    clip: Tensor
    frame: Tensor
    match: Tensor


class SyncPairDataset(Dataset[SyncSample]):
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
        clips: Sequence[Clip],
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
        self.clips, self.starts = clips_with_partners(clips, min_negative_gap)
        self.skipped = len(clips) - len(self.clips)
        self.train, self.objective, self.augment = train, objective, augment and train
        self.items_per_draw = windows_per_clip if objective == "contrastive" else 1
        self.min_negative_gap, self.max_validation_windows = min_negative_gap, max_validation_windows
        self.image_size, self.seed = image_size, seed
        self._weights = speaker_weights(self.clips, speaker_exponent)

    def __len__(self) -> int:
        """Draws of one epoch: the number of clips."""
        return len(self.clips)

    def __getitem__(self, draw: int) -> SyncSample:
        """The windows of draw number ``draw`` (any integer >= 0)."""
        if not self.train:
            return self._validation_run(draw % len(self.clips))
        rng = np.random.default_rng([self.seed, draw])
        index = int(rng.choice(len(self.clips), p=self._weights))
        starts = self.starts[index]
        if self.objective == "bce":
            return self._labelled_pair(index, starts, rng)
        frames = rng.choice(starts, size=self.items_per_draw, replace=len(starts) < self.items_per_draw)
        return self._sample(index, np.sort(frames), np.sort(frames), rng)

    def _labelled_pair(
        self, index: int, starts: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> SyncSample:
        frame = rng.choice(starts, size=1)
        others = starts[np.abs(starts - frame[0]) >= self.min_negative_gap]
        face = frame if rng.random() < 0.5 else rng.choice(others, size=1)
        return self._sample(index, frame, face, rng)

    def _validation_run(self, index: int) -> SyncSample:
        """The middle of the longest run of consecutive windows."""
        starts = self.starts[index]
        runs = np.split(starts, np.flatnonzero(np.diff(starts) != 1) + 1)
        run = max(runs, key=len)
        first = max(0, (len(run) - self.max_validation_windows) // 2)
        run = run[first : first + self.max_validation_windows]
        return self._sample(index, run, run, None)

    def _sample(
        self,
        index: int,
        frames: npt.NDArray[np.int64],
        face_frames: npt.NDArray[np.int64],
        rng: np.random.Generator | None,
    ) -> SyncSample:
        clip = self.clips[index]
        needed = np.unique(face_frames[:, None] + np.arange(SYNC_FRAMES))
        images = clip.frames(needed, self.image_size)
        mel = clip.mel()
        faces, mels = [], []
        for frame, face_frame in zip(frames, face_frames, strict=True):
            at = int(np.searchsorted(needed, face_frame))
            window, speech = images[at : at + SYNC_FRAMES], mel_window(mel, training_start(int(frame)))
            if self.augment and rng is not None:
                window, speech = augment_faces(window, rng), augment_mel(speech, rng)
            faces.append(window[:, self.image_size // 2 :])
            mels.append(speech)
        return SyncSample(
            face=torch.from_numpy(np.stack(faces)),
            mel=torch.from_numpy(np.stack(mels).astype(np.float32)),
            clip=torch.full((len(frames),), index, dtype=torch.int64),
            frame=torch.from_numpy(np.asarray(frames, dtype=np.int64)),
            match=torch.from_numpy((frames == face_frames).astype(np.float32)),
        )

    @staticmethod
    def collate(samples: Sequence[SyncSample]) -> SyncSample:
        """Join the windows of several draws; validation runs differ in length."""
        return SyncSample(*(torch.cat(fields) for fields in zip(*samples, strict=True)))

    @staticmethod
    def assemble(sample: SyncSample) -> SyncBatch:
        """Collated samples of ``N`` windows -> batch, scaled to [0, 1]."""
        n, t, h, w, c = sample.face.shape
        face = sample.face.permute(0, 1, 4, 2, 3).reshape(n, t * c, h, w).float() / 255
        return SyncBatch(
            face=face,
            mel=sample.mel.unsqueeze(1),
            clip=sample.clip,
            frame=sample.frame,
            match=sample.match,
        )


def augment_faces(window: Frames, rng: np.random.Generator) -> Frames:
    """One random flip, similarity transform and grey-level change for all frames of a window.

    Args:
        window: ``(T, H, W, 3)`` uint8.
        rng: Source of the draw.

    Returns:
        The same shape: shift up to 8 %, scale up to 12 %, rotation up to 0.1 rad, contrast up to 30 %,
        brightness up to 0.1 of the range.
    """
    size = window.shape[1]
    angle, scale = rng.uniform(-MAX_ROTATION, MAX_ROTATION), 1 + rng.uniform(-MAX_SCALE, MAX_SCALE)
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, size=2) * size
    flip = -1.0 if rng.random() < 0.5 else 1.0
    gain, bias = 1 + rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.1) * 255
    cos, sin, centre = scale * math.cos(angle), scale * math.sin(angle), (size - 1) / 2
    linear = np.array([[cos * flip, -sin], [sin * flip, cos]])
    offset = np.array([centre, centre]) - linear @ np.array([centre, centre]) + shift
    matrix = np.column_stack([linear, offset]).astype(np.float32)
    levels = np.clip((np.arange(256) - 128) * gain + 128 + bias, 0, 255).astype(np.uint8)
    return np.stack(
        [
            cv2.LUT(cv2.warpAffine(frame, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE), levels)
            for frame in window
        ]
    )


def augment_mel(mel: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Random gain of up to 0.6 (in mel units of [-4, 4]) and one silent stripe of eight bands."""
    changed = np.clip(mel + np.float32(rng.uniform(-0.6, 0.6)), -4, 4)
    band = int(rng.integers(0, mel.shape[0] - 8))
    changed[band : band + 8] = -4
    return changed.astype(np.float32)
