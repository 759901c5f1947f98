"""``evaluate.py``: score videos, or a generator, for lip sync, picture quality and identity.

python evaluate.py videos=results/ protocol=wild output=report
python evaluate.py videos=generated/ references=ground_truth/ protocol=lrs
python evaluate.py generator=last.ckpt filelist=filelists/test.txt data_root=mvlrs_v1 protocol=lrs
python evaluate.py compare=report_a,report_b output=comparison
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import launch
from lipsync.cli.evaluation_parts import (
    build_judge,
    build_protocol,
    build_visual,
    fingerprint,
    missing_weights,
    plain,
)
from lipsync.cli.generation import PipelineMaker, build_maker
from lipsync.cli.values import require, whole
from lipsync.errors import ConfigError, UserError
from lipsync.evaluation.columns import FILE, SYNC
from lipsync.evaluation.compare import compare, load_run, write_comparison
from lipsync.evaluation.inputs import find_videos, match_references
from lipsync.evaluation.journal import FOLDER, Journal
from lipsync.evaluation.pairs import read_clips
from lipsync.evaluation.report import write_report
from lipsync.evaluation.results import Evaluation, GeneratorInfo, JudgeInfo
from lipsync.evaluation.runner import Evaluator, check_output
from lipsync.evaluation.systems import Plan, generate, generators_of, plan_generator, plan_videos
from lipsync.inference.hooks import ProgressHook

MODES = ("videos", "generator", "compare")
_MAIN = ("videos", "reconstruction", "cross", "static", "silence", "real")
"""The first system of these that a run has is the one it is about."""


class _Work(NamedTuple):
    """What to score, and how to make it first."""

    plans: Sequence[Plan]
    generators: Sequence[GeneratorInfo]
    maker: PipelineMaker | None = None


def evaluate(cfg: DictConfig) -> None:
    """Do what one of ``cfg.videos``, ``cfg.generator`` and ``cfg.compare`` asks for.

    Raises:
        UserError: The input is at fault, or nothing could be scored (the report is written all the same).
    """
    require(cfg, "output")
    given = [mode for mode in MODES if cfg[mode] is not None]
    if not given:
        raise ConfigError(
            "missing: videos; give videos=..., or generator=... filelist=..., or compare=RUN_A,RUN_B"
        )
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} do not go together; give one of them")
    if cfg.compare is not None:
        _compare(cfg)
    else:
        _run(cfg, Path(cfg.output))


def _run(cfg: DictConfig, folder: Path) -> None:
    """Score, and write the report to ``folder``."""
    with DownloadBar() as bar:
        work = _work(cfg, folder, bar)
        judge, notes = build_judge(cfg, bar)
        protocol = build_protocol(cfg, judge, bar)
        visual = build_visual(cfg, folder / FOLDER / "features", bar)
    check_output(folder)
    with Journal(folder, fingerprint(cfg, judge, protocol)) as journal, ProgressHook() as hook:
        evaluator = Evaluator(judge, protocol, visual, journal, hook)
        systems = []
        for plan in work.plans:
            failed = generate(plan, work.maker, hook) if work.maker is not None and plan.jobs else {}
            systems += evaluator.system(plan, failed)
        evaluation = Evaluation(
            systems,
            main=next(name for name in _MAIN if any(system.name == name for system in systems)),
            columns=[*SYNC, *(visual.columns if visual is not None else ()), *FILE],
            judge=None if judge is None else JudgeInfo(judge.name, judge.kind, judge.sha256),
            protocol=protocol.name,
            protocol_description=None if judge is None else protocol.describe(judge),
            generators=work.generators,
            notes=[*notes, *(missing_weights(cfg.metrics) if visual is not None else [])],
            settings=plain(cfg),
        )
        summary = write_report(evaluation, folder)
        journal.discard()
    _print(summary, folder)
    if not evaluation.anything_scored:
        first = (summary["failures"] or summary["image_failures"])[0]
        raise UserError(
            f"none of {summary['n_videos']} videos could be scored ({first['name']}: {first['reason']}); "
            f"all reasons are in {folder / 'scores.csv'}"
        )


def _work(cfg: DictConfig, folder: Path, bar: DownloadBar) -> _Work:
    max_shift, seed = whole(cfg, "max_shift"), whole(cfg, "seed")
    if cfg.generator is None:
        items = find_videos(cfg.videos)
        if cfg.references is not None:
            items = match_references(items, cfg.references)
        return _Work(plan_videos(items, max_shift=max_shift, seed=seed), generators_of(items))
    require(cfg, "filelist")
    clips = read_clips(cfg.filelist, cfg.data_root)
    systems = None if cfg.systems is None else list(cfg.systems)
    plans = plan_generator(clips, folder / "videos", systems=systems, max_shift=max_shift, seed=seed)
    maker, generator = build_maker(cfg.generation, str(cfg.generator), bar)
    return _Work(plans, [generator], maker)


def _compare(cfg: DictConfig) -> None:
    """Put runs side by side; folders without a finished run are scored first."""
    given = [Path(part) for part in cfg.compare]
    if len(given) < 2:
        raise ConfigError("compare needs two runs or more; give compare=RUN_A,RUN_B")
    output = Path(cfg.output)
    folders = []
    for number, path in enumerate(given, start=1):
        folder = path
        if path.is_dir() and not (path / "summary.json").exists():
            folder = output / f"{number}_{path.resolve().name}"
            videos = cfg.copy()
            videos.videos, videos.compare = str(path), None
            _run(videos, folder)
        folders.append(folder)
    comparison = compare([load_run(folder) for folder in folders])
    check_output(output)
    write_comparison(comparison, output)
    print(output / "compare.html")


def _print(summary: Mapping[str, Any], folder: Path) -> None:
    keys = ("lse_d", "lse_c", "expert_d", "expert_c", "offset", "shift_exact", "psnr", "ssim")
    for name, system in summary["systems"].items():
        means = {key: system["values"][key]["mean"] for key in keys if key in system["values"]}
        scores = "  ".join(f"{key} {mean:.3f}" for key, mean in means.items())
        counts = f"{system['n_videos']} videos, {system['n_failed']} could not be scored"
        print(f"{name}: {counts}  {scores}".rstrip())
    print(folder / "report.html")


def main() -> None:
    """Entry point of the command."""
    launch("evaluate", evaluate)
