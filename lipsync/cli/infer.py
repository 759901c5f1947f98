"""``lipsync infer``: lip-sync a video or picture to speech, or a list of them.

python infer.py face=talk.mp4 audio=speech.wav checkpoint=wav2lip_gan outfile=out.mp4
python infer.py --face photo.jpg --audio speech.mp3 --checkpoint_path last.ckpt --pads 0 20 0 0 --nosmooth
python infer.py jobs=list.csv checkpoint=wav2lip_gan enhancer=lip
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lipsync import __version__
from lipsync.checkpoints.origin import generator_provenance
from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import launch
from lipsync.cli.inference_parts import (
    Parts,
    build_parts,
    build_pipeline,
    pipeline_settings,
    without_speed,
)
from lipsync.cli.jobs import Job, file_state, job_digest, read_jobs, run_jobs
from lipsync.cli.values import flag
from lipsync.errors import ConfigError
from lipsync.inference.hooks import ProgressHook
from lipsync.inference.report import RunReport
from lipsync.inference.timing import stage_table

_BESIDE = ("jobs", "face", "audio", "outfile", "hydra", "timing")
"""Settings that stand beside those of the pictures."""


def infer(cfg: DictConfig) -> None:
    """Run the pipeline of ``configs/infer.yaml`` on one video or on a list, and print what was written."""
    needed = ("audio", "checkpoint", "face", "outfile") if cfg.jobs is None else ("checkpoint",)
    missing = [key for key in needed if cfg[key] is None]
    if missing:
        example = " ".join(f"{key}=..." for key in missing)
        raise ConfigError(f"missing: {', '.join(missing)}; give {example}")
    if cfg.jobs is not None:
        _infer_list(cfg)
        return
    pipeline_settings(cfg)  # a mistake shows before weights are loaded
    studio = _Studio(cfg)
    print(studio.lines(studio.run(cfg, cfg.face, cfg.audio, cfg.outfile)))


def _infer_list(cfg: DictConfig) -> None:
    if cfg.face is not None or cfg.audio is not None:
        raise ConfigError("jobs= and face= or audio= at once: give a list, or one video")
    path = Path(cfg.jobs)
    jobs = read_jobs(path)
    # A mistake in the last line shows before the first video is made.
    settings = {job.row: _settings_of(cfg, job, path) for job in jobs}
    studio = _Studio(cfg)

    def run(job: Job) -> RunReport:
        return studio.run(settings[job.row], job.face, job.audio, job.outfile)

    def digest(job: Job) -> str:
        return job_digest(job, {**_picture_settings(settings[job.row]), "version": __version__})

    run_jobs(path, jobs, run, digest, studio.lines)


class _Studio:
    """The networks, loaded once, at work on any number of videos."""

    def __init__(self, cfg: DictConfig) -> None:
        self.timing = flag(cfg, "timing")
        self.marked = flag(cfg, "provenance")
        with DownloadBar() as bar:
            self.parts: Parts = build_parts(cfg, cfg.checkpoint, bar)
        self.origin = generator_provenance(cfg.checkpoint)

    def run(self, cfg: DictConfig, face: str, audio: str, outfile: str) -> RunReport:
        """Make one video."""
        pipeline = build_pipeline(cfg, self.parts)
        metadata = self.origin.metadata if self.marked else None
        with ProgressHook() as hook:
            return pipeline.run(face, audio, outfile, hook=hook, metadata=metadata)

    def lines(self, report: RunReport) -> str:
        """What the user is told of a video."""
        lines = [*report.notes, report.summary]
        if self.timing:
            lines.append(stage_table(report.stages, report.frames, report.seconds))
        return "\n".join(lines)


def _settings_of(cfg: DictConfig, job: Job, path: Path) -> DictConfig:
    """The configuration of one job, checked.

    Raises:
        ConfigError: A cell is not written as a setting is, or its value is out of range.
    """
    changed = cfg.copy()
    try:
        for name, text in job.settings.items():
            OmegaConf.update(changed, name, _value(name, text), merge=False)
        pipeline_settings(changed)
    except ConfigError as error:
        raise ConfigError(f"{path}: line {job.row}: {error}") from error
    return changed


def _value(name: str, text: str) -> Any:
    """A cell, read as the command line reads a setting."""
    try:
        return OverridesParser.create().parse_override(f"{name}={text}").value()
    except HydraException as error:
        raise ConfigError(f"{name}={text} cannot be read") from error


def _picture_settings(cfg: DictConfig) -> dict[str, Any]:
    """What pictures depend on: settings, and size and time of change of the files that they name."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    kept = without_speed({key: value for key, value in values.items() if key not in _BESIDE})
    return {"settings": kept, "files": [file_state(Path(name)) for name in _files(kept)]}


def _files(values: Mapping[str, Any]) -> Iterator[str]:
    """The files that are named anywhere among the settings."""
    for value in values.values():
        if isinstance(value, Mapping):
            yield from _files(value)
        elif isinstance(value, str) and Path(value).is_file():
            yield value


def main() -> None:
    """Entry point of ``infer.py`` and ``lipsync infer``."""
    launch("infer", infer)


if __name__ == "__main__":
    main()
