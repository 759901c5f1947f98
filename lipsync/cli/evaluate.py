"""``evaluate.py``: score videos for lip sync and picture quality.

python evaluate.py videos=results/ protocol=wild output=report
python evaluate.py videos=generated/ references=ground_truth/ protocol=lrs
python evaluate.py videos=clip.mp4 judge=logs/train/syncnet/.../checkpoints/last.ckpt
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from lipsync.checkpoints.progress import DownloadBar
from lipsync.checkpoints.store import Progress
from lipsync.cli.app import launch
from lipsync.cli.values import four, require
from lipsync.cli.weights import build_detector
from lipsync.errors import CheckpointError, ConfigError, UserError
from lipsync.evaluation.inputs import find_videos, match_references
from lipsync.evaluation.protocols import EvaluationProtocol
from lipsync.evaluation.report import write_report
from lipsync.evaluation.runner import check_output, evaluate_videos
from lipsync.evaluation.summary import Evaluation
from lipsync.inference.hooks import ProgressHook
from lipsync.metrics.judge_loading import load_judge
from lipsync.metrics.judges import Judge


def evaluate(cfg: DictConfig) -> None:
    """Score ``cfg.videos`` and write the report to ``cfg.output``.

    Raises:
        UserError: The input is at fault, or nothing could be scored (the report is written all the same).
    """
    require(cfg, "videos", "output")
    items = find_videos(cfg.videos)
    if cfg.references is not None:
        items = match_references(items, cfg.references)
    with DownloadBar() as bar:
        judge, notes = _judge(cfg, bar)
        protocol = _protocol(cfg, judge, bar)
    folder = Path(cfg.output)
    check_output(folder)
    with ProgressHook() as hook:
        results = evaluate_videos(
            items, judge, protocol, with_references=cfg.references is not None, progress=hook
        )
    evaluation = Evaluation(results, judge, protocol, notes)
    summary = write_report(evaluation, folder)
    _print(summary, folder)
    if not evaluation.anything_scored:
        first = (summary["failures"] or summary["image_failures"])[0]
        raise UserError(
            f"none of {len(items)} videos could be scored ({first['name']}: {first['reason']}); "
            f"all reasons are in {folder / 'scores.csv'}"
        )


def _judge(cfg: DictConfig, progress: Progress) -> tuple[Judge | None, list[str]]:
    """The judge, or None and a note when the released one is not to be had but references are compared."""
    if cfg.judge is None:
        if cfg.references is None:
            raise ConfigError("judge=null leaves nothing to compute; give a judge or references=DIR")
        return None, ["No sync scores: judge=null was asked for."]
    try:
        return load_judge(str(cfg.judge), str(cfg.device), progress), []
    except CheckpointError as error:
        hint = f"{error}; or judge with your own expert: judge=PATH/last.ckpt (its scores are not LSE)"
        if cfg.references is None or Path(cfg.judge).exists() or Path(cfg.judge).suffix:
            raise CheckpointError(hint) from error
        note = f"No sync scores, because the judge is missing: {hint}"
        print(f"lipsync: {note}", file=sys.stderr)
        return None, [note]


def _protocol(cfg: DictConfig, judge: Judge | None, progress: Progress) -> EvaluationProtocol:
    """The protocol; a detector is built only where it will be asked."""
    if not isinstance(cfg.protocol, DictConfig):
        raise ConfigError(f"protocol={cfg.protocol} is not known; give protocol=wild or protocol=lrs")
    four(cfg.protocol, "pads")
    factory = instantiate(cfg.protocol, _convert_="all")
    detects = judge is not None and (judge.view == "face" or factory.func.always_detects)
    protocol: EvaluationProtocol = factory(
        detector=build_detector(cfg.detector, progress) if detects else None
    )
    return protocol


def _print(summary: dict[str, Any], folder: Path) -> None:
    keys = ("lse_d", "lse_c", "expert_d", "expert_c", "offset", "psnr", "ssim")
    scores = "  ".join(f"{key} {summary[key]:.3f}" for key in keys if summary[key] is not None)
    print(f"{summary['n_videos']} videos, {summary['n_failed']} could not be scored")
    if scores:
        print(scores)
    print(folder / "report.html")


def main() -> None:
    """Entry point of the command."""
    launch("evaluate", evaluate)
