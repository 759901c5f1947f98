"""Detectors whose weights may have to be downloaded first, with a bar while that takes time."""

from __future__ import annotations

from collections.abc import Callable

from hydra.utils import instantiate
from omegaconf import DictConfig

from lipsync.checkpoints.store import Progress, resolve
from lipsync.faces.detector import FaceDetector


def build_detector(cfg: DictConfig, progress: Progress) -> FaceDetector:
    """The detector of ``configs/detector``.

    Args:
        cfg: Its class and arguments.
        progress: Called while its weights are downloaded.

    Raises:
        CheckpointError: The weights cannot be had or do not fit.
    """
    detector: FaceDetector = instantiate(cfg, **_fetched(cfg, progress))
    return detector


def detector_factory(cfg: DictConfig, progress: Progress) -> Callable[[], FaceDetector]:
    """As :func:`build_detector`, but built when called; the weights are fetched now. Picklable."""
    factory: Callable[[], FaceDetector] = instantiate(cfg, **_fetched(cfg, progress), _partial_=True)
    return factory


def _fetched(cfg: DictConfig, progress: Progress) -> dict[str, str]:
    return {"weights": str(resolve(cfg.weights, progress))} if "weights" in cfg else {}
