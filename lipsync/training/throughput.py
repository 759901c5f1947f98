"""Throughput of training: windows a second, the share of time spent waiting for data, FLOP utilisation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler, Profiler
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from typing_extensions import override

from lipsync.audio.spec import MEL_STEPS, WAV2LIP
from lipsync.models.flops import forward_flops

MEL = (1, WAV2LIP.n_mels, MEL_STEPS)
"""Shape of one speech segment."""
_FETCH = "train_dataloader_next"
"""How the trainer names waiting for the next batch to its profiler."""


@dataclass
class _Span:
    """What happened in a stretch of training."""

    windows: int = 0
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    flops: float = 0.0

    def add(self, other: _Span) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Throughput(Callback):
    """Logs how fast training runs, every ``log_every_n_steps`` steps.

    * ``perf/windows_per_second``: windows trained on by all processes, over wall time without validation.
    * ``perf/data_wait``: share of that time in which this process waited for the data loader. Moving a batch
      to the device, gathering and augmenting it there is work, not waiting.
    * ``perf/mfu``: model FLOP utilisation (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): the
      operations that forward and backward passes need, over wall time, as a share of what a large matrix
      product reaches on this device in the same precision.
    * ``perf/gpu_memory``: GiB, the peak so far; on CUDA only.

    When training ends, one line sums up the run, its first logged interval (warm-up, compilation) left out.
    CUDA is waited for at logging steps only; nothing here draws random numbers.

    Args:
        peak_tflops: Denominator of ``perf/mfu`` in TFLOP/s; null: measured when training starts.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self._peak = 0.0
        self._clock = _FetchClock(PassThroughProfiler())
        self._now, self._run = _Span(), _Span()
        self._began = 0.0
        self._intervals = 0
        self._step = 0

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen to what the trainer tells its profiler."""
        if stage == "fit":
            self._clock = _FetchClock(trainer.profiler)  # type: ignore[attr-defined]  # set from outside
            trainer.profiler = self._clock  # type: ignore[attr-defined]

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the trainer its own profiler back."""
        if stage == "fit":
            trainer.profiler = self._clock.inner  # type: ignore[attr-defined]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the device and start the clock."""
        device = trainer.strategy.root_device
        if self.peak_tflops is None:
            self._peak = matmul_flops_per_second(device, training_dtype(str(trainer.precision)))
        else:
            self._peak = self.peak_tflops * 1e12
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._now, self._run, self._intervals = _Span(), _Span(), 0
        self._step = trainer.global_step
        self._clock.waited = 0.0
        self._began = time.perf_counter()

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._pause(trainer)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start it again."""
        self._began = time.perf_counter()

    def _pause(self, trainer: pl.Trainer) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self._now.seconds += time.perf_counter() - self._began
        self._began = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and log where the trainer logs."""
        self._now.windows += len(batch[0])
        if trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step = trainer.global_step
        self._now.steps += 1
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self._step % every == 0:
            pl_module.log_dict(self._measure(trainer, pl_module, batch))

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> dict[str, float]:
        """The numbers of the interval that ends here; the next one begins."""
        self._pause(trainer)
        span, self._now = self._now, _Span()
        span.waited, self._clock.waited = self._clock.waited, 0.0
        per_window = window_flops(pl_module, batch)
        span.flops = (per_window or 0.0) * span.windows
        self._run = _Span() if self._intervals == 1 else self._run
        self._run.add(span)
        self._intervals += 1
        values = {
            "perf/windows_per_second": span.windows * trainer.world_size / span.seconds,
            "perf/data_wait": span.waited / span.seconds,
        }
        if per_window is not None:
            values["perf/mfu"] = span.flops / span.seconds / self._peak
        device = trainer.strategy.root_device
        if device.type == "cuda":
            values["perf/gpu_memory"] = torch.cuda.max_memory_allocated(device) / 2**30
        return values

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line about the run."""
        run, processes = self._run, trainer.world_size
        if not run.seconds:
            return
        parts = [
            f"{run.windows * processes / run.seconds:,.1f} windows/s",
            f"{run.seconds / run.steps * 1e3:,.1f} ms a step",
            f"{run.waited / run.seconds:.1%} of the time waiting for data",
        ]
        if run.flops:
            parts.append(f"{run.flops / run.seconds / self._peak:.1%} of {self._peak / 1e12:.3g} TFLOP/s")
        device = trainer.strategy.root_device
        if device.type == "cuda":
            parts.append(f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
        rank_zero_info(f"speed over {run.steps} steps: {', '.join(parts)}")


class _FetchClock(Profiler):
    """Sums the time in which the trainer waits for batches, and passes everything on.

    The trainer announces each action to its profiler; no callback hook tells waiting from moving data.
    """

    def __init__(self, inner: Profiler) -> None:
        super().__init__()
        self.inner = inner
        self.waited = 0.0
        self._began = 0.0

    @override
    def start(self, action_name: str) -> None:
        if action_name.endswith(_FETCH):
            self._began = time.perf_counter()
        self.inner.start(action_name)

    @override
    def stop(self, action_name: str) -> None:
        self.inner.stop(action_name)
        if action_name.endswith(_FETCH):
            self.waited += time.perf_counter() - self._began

    @override
    def summary(self) -> str:
        return self.inner.summary()


def window_flops(pl_module: Any, batch: Any) -> float | None:
    """Operations of one training window of a module of this package; None where they are not known."""
    if hasattr(pl_module, "training_flops"):
        return float(pl_module.training_flops(batch))
    generator = getattr(pl_module, "generator", None)
    if generator is None:
        return None
    experts = pl_module.experts if float(pl_module.sync_weight) > 0 else []
    frames, size = batch.target.shape[2], batch.target.shape[-1]
    return generator_step_flops(generator, experts, pl_module.critic, frames=frames, size=size)


def generator_step_flops(
    generator: nn.Module,
    experts: Sequence[nn.Module] = (),
    critic: nn.Module | None = None,
    *,
    frames: int = 5,
    size: int = 96,
) -> float:
    """Operations of one training window of a generator.

    A backward pass costs twice the forward pass: gradients of the weights and of the input. The generator
    pays 3 forward passes a frame; a frozen expert 2 a window (no gradients of weights); the critic 2 a half
    frame for the generator's term and 3 each to learn from real and from generated frames.

    Args:
        generator: ``generator(mels, faces)``.
        experts: ``expert(mel, window)``, those that the sync loss asks; none while its weight is 0.
        critic: ``critic(frames)``, or None.
        frames: Frames of a window.
        size: Side of a frame.
    """
    total = 3.0 * frames * forward_flops(generator, (1, *MEL), (1, 6, size, size))
    for expert in experts:
        total += 2.0 * forward_flops(expert, (1, *MEL), (1, 3 * frames, size // 2, size))
    if critic is not None:
        total += 8.0 * forward_flops(critic, (1, 3, frames, size, size))
    return total


def training_dtype(precision: str) -> torch.dtype:
    """The type in which products are computed under a trainer's ``precision``."""
    for prefix, dtype in (("bf16", torch.bfloat16), ("16", torch.float16), ("64", torch.float64)):
        if precision.startswith(prefix):
            return dtype
    return torch.float32


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of a few: a realistic ceiling of the device.

    Side 8192 on a GPU, 1024 on a CPU (tens of milliseconds each at most).
    """
    side, repeats = (8192, 10) if device.type == "cuda" else (1024, 3)
    ramp = torch.arange(side * side, device=device, dtype=torch.int32).remainder_(17).sub_(8)
    a = ramp.view(side, side).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        _wait(device)
        began = time.perf_counter()
        torch.mm(a, a)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
