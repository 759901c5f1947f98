"""The parts of the pipeline from a configuration, for ``infer.py`` and the generator in ``evaluate.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from lipsync.checkpoints.progress import DownloadBar
from lipsync.checkpoints.store import Progress
from lipsync.cli.values import flag, four, rate, whole
from lipsync.cli.weights import build_detector, with_local_weights
from lipsync.errors import ConfigError
from lipsync.faces.detector import FaceDetector
from lipsync.faces.selection import Selection, largest, selection
from lipsync.inference.composite import Compositor
from lipsync.inference.pipeline import LipSyncPipeline
from lipsync.inference.settings import check_settings
from lipsync.inference.source import FrameTransform
from lipsync.inference.speaker import SpeakerFinder
from lipsync.inference.stage import EnhanceStage, FrameStage
from lipsync.inference.synthesize import Synthesizer
from lipsync.metrics.judge_loading import load_judge
from lipsync.metrics.judges import Judge

_HOW_FAST = ("device", "batch_size")
"""Settings that choose no picture."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What holds networks: made once, used for any number of videos."""

    synthesizer: Synthesizer
    detector: FaceDetector
    compositor: Compositor
    enhancer: EnhanceStage | None
    stages: tuple[FrameStage, ...]


def build_parts(cfg: DictConfig, checkpoint: str, progress: Progress) -> Parts:
    """The parts that a configuration describes.

    Args:
        cfg: Groups ``synthesizer``, ``detector``, ``compositor``, ``enhancer``, ``interpolator``.
        checkpoint: Of the generator: a name of the catalogue, or a path.
        progress: Called while weights are downloaded.

    Raises:
        ConfigError: A setting is out of range.
        CheckpointError: Weights cannot be loaded or are of another network.
    """

    def built(group: str) -> Any:
        node = cfg.get(group)
        return None if node is None else instantiate(with_local_weights(node, progress))

    synthesizer = instantiate(cfg.synthesizer, checkpoint=checkpoint, progress=progress)
    detector = build_detector(cfg.detector, progress)
    interpolator = built("interpolator")
    return Parts(
        synthesizer,
        detector,
        built("compositor"),
        built("enhancer"),
        () if interpolator is None else (interpolator,),
    )


def build_pipeline(cfg: DictConfig, parts: Parts, settings: dict[str, Any] | None = None) -> LipSyncPipeline:
    """The pipeline of ``configs/infer.yaml`` around its parts.

    Raises:
        ConfigError: A setting is out of range.
        CheckpointError: The expert that tells who speaks cannot be loaded.
    """
    settings = pipeline_settings(cfg) if settings is None else settings
    if cfg.face_select == "speaking" and settings["box"] is None:
        judge = _judge(str(cfg.expert), str(cfg.device))
        settings["speaker"] = SpeakerFinder(parts.detector, judge, every=settings["every"])
    return LipSyncPipeline(
        parts.synthesizer,
        parts.detector,
        parts.compositor,
        enhancer=parts.enhancer,
        stages=parts.stages,
        writer=instantiate(cfg.encoder),
        **settings,
    )


def pipeline_settings(cfg: DictConfig) -> dict[str, Any]:
    """Keyword arguments of the pipeline that are plain values, checked before weights are loaded.

    Raises:
        ConfigError: A setting is out of range.
    """
    flag(cfg, "compile")
    box = four(cfg, "box")
    settings = {
        "pads": four(cfg, "pads"),
        # The reference writes "no box" as -1 -1 -1 -1.
        "box": None if box == (-1, -1, -1, -1) else box,
        "transform": FrameTransform(
            whole(cfg, "resize_factor"), flag(cfg, "rotate"), four(cfg, "crop") or (0, -1, 0, -1)
        ),
        "face_select": _selection(cfg),
        "every": whole(cfg, "every"),
        "smooth": not flag(cfg, "nosmooth"),
        "static": flag(cfg, "static"),
        "no_face": cfg.no_face,
        "still_fps": rate(cfg, "fps"),
        "extend": cfg.extend,
        "remainder": cfg.remainder,
        "silence": cfg.silence,
        "audio_shift": None if cfg.audio_shift is None else whole(cfg, "audio_shift"),
    }
    checked = ("extend", "remainder", "no_face", "silence", "still_fps", "every", "box")
    check_settings(**{name: settings[name] for name in checked})
    return settings


def without_speed(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings, at any depth, that pictures depend on."""
    return {
        str(key): without_speed(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in _HOW_FAST
    }


@lru_cache(maxsize=1)  # the jobs of a list share it
def _judge(source: str, device: str) -> Judge:
    with DownloadBar() as bar:
        return load_judge(source, device, bar)


def _selection(cfg: DictConfig) -> Selection:
    if cfg.face_select != "speaking":
        return selection(cfg.face_select, whole(cfg, "face_index"))
    if cfg.expert is None:
        raise ConfigError("face_select=speaking needs a judge of lips: give expert=FILE (of model=syncnet)")
    return largest
