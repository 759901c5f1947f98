"""Offsets of the training clips, estimated by the expert as it learns, and corrected.

A clip whose sound runs ahead or late teaches the expert that lips and speech do not belong together. A corpus
holds some; most clips agree, so the expert learns their common alignment first and can then tell the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lipsync.audio.spec import MEL_STEPS, SYNC_FRAMES
from lipsync.audio.windows import training_start
from lipsync.data.base_clip import BaseClip
from lipsync.data.sync_pairs import expert_views
from lipsync.data.window_dataset import speech_windows
from lipsync.errors import ConfigError
from lipsync.files import write_text
from lipsync.models.syncnet import SyncNet
from lipsync.training.optimization import planned_steps

Floats = npt.NDArray[np.float64]


RESOLUTION = 1
"""Offsets up to this many frames are left as they are: an expert reads no finer."""


class OffsetEstimate(NamedTuple):
    """Where a clip's speech lies."""

    offset: int
    """Frame ``f`` fits the speech of frame ``f + offset`` best."""
    confidence: float
    """Student's t of that fit against the fit at offset 0, over the clip's windows; 0 for offset 0."""


class OffsetRepair(Callback):
    """Moves, or leaves out, training clips whose speech the expert finds elsewhere.

    Runs between epochs (``data.epoch_draws`` sets their length), at the first that begins at or after each
    of ``at``. Every estimate is made anew from the clip as it is on disk. The table is kept in
    the checkpoint and written to ``<dirpath>/offsets.json``, which ``data.offsets`` of a later run reads.

    Args:
        dirpath: Folder of ``offsets.json``.
        at: Shares of the run's steps after which to estimate; the expert must have learned something.
        max_offset: Frames searched either way; a confident clip at the end of the range is left out.
        windows: Picture windows a clip that are looked at.
        min_confidence: Least t of a change. Windows overlap and 31 offsets are tried, so this is no strict
            test; with 2, a half-trained expert moved four fifths of the clips that were off, and none of 100
            that were not.
        clips_at_once: Clips a forward pass.
    """

    def __init__(
        self,
        dirpath: str,
        *,
        at: tuple[float, ...] | list[float] = (0.4, 0.7),
        max_offset: int = 15,
        windows: int = 32,
        min_confidence: float = 2.0,
        clips_at_once: int = 8,
    ) -> None:
        if not all(0 < share < 1 for share in at):
            raise ConfigError(
                f"callbacks.offset_repair.at={list(at)}: give shares of the run between 0 and 1"
            )
        self.path = Path(dirpath) / "offsets.json"
        self.at, self.max_offset, self.windows = sorted(at), max_offset, windows
        self.min_confidence, self.clips_at_once = min_confidence, clips_at_once
        self.done = 0
        self.table: dict[str, int | None] = {}

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the table of a resumed run."""
        if self.table:
            self._dataset(trainer).set_offsets(self.table)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Estimate where it is due."""
        due = sum(trainer.global_step >= share * _steps(trainer) for share in self.at)
        if due <= self.done:
            return
        self.done = due
        dataset = self._dataset(trainer)
        estimates = self._estimates(trainer, pl_module, dataset.clips)
        self.table = repairs(estimates, self.max_offset, self.min_confidence)
        dataset.set_offsets(self.table)
        moved = [offset for offset in self.table.values() if offset is not None]
        rank_zero_info(
            f"offset repair at step {trainer.global_step}: of {len(dataset.clips)} clips {len(moved)} moved, "
            f"{len(self.table) - len(moved)} left out; {self.path}"
        )
        if trainer.is_global_zero:
            write_text(self.path, json.dumps(self.table, indent=1, ensure_ascii=False))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so where no epoch began late enough to look."""
        if not self.done:
            rank_zero_warn(
                f"offset repair never ran: no epoch began after {self.at[0]:.0%} of the run; shorten epochs "
                "with data.epoch_draws=N"
            )

    @staticmethod
    def _dataset(trainer: pl.Trainer) -> Any:
        return trainer.datamodule.train_set  # type: ignore[attr-defined]

    def _estimates(
        self, trainer: pl.Trainer, module: Any, clips: list[BaseClip]
    ) -> dict[str, OffsetEstimate]:
        """Estimates of all clips; each rank looks at its share."""
        expert: SyncNet = module.expert
        mine = clips[trainer.global_rank :: trainer.world_size]
        training = expert.training
        expert.eval()
        found: dict[str, OffsetEstimate] = {}
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            for first in range(0, len(mine), self.clips_at_once):
                group = mine[first : first + self.clips_at_once]
                curves = similarity_curves(expert, group, self.windows, self.max_offset)
                found |= {c.name: estimate(curve) for c, curve in zip(group, curves, strict=True)}
        expert.train(training)
        if trainer.world_size == 1:
            return found
        shares: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(shares, found)
        return {name: value for share in shares for name, value in share.items()}

    def state_dict(self) -> dict[str, Any]:
        """The table and how often it was made, for resume."""
        return {"done": self.done, "table": self.table}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` saved."""
        self.done, self.table = state_dict["done"], state_dict["table"]


