"""The parts of an evaluation that a configuration describes: judge, protocol, visual measures."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lipsync.checkpoints.formats import sha256_of
from lipsync.checkpoints.store import Progress
from lipsync.cli.values import four, whole
from lipsync.cli.weights import build_detector
from lipsync.errors import CheckpointError, ConfigError, DataError, MediaError
from lipsync.evaluation.columns import Region
from lipsync.evaluation.identity import IdentityObserver
from lipsync.evaluation.making import Job, Maker
from lipsync.evaluation.mouth import MouthObserver
from lipsync.evaluation.picture_observers import picture_observers
from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.evaluation.report.summary import versions
from lipsync.evaluation.set_observers import set_observers
from lipsync.evaluation.visual import Observer, VisualPass, needs_faces
from lipsync.faces.annotated import annotation_of
from lipsync.faces.landmarks import LandmarkNet
from lipsync.faces.recognition import FaceRecognizer
from lipsync.files import write_text
from lipsync.metrics.frechet import I3DFeatures, InceptionFeatures
from lipsync.metrics.judge_loading import load_judge
from lipsync.metrics.judges import Judge
from lipsync.metrics.lpips import LPIPS
from lipsync.models.device import resolve_device

_Name = TypeVar("_Name", bound=str)
"""Suffix of annotated faces beside a video."""
WEIGHTS = {
    "lpips": "LPIPS",
    "fid": "FID",
    "fvd": "FVD",
    "identity": "CSIM",
    "landmarks": "LMD, mouth opening and its correlation with the sound",
}
"""Settings of ``metrics`` that name a weight file, and what they give."""


def build_judge(cfg: DictConfig, progress: Progress) -> tuple[Judge | None, list[str]]:
    """The judge, or None and a note where the released one is not to be had but pictures are compared.

    Raises:
        CheckpointError: The judge cannot be had, and nothing else is to be measured.
        ConfigError: Nothing is left to compute.
    """
    compares = _flag(cfg.metrics, "picture") and (cfg.references is not None or cfg.generator is not None)
    others = compares or any(cfg.metrics[key] is not None for key in WEIGHTS)
    if cfg.judge is None:
        if not others:
            raise ConfigError("judge=null leaves nothing to compute; give a judge or references=DIR")
        return None, ["No sync scores: judge=null was asked for."]
    try:
        return load_judge(str(cfg.judge), str(cfg.device), progress), []
    except CheckpointError as error:
        given = Path(str(cfg.judge))
        if given.exists():
            raise
        hint = f"{error}; or judge with your own expert: judge=PATH/last.ckpt (its scores are not LSE)"
        if not others or given.suffix:
            raise CheckpointError(hint) from error
        note = f"No sync scores, because the judge is missing: {hint}"
        print(f"lipsync: {note}", file=sys.stderr)
        return None, [note]


def build_protocol(cfg: DictConfig, judge: Judge | None, progress: Progress) -> EvaluationProtocol:
    """The protocol; a detector is built only where it will be asked."""
    if not isinstance(cfg.protocol, DictConfig):
        raise ConfigError(f"protocol={cfg.protocol} is not known; give protocol=wild, lrs or strict")
    four(cfg.protocol, "pads")
    factory = instantiate(cfg.protocol, _convert_="all")
    detects = judge is not None and (judge.view == "face" or factory.func.always_detects)
    protocol: EvaluationProtocol = factory(
        detector=build_detector(cfg.detector, progress) if detects else None
    )
    return protocol


def build_visual(cfg: DictConfig, features: Path, progress: Progress) -> VisualPass | None:
    """What measures pictures, identity and landmarks; None where nothing was asked for.

    Args:
        cfg: The whole configuration.
        features: Folder for features of sets of videos while the run lasts.
        progress: Called while weights are downloaded.

    Raises:
        CheckpointError: Weights cannot be loaded.
        ConfigError: A setting is out of range.
    """
    observers = list(_observers(cfg.metrics, str(cfg.device), features))
    if not observers:
        return None
    detector = build_detector(cfg.detector, progress) if any(map(needs_faces, observers)) else None
    expected = cfg.references is not None or cfg.generator is not None
    return VisualPass(observers, detector, expect_references=expected)


def _observers(metrics: DictConfig, device_name: str, features: Path) -> list[Observer]:
    device = resolve_device(device_name)
    every, fid_every = (_positive(metrics, key) for key in ("every", "fid_every"))
    regions, fid_regions = (
        chosen(metrics, key, get_args(Region), "metrics.") for key in ("regions", "fid_regions")
    )
    sharpness, picture = (_flag(metrics, key) for key in ("sharpness", "picture"))
    if metrics.lpips is not None and not picture:
        raise ConfigError("metrics.lpips is measured with the pictures; give metrics.picture=true, too")
    observers: list[Observer] = []
    if picture:
        lpips = None if metrics.lpips is None else LPIPS(metrics.lpips, device)
        observers += picture_observers(regions, every=every, lpips=lpips, sharpness=sharpness)
    observers += set_observers(
        features,
        fid=None if metrics.fid is None else InceptionFeatures(metrics.fid, device),
        fid_regions=fid_regions,
        fid_every=fid_every,
        fvd=None if metrics.fvd is None else I3DFeatures(metrics.fvd, device),
    )
    landmarks = None if metrics.landmarks is None else LandmarkNet(metrics.landmarks)
    if metrics.identity is not None:
        observers.append(IdentityObserver(FaceRecognizer(metrics.identity), landmarks))
    if landmarks is not None:
        observers.append(MouthObserver(landmarks))
    return observers


def chosen(cfg: DictConfig, key: str, known: Sequence[_Name], prefix: str = "") -> list[_Name]:
    """A list of known names, each once; a single name is a list of one.

    Raises:
        ConfigError: Another value; the line names the setting as ``prefix`` and ``key``.
    """
    value = OmegaConf.to_container(cfg[key]) if OmegaConf.is_config(cfg[key]) else [cfg[key]]
    found = [name for name in known if isinstance(value, list) and name in value]
    if not isinstance(value, list) or not value or any(name not in known for name in value):
        raise ConfigError(f"{prefix}{key}={cfg[key]}: give one or more of [{','.join(known)}]")
    return found


def _flag(metrics: DictConfig, key: str) -> bool:
    if not isinstance(metrics[key], bool):
        raise ConfigError(f"metrics.{key}={metrics[key]}: give true or false")
    return bool(metrics[key])


def _positive(metrics: DictConfig, key: str) -> int:
    if not OmegaConf.is_config(metrics[key]) and isinstance(metrics[key], int) and metrics[key] >= 1:
        return whole(metrics, key)
    raise ConfigError(f"metrics.{key}={metrics[key]}: give a whole number from 1 on")


def check_alone(cfg: DictConfig) -> None:
    """Refuse settings that the mode given would pass over.

    Raises:
        ConfigError: Such a setting was given.
    """
    wanted = {
        "references": "videos",
        "filelist": "generator",
        "data_root": "generator",
        "systems": "generator",
    }
    mode = "generator" if cfg.generator is not None else "videos"
    for key, owner in wanted.items():
        if cfg[key] is not None and owner != mode:
            raise ConfigError(f"{key} goes with {owner}=..., not with {mode}=...; leave it out")


class AnnotatingMaker:
    """Gives the videos that a maker makes the annotated faces of their sources, for the annotated detector.

    A generator changes the mouth and leaves the head where it is.

    Args:
        maker: Makes the videos.
    """

    def __init__(self, maker: Maker) -> None:
        self.maker = maker

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Of the maker."""
        return self.maker.fingerprint

    def __call__(self, job: Job, key: str) -> None:
        """Write the annotation, then ``job.outfile``; see :class:`lipsync.evaluation.making.Maker`.

        Raises:
            MediaError: The annotation is missing or damaged, or the maker failed.
            NoFaceError: From the maker.
        """
        source = annotation_of(job.face)
        if source.is_file():
            try:
                content = json.loads(source.read_text(encoding="utf-8"))
                faces = content["faces"][:1] if job.static else content["faces"]
            except (ValueError, KeyError, TypeError) as error:
                raise MediaError(f"{source}: is no annotation of faces ({error!r})") from error
            job.outfile.parent.mkdir(parents=True, exist_ok=True)
            write_text(annotation_of(job.outfile), json.dumps({**content, "faces": faces}))
        try:
            self.maker(job, key)
        except DataError as error:  # the annotation of one clip; the others are made
            raise MediaError(str(error)) from error


