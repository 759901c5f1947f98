"""A judge from a name of the catalogue or a weight file."""

from __future__ import annotations

from pathlib import Path

import torch

from lipsync.checkpoints.adapters import networks
from lipsync.checkpoints.kinds import Kind, describe, kind_of
from lipsync.checkpoints.loading import load_state, load_weights
from lipsync.checkpoints.networks import load_expert
from lipsync.checkpoints.store import Progress, locate
from lipsync.errors import CheckpointError, ConfigError
from lipsync.metrics.judges import ExpertJudge, Judge, SyncNetJudge
from lipsync.models.device import resolve_device
from lipsync.models.lse_folded import PRECISIONS, Precision
from lipsync.models.lse_syncnet import LSESyncNet


def load_judge(
    source: str | Path,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    precision: Precision = "float32",
) -> Judge:
    """SyncNet v2 or a SyncNet expert, told apart by what the file holds.

    Args:
        source: ``syncnet_v2``, another name of the catalogue, or a file: ``syncnet_v2.model``, or an expert
            as ``.pth``, ``.ckpt`` ...
        device: Where the judge computes: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        progress: Told while a file of the catalogue is downloaded.
        precision: ``bfloat16``: faster where the processor has it, its scores are not to be cited.

    Raises:
        CheckpointError: The file is missing and cannot be fetched, damaged, or holds neither network.
        ConfigError: The device is not there, or an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision}: choose {' or '.join(PRECISIONS)}")
    device = resolve_device(device)  # a mistake shows before anything is downloaded
    path, digest = locate(source, progress)
    name = path.name if Path(source).exists() else str(source)
    found = networks(load_state(path))
    kinds = {kind_of(state) for state in found.values()}
    if Kind.LSE_SYNCNET in kinds:
        judge = LSESyncNet()
        load_weights(judge, path)
        return SyncNetJudge(judge, name, digest, device, precision=precision)
    if Kind.EXPERT in kinds:
        return ExpertJudge(load_expert(path)[0], name, digest, device, precision=precision)
    held = ", ".join(describe(state) for state in found.values()) or "no weights"
    raise CheckpointError(f"{path}: holds {held}; a judge is SyncNet v2 or a SyncNet expert (judge=FILE)")
