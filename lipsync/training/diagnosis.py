"""Why an expert does not learn: causes in the training run, joined with those in the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lipsync.data.inspection.findings import Finding, data_findings
from lipsync.data.inspection.negatives import NEAR
from lipsync.data.inspection.report import DataMeasurements

# Relative change of a weight tensor in one optimizer step. Adam moves each weight by up to the learning rate,
# and weights are 0.01 to 0.05 large: 5e-4 gives 0.01 to 0.04.
_TOO_HIGH, _TOO_LOW = 0.3, 1e-4
_FEW_WINDOWS = 32
_NOISE = 0.02  # share of near negatives; 0.06 where any other frame of a 3 s clip may be one


@dataclass(frozen=True)
class TrainingMeasurements:
    """What was seen of the run."""

    objective: str
    """``contrastive`` or ``bce``."""
    step: int
    looked_at: int
    """Steps measured."""
    loss: float
    """Mean of the training losses measured last; nan for none."""
    chance_loss: float
    """The loss of an expert that tells nothing apart, on those batches."""
    non_finite: int
    """Steps measured whose loss was no number."""
    weight_change: float
    """Largest relative change of the weights in one measured step (median over tensors)."""
    learning_rate: float
    """Of the first parameter group, now."""
    windows: int
    """In the batch of one process."""
    clips: int
    """Different clips in it."""
    step_windows: int
    """That one optimizer step learns from, over processes and accumulated batches."""
    near_negatives: float | None
    """Share of the negatives of the same clip nearer than three frames; None where there are none."""
    similarity: tuple[float, float] | None = None
    """Mean cosine of different windows' (speech, face) embeddings; 1: the embedding has collapsed."""


def diagnose(data: DataMeasurements | None, training: TrainingMeasurements | None) -> list[Finding]:
    """Likely causes of a plateau, the strongest first; empty where nothing is wrong.

    Args:
        data: Of the corpus, see :func:`lipsync.data.inspection.report.inspect_clips`.
        training: Of the run.
    """
    findings = data_findings(data) if data is not None else []
    if training is not None:
        findings += [
            *_learning_rate(training),
            *_batch_size(training),
            *_label_noise(training),
            *_memorised(training),
        ]
    return sorted(findings, key=lambda finding: -finding.strength)


def _learning_rate(run: TrainingMeasurements) -> Iterator[Finding]:
    usual = "5e-4 for contrastive, 1e-4 for bce, at batches of 256 and 64"
    rate = f"learning rate {run.learning_rate:.1e}"
    change = f"a step changes the weights by up to {run.weight_change:.1e} of their size"
    lower = (
        f"lower model.optimizer.lr ({usual}), warm up (model.scheduler.warmup_steps) and clip gradients "
        "(trainer.gradient_clip_val=1.0)"
    )
    if run.non_finite:
        evidence = f"the loss was not a finite number in {run.non_finite} of {run.looked_at} steps; {rate}"
        yield Finding("learning rate too high", 1.0, evidence, lower + "; in fp16 prefer bf16-mixed")
    elif run.looked_at and run.weight_change > _TOO_HIGH:
        strength = min(1.0, 0.6 + 0.2 * math.log10(run.weight_change / _TOO_HIGH))
        evidence = f"{change} (sound: 1e-3 to 5e-2); {rate}"
        yield Finding("learning rate too high", strength, evidence, lower)
    elif run.loss > 1.5 * run.chance_loss:
        evidence = f"the training loss is {run.loss:.2f}, above the {run.chance_loss:.2f} of guessing; {rate}"
        yield Finding("learning rate too high", 0.6, evidence, lower)
    elif run.looked_at and run.weight_change < _TOO_LOW:
        evidence = f"{change} (sound: 1e-3 to 5e-2); {rate}"
        advice = f"raise model.optimizer.lr ({usual}); check the warm-up and the schedule"
        yield Finding("learning rate too low", 1.0, evidence, advice)


def _batch_size(run: TrainingMeasurements) -> Iterator[Finding]:
    # Accumulated batches average their gradients, but hold no negatives for one another.
    contrastive = run.objective == "contrastive"
    windows = run.windows if contrastive else run.step_windows
    if not run.looked_at or (windows >= _FEW_WINDOWS and (run.clips > 1 or not contrastive)):
        return
    few = max(0.0, math.log2(_FEW_WINDOWS / windows)) / math.log2(_FEW_WINDOWS)
    advice = (
        "raise data.batch_size to 256 (16 clips x 16 windows); accumulating does not help, because negatives "
        "come from the batch itself"
        if contrastive
        else "raise data.batch_size to at least 64, or, short of memory, trainer.accumulate_grad_batches; "
        "model.objective=contrastive learns from fewer clips"
    )
    yield Finding(
        "batch size",
        0.5 + 0.4 * max(few, 1.0 if contrastive and run.clips == 1 else 0.0),
        f"a step compares {windows} windows of {run.clips} clip{'s' if run.clips != 1 else ''}",
        advice,
    )


def _label_noise(run: TrainingMeasurements) -> Iterator[Finding]:
    share = run.near_negatives
    if share is not None and share > _NOISE:
        contrastive = run.objective == "contrastive"
        setting = f"model.min_gap={NEAR}" if contrastive else "data.windows.min_negative_gap=5"
        yield Finding(
            "label noise",
            min(1.0, 0.4 + 3 * share),
            f"{share:.1%} of the negatives lie nearer than {NEAR} frames to the positive, whose label they "
            "contradict",
            f"set {setting} (the reference takes any other frame); use longer clips",
        )


def _memorised(run: TrainingMeasurements) -> Iterator[Finding]:
    if run.loss < 0.7 * run.chance_loss:
        yield Finding(
            "too little variety",
            0.55,
            f"the training loss is {run.loss:.2f}, far below the {run.chance_loss:.2f} of guessing: the "
            "expert knows its training clips, but not those of validation",
            "train on more speakers, keep data.windows.augment=true, lower data.windows.speaker_exponent; "
            "check that the validation clips themselves are in sync",
        )