def missing_weights(metrics: DictConfig) -> list[str]:
    """A note on what was left out because no weights were given."""
    left = [f"{what} (metrics.{key}=FILE)" for key, what in WEIGHTS.items() if metrics[key] is None]
    return [f"Not measured, because no weights were given: {'; '.join(left)}."] if left else []


def fingerprint(
    cfg: DictConfig, judge: Judge | None, protocol: EvaluationProtocol, weights: Mapping[str, str]
) -> Mapping[str, Any]:
    """Everything that the values of a video depend on besides its files.

    Args:
        cfg: The whole configuration.
        judge: Of the run.
        protocol: Of the run.
        weights: See :func:`weight_hashes`.
    """
    return {
        "versions": versions(),
        "device": str(cfg.device),
        "judge": None if judge is None else [judge.sha256, judge.kind],
        "protocol": None if judge is None else [protocol.describe(judge), plain(cfg.protocol)],
        "metrics": plain(cfg.metrics),
        "weights": dict(weights),
        "detector": plain(cfg.detector),
        "references": cfg.references is not None or cfg.generator is not None,
    }


def weight_hashes(metrics: DictConfig) -> dict[str, str]:
    """SHA-256 of the weight files that pictures are measured with, by the name of their setting."""
    return {key: sha256_of(Path(metrics[key])) for key in WEIGHTS if metrics[key] is not None}


def plain(node: DictConfig) -> Any:
    """Values without Hydra's types."""
    return OmegaConf.to_container(node, resolve=True)
