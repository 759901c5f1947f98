"""Does the generator speak, or does it please its expert? Scores of held-out windows, and who watches them.

An expert that trained the generator is no judge of it: patterns that only this expert sees raise its score.
So validation asks a second one that takes no part in training, and looks at the pictures themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from lipsync.checkpoints.networks import load_expert
from lipsync.data.generation import GenerationBatch
from lipsync.errors import CheckpointError, ConfigError
from lipsync.losses.sync import expert_sync_loss
from lipsync.models.syncnet import SyncNet, lower_half_windows

GRID = tuple((y, x) for y in range(3) for x in range(3) if y or x)
"""Vertical and horizontal frequencies, in quarters of a cycle per pixel, at which patterns of two and four
pixels repeat: the checkerboards of the last two upsampling stages. Faces have little there."""
_GREY = (0.114, 0.587, 0.299)  # of B, G, R (ITU-R BT.601)


def load_frozen(checkpoint: str, image_size: int) -> tuple[SyncNet, str | None]:
    """An expert that is not trained, and the SHA-256 of its file.

    Args:
        checkpoint: Path or catalogue name.
        image_size: Side of the pictures it is to judge.

    Raises:
        CheckpointError: The file holds no expert, or one for faces of another size.
    """
    expert, provenance = load_expert(checkpoint)
    if expert.image_size != image_size:
        raise CheckpointError(
            f"{checkpoint}: an expert for faces of {expert.image_size} pixels, the generator paints "
            f"{image_size}; give model.image_size={expert.image_size} or an expert trained at {image_size}"
        )
    return expert.requires_grad_(False), provenance.sha256


def expert_scores(expert: SyncNet, batch: GenerationBatch, fake: Tensor) -> dict[str, Tensor]:
    """What an expert says of generated frames ``(B, 3, T, H, W)``.

    Returns:
        ``sync``, the loss of :func:`lipsync.losses.sync.expert_sync_loss`; ``own``, the share of windows that
        fit their own speech better than the speech of the reference window: a copied mouth scores far below
        1/2; ``own_real``, the same share of the true windows, which an honest generator does not surpass.
    """
    window = lower_half_windows(fake)
    own, other = expert.encode_audio(batch.mel), expert.encode_audio(batch.reference_mel)

    def preferred(face: Tensor) -> Tensor:
        return ((face * own).sum(1) > (face * other).sum(1)).float().mean()

    return {
        "sync": expert_sync_loss(expert, batch.mel, window, batch.reference_mel, batch.other_mels),
        "own": preferred(expert.encode_face(window)),
        "own_real": preferred(expert.encode_face(lower_half_windows(batch.target))),
    }


def picture_scores(batch: GenerationBatch, fake: Tensor) -> dict[str, Tensor]:
    """What the pixels say of generated frames ``(B, 3, T, H, W)`` in [0, 1].

    Returns:
        ``l1`` of the whole frame; ``l1_lower`` of the repainted half; ``l1_copy``, that of pasting the
        reference instead; ``sharpness``, the variance of the Laplacian of the lower half as a share of the
        truth's (below 1: blurred); ``pattern``, the power of the strongest checkerboard of :data:`GRID` in
        decibels above the truth's at that frequency (the truth: 0; patterns that satisfy a network: 20 and
        more, whether the picture is sharp or not).
    """
    half = fake.shape[-2] // 2
    lower, truth = fake[..., half:, :].float(), batch.target[..., half:, :].float()
    reference = batch.faces[:, 3:, :, half:].float()
    painted, true = _grey(lower), _grey(truth)
    return {
        "l1": functional.l1_loss(fake.float(), batch.target.float()),
        "l1_lower": functional.l1_loss(lower, truth),
        "l1_copy": functional.l1_loss(reference, truth),
        # Of the means: one flat frame among the true ones must not decide.
        "sharpness": _share(laplacian_variance(painted).mean(), laplacian_variance(true).mean()),
        "pattern": 10 * _share(grid_energy(painted), grid_energy(true)).clamp(min=1e-12).max().log10(),
    }


def laplacian_variance(pictures: Tensor) -> Tensor:
    """Variance of the Laplacian in each of ``(N, 1, H, W)``, the usual measure of focus: ``(N,)``."""
    # Written out: a convolution would run in half precision under autocast.
    inner, rows = pictures[..., 1:-1], pictures[..., 1:-1, :]
    around = inner[..., :-2, :] + inner[..., 2:, :] + rows[..., :-2] + rows[..., 2:]
    return (around - 4 * rows[..., 1:-1]).flatten(1).var(dim=1, correction=0)


def grid_energy(pictures: Tensor) -> Tensor:
    """Mean power of ``(N, 1, H, W)`` at the eight frequencies of :data:`GRID`: ``(8,)``.

    H and W must be multiples of 4 (and are: halves of pictures of 96 pixels and more).
    """
    height, width = pictures.shape[-2:]
    rows = torch.hann_window(height, device=pictures.device)
    columns = torch.hann_window(width, device=pictures.device)
    # Without the window the step from one border to the opposite one would show at all frequencies.
    centred = pictures - pictures.mean(dim=(-2, -1), keepdim=True)
    spectrum = torch.fft.fft2(centred * rows[:, None] * columns)
    power = spectrum.abs().square().mean(dim=(0, 1))
    # The window spreads a frequency over the neighbouring bins.
    at = {k: torch.tensor([-1, 0, 1], device=pictures.device) + k * height // 4 for k in range(3)}
    across = {k: torch.tensor([-1, 0, 1], device=pictures.device) + k * width // 4 for k in range(3)}
    return torch.stack([power[at[y]][:, across[x]].mean() for y, x in GRID])


def _grey(frames: Tensor) -> Tensor:
    """``(B, 3, T, H, W)`` BGR -> ``(B * T, 1, H, W)``."""
    weights = torch.tensor(_GREY, device=frames.device).view(1, 3, 1, 1, 1)
    return (frames * weights).sum(1).flatten(0, 1).unsqueeze(1)


def _share(found: Tensor, true: Tensor) -> Tensor:
    return found / true.clamp(min=1e-12)


class Reading(NamedTuple):
    """What one validation said; nan where it said nothing."""

    step: int
    own: float
    """Of the training expert, as a share of what it gives the true windows."""
    judge: float
    """Of the judge, likewise: judges of different strength become comparable."""
    l1: float
    """``l1_lower``."""

    @property
    def gap(self) -> float:
        """By how much the expert is better pleased than the judge."""
        return self.own - self.judge


class JudgeWatch(Callback):
    """Warns when the generator wins its expert over and nobody else.

    Compares each validation with the last one before the sync loss came on (the first one, where it was on
    from the start), on the first validation list. Three things are alarming:

    * ``gap``: the expert's ``own`` exceeds the judge's by more than ``margin``, and by at least half of it
      more than before. Both are shares of the same expert's ``own_real``, so that a weak judge is no alarm.
    * ``fall``: the judge's ``own`` has fallen by more than ``fall`` from its best, the expert's has not.
    * ``l1``: the lower half's L1 has grown by more than ``l1_growth`` of what it was.

    A warning comes when one of them begins, and a line when all is well again.

    Args:
        margin: Difference of two shares of windows.
        fall: Likewise.
        l1_growth: Share of the earlier L1.
        action: ``warn``, or ``lower``: also halve the sync weight after each alarming validation.

    Raises:
        ConfigError: For an unknown action.
    """

    def __init__(
        self,
        margin: float = 0.15,
        fall: float = 0.1,
        l1_growth: float = 0.15,
        action: Literal["warn", "lower"] = "warn",
    ) -> None:
        if action not in ("warn", "lower"):
            raise ConfigError(f"callbacks.judge_watch.action={action}: choose warn or lower")
        self.margin, self.fall, self.l1_growth, self.action = margin, fall, l1_growth, action
        self.before: Reading | None = None
        self.best: Reading | None = None
        self.alarms: list[str] = []
        self.factor = 1.0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Give a resumed run the factor it had."""
        if hasattr(pl_module, "sync_factor"):
            pl_module.sync_factor = self.factor

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Judge the validation that has just ended."""
        if trainer.sanity_checking or not hasattr(pl_module, "sync_factor") or pl_module.expert is None:
            return  # an expert in training has no sync loss
        split = trainer.datamodule.val_splits[0]  # type: ignore[attr-defined]
        reading = read(trainer.global_step, split, trainer.callback_metrics)
        if float(pl_module.sync_weight) == 0 or self.before is None:
            self.before = reading
            return
        found = self._alarms(reading, self.before)
        # Comparisons with nan (there is no judge) are false.
        if self.best is None or reading.judge > self.best.judge:
            self.best = reading
        self._report(split, reading.step, found)
        if found and self.action == "lower":
            self.factor /= 2
            pl_module.sync_factor = self.factor
            rank_zero_info(f"sync weight x {self.factor:g} from step {reading.step}")

    def _alarms(self, now: Reading, before: Reading) -> dict[str, str]:
        """What is wrong, by kind."""
        found: dict[str, str] = {}
        if now.gap > self.margin and now.gap > before.gap + self.margin / 2:
            found["gap"] = (
                f"the expert gives {now.own:.2f} of what it gives real windows, the judge {now.judge:.2f} "
                f"(before the sync loss {before.own:.2f} and {before.judge:.2f})"
            )
        best = self.best
        if best is not None and best.judge - now.judge > self.fall and now.own >= best.own:
            found["fall"] = (
                f"the judge fell from {best.judge:.2f} at step {best.step} to {now.judge:.2f}, the expert "
                f"went from {best.own:.2f} to {now.own:.2f}"
            )
        if now.l1 > before.l1 * (1 + self.l1_growth):
            found["l1"] = f"L1 of the lower half is {now.l1:.4f}, before the sync loss {before.l1:.4f}"
        return found

    def _report(self, split: str, step: int, found: Mapping[str, str]) -> None:
        """Once for each change of state."""
        if set(found) - set(self.alarms):
            rank_zero_warn(
                f"step {step}, {split}: the generator may be fooling its expert: {'; '.join(found.values())}"
                ". Look at the samples; a lower sync weight, model.expert_jitter=true or "
                "model.sync_objective=bounded may help"
            )
        elif self.alarms and not found:
            rank_zero_info(f"step {step}, {split}: expert, judge and L1 agree again")
        self.alarms = sorted(found)

    def state_dict(self) -> dict[str, Any]:
        """Everything it has seen that matters, for resume."""
        readings = {"before": self.before, "best": self.best}
        plain = {name: None if value is None else list(value) for name, value in readings.items()}
        return {**plain, "alarms": list(self.alarms), "factor": self.factor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` saved."""
        before, best = state_dict["before"], state_dict["best"]
        self.before = None if before is None else Reading(*before)
        self.best = None if best is None else Reading(*best)
        self.alarms, self.factor = list(state_dict["alarms"]), float(state_dict["factor"])


def read(step: int, split: str, metrics: Mapping[str, Tensor]) -> Reading:
    """The reading of one validation list from the metrics that were logged."""

    def value(name: str) -> float:
        return float(metrics.get(f"{split}/{name}", "nan"))

    def share(judge: str) -> float:
        real = value(f"{judge}own_real")
        return value(f"{judge}own") / real if real > 0 else float("nan")

    return Reading(step, own=share(""), judge=share("judge_"), l1=value("l1_lower"))
