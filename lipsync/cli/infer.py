"""``lipsync infer``: lip-sync a video or picture to speech, or a list of them.

python infer.py face=talk.mp4 audio=speech.wav checkpoint=wav2lip_gan outfile=out.mp4
python infer.py --face photo.jpg --audio speech.mp3 --checkpoint_path last.ckpt --pads 0 20 0 0 --nosmooth
python infer.py jobs=list.csv checkpoint=wav2lip_gan enhancer=lip
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lipsync import __version__
from lipsync.checkpoints.origin import generator_provenance
from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import launch
from lipsync.cli.inference_parts import Parts, build_parts, build_pipeline, pipeline_settings
from lipsync.cli.jobs import Job, job_digest, read_jobs, run_jobs
from lipsync.cli.values import flag
from lipsync.errors import ConfigError
from lipsync.inference.hooks import ProgressHook
from lipsync.inference.report import RunReport
from lipsync.inference.timing import stage_table

_IRRELEVANT = ("jobs", "face", "audio", "outfile", "hydra", "timing", "device", "batch_size")
"""Settings that the pictures of a job do not depend on, or that stand beside them."""


def infer(cfg: DictConfig) -> None:
    """Run the pipeline of ``configs/infer.yaml`` on one video or on a list, and print what was written."""
    needed = ("audio", "checkpoint", "face", "outfile") if cfg.jobs is None else ("checkpoint",)
    missing = [key for key in needed if cfg[key] is None]
    if missing:
        example = " ".join(f"{key}=..." for key in missing)
        raise ConfigError(f"missing: {', '.join(missing)}; give {example}")
    if cfg.jobs is None:
        _Studio(cfg).make(cfg)
    else:
        _infer_list(cfg)


def _infer_list(cfg: DictConfig) -> None:
    path = Path(cfg.jobs)
    jobs = read_jobs(path)
    settings = {job.row: _settings_of(cfg, job) for job in jobs}
    for changed in settings.values():  # a mistake in the last line shows before the first video is made
        pipeline_settings(changed)
    studio = _Studio(cfg)

    def digest(job: Job) -> str:
        values: Any = OmegaConf.to_container(settings[job.row], resolve=True)
        kept = {key: value for key, value in values.items() if key not in _IRRELEVANT}
        return job_digest(job, {**kept, "version": __version__, "generator": studio.origin.generator})

    run_jobs(path, jobs, lambda job: studio.run(settings[job.row]), digest)


class _Studio:
    """The networks, loaded once, at work on any number of videos."""

    def __init__(self, cfg: DictConfig) -> None:
        pipeline_settings(cfg)  # a mistake shows before weights are loaded
        self.timing = flag(cfg, "timing")
        self.marked = flag(cfg, "provenance")
        with DownloadBar() as bar:
            self.parts: Parts = build_parts(cfg, cfg.checkpoint, bar)
        self.origin = generator_provenance(cfg.checkpoint)

    def make(self, cfg: DictConfig) -> None:
        """Make one video and print what was written."""
        report = self.run(cfg)
        print(*report.notes, report.summary, sep="\n")
        if self.timing:
            print(stage_table(report.stages, report.frames, report.seconds))

    def run(self, cfg: DictConfig) -> RunReport:
        """Make one video."""
        pipeline = build_pipeline(cfg, self.parts)
        metadata = self.origin.metadata if self.marked else None
        with ProgressHook() as hook:
            return pipeline.run(cfg.face, cfg.audio, cfg.outfile, hook=hook, metadata=metadata)


def _settings_of(cfg: DictConfig, job: Job) -> DictConfig:
    """The configuration of one job.

    Raises:
        ConfigError: A cell is not written as a setting is.
    """
    changed = cfg.copy()
    OmegaConf.update(changed, "face", job.face)
    OmegaConf.update(changed, "audio", job.audio)
    OmegaConf.update(changed, "outfile", job.outfile)
    for name, text in job.settings.items():
        OmegaConf.update(changed, name, _value(job, name, text), merge=False)
    return changed


def _value(job: Job, name: str, text: str) -> Any:
    """A cell, read as the command line reads a setting."""
    try:
        return OverridesParser.create().parse_override(f"{name}={text}").value()
    except HydraException as error:
        raise ConfigError(f"line {job.row} of the list: {name}={text} cannot be read") from error


def main() -> None:
    """Entry point of ``infer.py`` and ``lipsync infer``."""
    launch("infer", infer)


if __name__ == "__main__":
    main()
