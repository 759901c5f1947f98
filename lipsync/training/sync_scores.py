"""LSE-like scores in validation: whole clips drawn by the generator, judged with their sound."""

from __future__ import annotations

import warnings
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from typing_extensions import override

from lipsync.audio.spec import SAMPLES_PER_FRAME
from lipsync.data.base_clip import BaseClip
from lipsync.errors import ConfigError, NotScorableError
from lipsync.metrics.functional import SyncScore
from lipsync.metrics.judge_loading import load_judge
from lipsync.metrics.judges import Judge
from lipsync.metrics.lse import LSE
from lipsync.metrics.stretches import sync_score
from lipsync.training.sample_video import WholeClips, clip_sound, generator_of
from lipsync.types import Waveform

Pictures = npt.NDArray[np.uint8]


class SyncScores(WholeClips):
    """Scores whole validation clips with a judge after each validation.

    A clip is drawn as :class:`lipsync.training.sample_video.SampleVideo` draws it, and the longest stretch
    with a face in every frame is compared with its sound. Logged are, of list ``val`` and a SyncNet v2 judge,
    ``val/lse_d``, ``val/lse_c``, ``val/lse_offset``, ``val/lse_within_1`` (share of clips with an offset of
    at most one frame) and ``val/lse_clips`` (clips that could be scored), and of the same clips as they were
    filmed, computed once, ``val/lse_d_real`` and so on: what a generator can reach. With an expert of this
    package as judge the names begin with ``expert_``.

    SyncNet v2 is shown the face crop resized to 224 pixels. That is the crop the generator paints, not the
    picture of a published protocol, so its scores tell runs apart but are not the numbers of papers:
    ``evaluate.py`` gives those. An expert is shown the crop as it is and must be made for its size.

    Clips too short for the judge, or without a sound file, have no score. The ranks share the clips out, and
    what they log is the mean over all clips. Models without a generator are left alone.

    Args:
        judge: Catalogue name or file of SyncNet v2 or an expert; None: nothing is scored. The expert that
            the generator trains with is no judge of it, and a warning says so.
        clips: Clips a validation, see :class:`WholeClips` for this and the others.
        split: Name of the validation list.
        seconds: Longest part of a clip.
        every_n_steps: Training steps between two validations with scores, at least.
        batch_size: Frames a forward of the generator.

    Raises:
        ConfigError: As :class:`WholeClips`; when training starts, an expert for another size.
        CheckpointError: When training starts: the judge cannot be had.
    """

    entry = "sync_scores"

    def __init__(
        self,
        judge: str | None = None,
        *,
        clips: int = 16,
        split: str | None = None,
        seconds: float = 4.0,
        every_n_steps: int = 0,
        batch_size: int = 16,
    ) -> None:
        super().__init__(clips, split, seconds, every_n_steps, batch_size)
        self.source = judge
        self.judge: Judge | None = None
        self._real: dict[str, float] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the judge, and say now what would keep it from judging."""
        if self.source is None or stage != "fit" or generator_of(pl_module) is None:
            return
        super().setup(trainer, pl_module, stage)
        judge = load_judge(self.source, trainer.strategy.root_device)
        _, data = self.validation_list(trainer)
        if judge.kind == "expert" and judge.size != data.image_size:
            raise ConfigError(
                f"callbacks.sync_scores.judge={self.source}: an expert for faces of {judge.size} pixels, the "
                f"generator paints {data.image_size}; give one trained at {data.image_size}, or syncnet_v2"
            )
        if judge.sha256 in _experts_of(pl_module):
            rank_zero_warn(
                f"callbacks.sync_scores.judge={self.source}: is the expert that the generator trains with; "
                "its scores say how well that expert is pleased, not how well lips and speech agree"
            )
        self.judge = judge

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, judge and log; all ranks take part."""
        generator = generator_of(pl_module)
        if self.judge is None or generator is None or not self.due(trainer):
            return
        split, _ = self.validation_list(trainer)
        values = self._scores(trainer, generator, self.judge)
        pl_module.log_dict({f"{split}/{key}": value for key, value in values.items()}, sync_dist=True)

    def _scores(self, trainer: pl.Trainer, generator: nn.Module, judge: Judge) -> dict[str, float]:
        """Scores of the generator and of the truth, the same on every rank."""
        _, data = self.validation_list(trainer)
        device = trainer.strategy.root_device
        # Sums are float64, which MPS has not; there is one process then.
        metrics = [LSE(judge.vshift).to("cpu" if device.type == "mps" else device) for _ in range(2)]
        drawn, real = metrics
        for clip in data.clips[: self.clips][trainer.global_rank :: trainer.world_size]:
            *_, fake, truth = np.split(self.draw(trainer, generator, data, clip), 4, axis=2)
            sound = clip_sound(clip, len(fake))
            for metric, pictures in ((drawn, fake), (real, truth)):
                if sound is not None and not (metric is real and self._real is not None):
                    _add(metric, judge, pictures, clip, sound)
        if self._real is None:
            self._real = {f"{name}_real": value for name, value in _named(real, judge.kind).items()}
        return _named(drawn, judge.kind) | self._real


def longest_run(indices: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Start and stop of the longest run of consecutive numbers among sorted ones; ``(0, 0)``: none."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    longest = max(runs, key=len)
    return (int(longest[0]), int(longest[-1]) + 1) if len(longest) else (0, 0)


def score_pictures(
    judge: Judge, pictures: Pictures, present: npt.NDArray[np.int64], sound: Waveform
) -> SyncScore:
    """The score of the longest stretch without a gap.

    Args:
        judge: SyncNet v2 or an expert.
        pictures: ``(n, S, S, 3)`` uint8 BGR at 25 fps; resized where the judge wants another size.
        present: Sorted indices of those that show a face.
        sound: ``(N,)`` at 16 kHz, sample 0 belongs to picture 0.

    Raises:
        NotScorableError: It is too short, or the sound is.
    """
    start, stop = longest_run(present[present < len(pictures)])
    size = (judge.size, judge.size)
    shown = (
        np.asarray(picture if picture.shape[:2] == size else cv2.resize(picture, size), dtype=np.uint8)
        for picture in pictures[start:stop]
    )
    return sync_score(judge, shown, sound[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME])


def _add(metric: LSE, judge: Judge, pictures: Pictures, clip: BaseClip, sound: Waveform) -> None:
    """Count a clip that can be scored; the number of clips tells of the others."""
    try:
        score = score_pictures(judge, pictures, clip.present, sound)
    except NotScorableError:
        return
    metric.update(score)


def _named(metric: LSE, kind: str) -> dict[str, float]:
    """Means over the clips of all ranks by the names that are logged; without clips their number alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method")  # this rank had none to score
        found = {name: float(value) for name, value in metric.compute().items()}
    names = {"clips": "clips", "lse_d": "d", "lse_c": "c", "offset": "offset", "offset_within_1": "within_1"}
    kept = names if found["clips"] else {"clips": "clips"}
    return {f"{kind}_{short}": found[name] for name, short in kept.items()}


def _experts_of(module: Any) -> list[str]:
    """Digests of the files of the experts in the sync loss."""
    found = getattr(module, "hparams", {}).get("expert_sha256")
    return [found] if isinstance(found, str) else list(found or ())
