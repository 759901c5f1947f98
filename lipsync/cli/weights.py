"""Parts whose weights may have to be downloaded first, with a bar while that takes time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

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
    detector: FaceDetector = instantiate(with_local_weights(cfg, progress))
    return detector


def detector_factory(cfg: DictConfig, progress: Progress) -> Callable[[], FaceDetector]:
    """As :func:`build_detector`, but built when called; the weights are fetched now. Picklable."""
    factory: Callable[[], FaceDetector] = instantiate(with_local_weights(cfg, progress), _partial_=True)
    return factory


def with_local_weights(cfg: DictConfig, progress: Progress) -> DictConfig:
    """A copy of the node in which every ``weights``, at any depth, is a file that is there.

    Args:
        cfg: To be instantiated.
        progress: Called while files of the catalogue are downloaded.

    Raises:
        CheckpointError: A file cannot be had.
    """

    def local(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            key: str(resolve(inner, progress)) if key == "weights" and inner else local(inner)
            for key, inner in value.items()
        }

    return OmegaConf.create(local(OmegaConf.to_container(cfg, resolve=True)))
