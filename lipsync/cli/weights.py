"""Detectors whose weights may have to be downloaded first, with a bar while that takes time."""

from __future__ import annotations

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
    weights = {"weights": str(resolve(cfg.weights, progress))} if "weights" in cfg else {}
    detector: FaceDetector = instantiate(cfg, **weights)
    return detector
