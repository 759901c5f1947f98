"""A generator at work for ``evaluate.py``: the pipeline of ``infer.py``, its files without any loss."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from lipsync import __version__
from lipsync.audio.spec import WAV2LIP
from lipsync.checkpoints.origin import generator_provenance
from lipsync.checkpoints.store import Progress
from lipsync.cli.inference_parts import build_parts, without_speed
from lipsync.cli.values import flag, four, whole
from lipsync.evaluation.making import Job
from lipsync.evaluation.results import GeneratorInfo
from lipsync.inference.pipeline import LipSyncPipeline
from lipsync.media.probe import probe
from lipsync.media.provenance import Provenance
from lipsync.media.waveform import save_wav
from lipsync.media.writer import LOSSLESS, VideoWriter

_MARGIN = 1.0
"""Seconds of silence beyond the stated end of a clip, should it be longer than stated; cut off with it."""


class PipelineMaker:
    """Makes videos; see :class:`lipsync.evaluation.making.Maker`.

    Args:
        moving: Pipeline for videos.
        still: Pipeline that shows their first frame only.
        provenance: Of the generator.
        settings: What the pictures depend on.
    """

    def __init__(
        self,
        moving: LipSyncPipeline,
        still: LipSyncPipeline,
        provenance: Provenance,
        settings: Mapping[str, Any],
    ) -> None:
        self.moving = moving
        self.still = still
        self.provenance = provenance
        self.fingerprint = {"generator": provenance.generator, "version": __version__, "settings": settings}

    def __call__(self, job: Job, key: str) -> None:
        """Write ``job.outfile``.

        Raises:
            MediaError: An input cannot be read or the file cannot be written.
            NoFaceError: There is no face.
        """
        pipeline = self.still if job.static else self.moving
        metadata = replace(self.provenance, job=key).metadata
        if job.audio is not None:
            pipeline.run(job.face, job.audio, job.outfile, metadata=metadata)
            return
        with tempfile.TemporaryDirectory() as folder:
            silent = _silence(job.face, Path(folder) / "silence.wav")
            pipeline.run(job.face, silent, job.outfile, metadata=metadata)


def build_maker(
    cfg: DictConfig, checkpoint: str, progress: Progress | None = None
) -> tuple[PipelineMaker, GeneratorInfo]:
    """The generator of a checkpoint, ready to work.

    Args:
        cfg: Groups as for :func:`lipsync.cli.inference_parts.build_parts`, and ``pads``, ``every`` and
            ``nosmooth``, all as in ``configs/infer.yaml``.
        checkpoint: A name of the catalogue, or a path.
        progress: Called while weights are downloaded.

    Raises:
        ConfigError: A setting is out of range.
        CheckpointError: The weights cannot be loaded or are of another network.
    """
    settings: dict[str, Any] = {
        "pads": four(cfg, "pads"),
        "every": whole(cfg, "every"),
        "smooth": not flag(cfg, "nosmooth"),
    }
    provenance = generator_provenance(checkpoint, progress)
    parts = build_parts(cfg, checkpoint, progress or _unheard)
    pipeline = partial(
        LipSyncPipeline,
        parts.synthesizer,
        parts.detector,
        parts.compositor,
        enhancer=parts.enhancer,
        stages=parts.stages,
        writer=partial(VideoWriter, **LOSSLESS),
        extend="cut",
        **settings,
    )
    maker = PipelineMaker(pipeline(), pipeline(static=True), provenance, _plain(cfg))
    name = Path(checkpoint).name
    return maker, GeneratorInfo(name, provenance.generator, provenance.experts)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """The settings that pictures depend on."""
    values = OmegaConf.to_container(cfg, resolve=True)
    return without_speed(values) if isinstance(values, dict) else {}


def _silence(face: Path, path: Path) -> Path:
    """Write a silent file as long as ``face``, or somewhat longer."""
    info = probe(face)
    seconds = max(info.duration, float(info.frame_count / info.fps)) + _MARGIN
    save_wav(path, np.zeros(math.ceil(seconds * WAV2LIP.sample_rate), np.float32), WAV2LIP.sample_rate)
    return path


def _unheard(name: str, received: int, total: int | None) -> None:
    """Progress that nobody watches."""