def _steps(trainer: pl.Trainer) -> int:
    """Optimizer steps of the run."""
    if trainer.max_steps > 0:
        return trainer.max_steps
    steps = planned_steps(trainer.estimated_stepping_batches, trainer.max_steps)
    if steps <= 0:
        raise ConfigError("callbacks.offset_repair needs a run of known length: give trainer.max_steps=N")
    return steps


def repairs(
    estimates: dict[str, OffsetEstimate], max_offset: int, min_confidence: float
) -> dict[str, int | None]:
    """The offsets to apply: of confident clips, None (leave out) at the end of the searched range."""
    found = {name: e for name, e in estimates.items() if abs(e.offset) > RESOLUTION}
    sure = {name: e.offset for name, e in found.items() if e.confidence >= min_confidence}
    return {name: None if abs(offset) == max_offset else offset for name, offset in sorted(sure.items())}


def estimate(curves: Floats) -> OffsetEstimate:
    """Best offset of a clip.

    Args:
        curves: ``(windows, 2 * max_offset + 1)`` similarity of each picture window with the speech at each
            offset, nan where the clip has no such speech.
    """
    centre = curves.shape[1] // 2
    usable = np.isfinite(curves).sum(axis=0) >= max(2, len(curves) // 2)
    if not usable[centre]:
        return OffsetEstimate(0, 0.0)
    means = np.full(curves.shape[1], -np.inf)
    means[usable] = np.nanmean(curves[:, usable], axis=0)
    best = int(means.argmax())
    gain = curves[:, best] - curves[:, centre]
    gain = gain[np.isfinite(gain)]
    if best == centre or len(gain) < 2:
        return OffsetEstimate(0, 0.0)
    spread = gain.std(ddof=1) / np.sqrt(len(gain))
    return OffsetEstimate(best - centre, float(gain.mean() / max(spread, 1e-6)))


def similarity_curves(
    expert: SyncNet, clips: list[BaseClip], windows: int, max_offset: int
) -> Iterator[Floats]:
    """For each clip the similarity of picture windows and speech at every offset, see :func:`estimate`."""
    device = next(expert.parameters()).device
    starts = [_spread_out(clip.runs(SYNC_FRAMES), windows) for clip in clips]
    pictures = [_lower_halves(clip, at, expert.image_size) for clip, at in zip(clips, starts, strict=True)]
    speech = [_all_speech(clip) for clip in clips]
    faces = expert.encode_face(expert_views(torch.cat(pictures).to(device))).float().cpu()
    sounds = expert.encode_audio(torch.cat(speech).unsqueeze(1).to(device)).float().cpu()
    parts = zip(
        starts, faces.split([len(p) for p in pictures]), sounds.split([len(s) for s in speech]), strict=True
    )
    return (_curves(at, (face @ sound.T).double().numpy(), max_offset) for at, face, sound in parts)


def _curves(starts: npt.NDArray[np.int64], similarity: Floats, max_offset: int) -> Floats:
    at = starts[:, None] + np.arange(-max_offset, max_offset + 1)
    inside = (at >= 0) & (at < similarity.shape[1])
    rows = np.arange(len(starts))[:, None]
    return np.where(inside, similarity[rows, np.clip(at, 0, similarity.shape[1] - 1)], np.nan)


def _spread_out(starts: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most ``count`` of ``starts``, evenly over the clip."""
    return starts[np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int))]


def _lower_halves(clip: BaseClip, starts: npt.NDArray[np.int64], size: int) -> Tensor:
    positions = np.searchsorted(clip.present, starts)[:, None] + np.arange(SYNC_FRAMES)
    return torch.from_numpy(clip.pictures(positions, size)[:, :, size // 2 :])


def _all_speech(clip: BaseClip) -> Tensor:
    """The mel window of every frame that has a whole one, ``(n, 80, 16)``."""
    room = clip.mel_steps - MEL_STEPS
    columns = [training_start(frame) for frame in range(clip.length)]
    return speech_windows(clip.mel(), np.array([c for c in columns if c <= room], dtype=np.int64))
