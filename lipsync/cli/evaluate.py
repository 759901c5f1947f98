"""``evaluate.py``: score videos, or a generator, for lip sync, picture quality and identity.

python evaluate.py videos=results/ protocol=wild output=report
python evaluate.py videos=generated/ references=ground_truth/ protocol=lrs
python evaluate.py generator=last.ckpt filelist=filelists/test.txt data_root=mvlrs_v1 protocol=lrs
python evaluate.py compare=report_a,report_b output=comparison
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import launch
from lipsync.cli.evaluation_parts import (
    AnnotatingMaker,
    build_judge,
    build_protocol,
    build_visual,
    check_alone,
    chosen,
    fingerprint,
    missing_weights,
    plain,
    weight_hashes,
)
from lipsync.cli.generation import build_maker
from lipsync.cli.values import require, whole
from lipsync.errors import ConfigError, DataError, UserError
from lipsync.evaluation.columns import FILE, SYNC
from lipsync.evaluation.compare import compare, load_run, write_comparison
from lipsync.evaluation.inputs import find_videos, match_references, read_videos
from lipsync.evaluation.journal import FOLDER, Journal
from lipsync.evaluation.making import Maker
from lipsync.evaluation.pairs import read_clips
from lipsync.evaluation.report import write_report
from lipsync.evaluation.results import Evaluation, GeneratorInfo, JudgeInfo, SystemResult
from lipsync.evaluation.runner import Evaluator, check_output
from lipsync.evaluation.systems import SYSTEMS, Plan, generate, generators_of, plan_generator, plan_videos
from lipsync.inference.hooks import ProgressHook

MODES = ("videos", "generator", "compare")
_MAIN = ("videos", "reconstruction", "cross", "static", "silence", "real")
"""The first system of these that a run has is the one it is about."""


class _Work(NamedTuple):
    """What to score, and how to make it first."""

    plans: Sequence[Plan]
    generators: Sequence[GeneratorInfo]
    notes: Sequence[str]
    maker: Maker | None = None


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
    if not 0 <= whole(cfg, "seed") < 2**32:
        raise ConfigError(f"seed={cfg.seed}: give a whole number from 0 to {2**32 - 1}")
    if cfg.compare is not None:
        _compare(cfg)
    else:
        _run(cfg, Path(str(cfg.output)))


def _run(cfg: DictConfig, folder: Path) -> None:
    """Score, and write the report to ``folder``."""
    check_alone(cfg)
    with DownloadBar() as bar:
        work = _work(cfg, folder, bar)
        judge, notes = build_judge(cfg, bar)
        protocol = build_protocol(cfg, judge, bar)
        visual = build_visual(cfg, folder / FOLDER / "features", bar)
        weights = weight_hashes(cfg.metrics)
        settings = fingerprint(cfg, judge, protocol, weights)
    check_output(folder)
    with Journal(folder, settings) as journal:
        _say_where_it_starts(journal, folder)
        try:
            systems = _systems(work, Evaluator(judge, protocol, visual, journal))
        except KeyboardInterrupt:
            print(f"lipsync: the same command with output={folder} goes on from here", file=sys.stderr)
            raise
        evaluation = Evaluation(
            systems,
            main=next(name for name in _MAIN if any(system.name == name for system in systems)),
            columns=[*SYNC, *(visual.columns if visual is not None else ()), *FILE],
            judge=None if judge is None else JudgeInfo(judge.name, judge.kind, judge.sha256),
            protocol=protocol.name,
            protocol_description=None if judge is None else protocol.describe(judge),
            generators=work.generators,
            weights=weights,
            notes=[*notes, *work.notes, *(missing_weights(cfg.metrics) if visual is not None else [])],
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


def _say_where_it_starts(journal: Journal, folder: Path) -> None:
    if len(journal):
        print(f"lipsync: {folder}: going on, {len(journal)} videos are scored already", file=sys.stderr)
    elif journal.restarted:
        print(f"lipsync: {folder}: settings changed since it was stopped, starting anew", file=sys.stderr)


def _systems(work: _Work, evaluator: Evaluator) -> list[SystemResult]:
    """Make what is to be made and score it, system by system."""
    systems = []
    with ProgressHook() as hook:
        evaluator = replace(evaluator, progress=hook)
        for plan in work.plans:
            failed = generate(plan, work.maker, hook) if work.maker is not None and plan.jobs else {}
            systems += evaluator.system(plan, failed)
    return systems


def _work(cfg: DictConfig, folder: Path, bar: DownloadBar) -> _Work:
    max_shift, seed = whole(cfg, "max_shift"), whole(cfg, "seed")
    if cfg.generator is None:
        items, notes = read_videos(str(cfg.videos))
        if cfg.references is not None:
            items = match_references(items, str(cfg.references))
        plans = plan_videos(items, max_shift=max_shift, seed=seed)
        return _Work(plans, generators_of(items), notes)
    require(cfg, "filelist")
    clips = read_clips(str(cfg.filelist), None if cfg.data_root is None else str(cfg.data_root))
    systems = None if cfg.systems is None else chosen(cfg, "systems", SYSTEMS)
    plans = plan_generator(clips, folder / "videos", systems=systems, max_shift=max_shift, seed=seed)
    maker, generator = build_maker(cfg.generation, str(cfg.generator), bar)
    return _Work(plans, [generator], [], AnnotatingMaker(maker) if _annotated(cfg.detector) else maker)


def _annotated(detector: DictConfig) -> bool:
    return str(detector.get("_target_")).endswith(".AnnotatedDetector")


def _compare(cfg: DictConfig) -> None:
    """Put runs side by side; folders without a finished run are scored first."""
    listed = cfg.compare if OmegaConf.is_list(cfg.compare) else [cfg.compare]
    given = [Path(str(part)) for part in listed]
    if len(given) < 2:
        raise ConfigError(
            f"compare={listed[0] if listed else '[]'}: give two runs or more, compare=RUN_A,RUN_B"
        )
    output = Path(str(cfg.output))
    folders = {
        path: _run_folder(path, output / f"{n}_{path.resolve().name}") for n, path in enumerate(given, 1)
    }
    check_output(output)
    for path, folder in folders.items():
        if folder != path:
            videos = cfg.copy()
            videos.videos, videos.compare, videos.output = str(path), None, str(folder)
            _run(videos, folder)
    comparison = compare([load_run(folders[path]) for path in given])
    write_comparison(comparison, output)
    print(output / "compare.html")


def _run_folder(path: Path, scored: Path) -> Path:
    """Where the run is: the folder itself, or ``scored`` for a folder of videos, which is to be scored.

    Raises:
        DataError: Neither a run nor a folder of videos.
    """
    if (path / "summary.json").exists():
        return path
    if (path / FOLDER).exists():
        raise DataError(f"{path}: is a run that did not end; give its command again with output={path}")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; compare takes runs of evaluate.py, or folders of videos")
    find_videos(path)
    return scored


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
