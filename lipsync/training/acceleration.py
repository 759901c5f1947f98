"""Memory format, compilation and the precision of matrix products: what makes a step faster, in one place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from lipsync.errors import ConfigError
from lipsync.models.syncnet import SyncNet

MATMUL_PRECISIONS = ("highest", "high", "medium")


class Acceleration(Callback):
    """Changes how the networks of a run are computed, not what they compute (up to rounding).

    State-dict keys stay as they are; a checkpoint made with one choice resumes with any other.

    Args:
        channels_last: Keep weights, and with them activations, with the channels innermost. ``auto``: on
            CUDA, where tensor cores read that order, and on a CPU unless the networks are compiled.
        compile_mode: Compile the networks that are trained on or through (``default``,
            ``reduce-overhead``, ``max-autotune``); null: do not. The first steps take minutes. Not worth it
            on a CPU. Should a compiled step stop at a stride check, set ``channels_last=false``.
        backend: Of ``torch.compile``.
        matmul_precision: Of float32 matrix products on CUDA (``high``: TensorFloat-32; null: leave it).
        cudnn_benchmark: Let cuDNN try its algorithms for each shape of a training step. Validation, with
            runs of many lengths, and deterministic runs do without.

    Raises:
        ConfigError: A setting is unknown.
    """

    def __init__(
        self,
        channels_last: Literal["auto"] | bool = "auto",
        compile_mode: str | None = None,
        backend: str = "inductor",
        matmul_precision: Literal["highest", "high", "medium"] | None = "high",
        cudnn_benchmark: bool = True,
    ) -> None:
        if channels_last not in ("auto", True, False):
            raise ConfigError(
                f"callbacks.acceleration.channels_last={channels_last}: choose auto, true, false"
            )
        if matmul_precision not in (*MATMUL_PRECISIONS, None):
            choices = ", ".join(MATMUL_PRECISIONS)
            raise ConfigError(f"callbacks.acceleration.matmul_precision={matmul_precision}: choose {choices}")
        self.channels_last, self.compile_mode, self.backend = channels_last, compile_mode, backend
        self.matmul_precision, self.cudnn_benchmark = matmul_precision, cudnn_benchmark
        self._before: tuple[str, bool] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before weights are restored and the optimizer is made, so that both follow the memory format."""
        if stage != "fit":
            return
        device = trainer.strategy.root_device.type
        if self._use_channels_last(device):
            pl_module.to(memory_format=torch.channels_last)
        if self.compile_mode is not None:
            # Said of the detached parameters of the frozen critic, whose .grad nobody reads.
            warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
            for network in compiled_parts(pl_module):
                network.compile(mode=self.compile_mode, backend=self.backend)
        if device == "cuda":
            self._before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark)
            if self.matmul_precision is not None:
                torch.set_float32_matmul_precision(self.matmul_precision)

    def _use_channels_last(self, device: str) -> bool:
        if self.channels_last != "auto":
            return bool(self.channels_last)
        return device == "cuda" or (device == "cpu" and self.compile_mode is None)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fused optimizers want state in the memory order of its weights; a resumed one may have another."""
        for optimizer in trainer.optimizers:
            align_state(optimizer)
        self._set_benchmark(True)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not try algorithms for shapes that come once."""
        self._set_benchmark(False)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training goes on."""
        self._set_benchmark(True)

    def _set_benchmark(self, on: bool) -> None:
        deterministic = torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
        if self._before is not None and self.cudnn_benchmark and not deterministic:
            torch.backends.cudnn.benchmark = on

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the process as it was."""
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before[0])
            torch.backends.cudnn.benchmark = self._before[1]
            self._before = None


def compiled_parts(pl_module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a module of this package that a training step calls.

    An expert is called by its encoders too, so these are compiled, not the whole. Networks that only look on
    (a judge, a moving average) are not worth the time.
    """
    for name, child in pl_module.named_children():
        if name in ("judge", "generator_ema"):
            continue
        for network in child if isinstance(child, nn.ModuleList) else [child]:
            if isinstance(network, SyncNet):
                yield network.face_encoder
                yield network.audio_encoder
            else:
                yield network


def align_state(optimizer: Optimizer) -> None:
    """Give the optimizer's averages the memory order of their parameters; values stay."""
    for parameter, state in optimizer.state.items():
        entries: dict[str, Any] = state
        for name, value in entries.items():
            if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
                continue
            if value.stride() != parameter.stride():
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
