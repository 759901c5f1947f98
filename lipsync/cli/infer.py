"""``lipsync infer``: lip-sync a video or picture to speech.

python infer.py face=talk.mp4 audio=speech.wav checkpoint=wav2lip_gan outfile=out.mp4
python infer.py --face photo.jpg --audio speech.mp3 --checkpoint_path last.ckpt --pads 0 20 0 0 --nosmooth
"""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from lipsync.checkpoints.origin import generator_provenance
from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import launch
from lipsync.cli.values import flag, four, rate, require, whole
from lipsync.cli.weights import build_detector
from lipsync.errors import ConfigError
from lipsync.inference.hooks import ProgressHook
from lipsync.inference.pipeline import LipSyncPipeline, RunReport
from lipsync.inference.source import FrameTransform


def infer(cfg: DictConfig) -> None:
    """Run the pipeline of ``configs/infer.yaml`` and print what was written."""
    require(cfg, "face", "audio", "checkpoint", "outfile")
    pipeline = build_pipeline(cfg)
    origin = generator_provenance(cfg.checkpoint)
    with ProgressHook() as hook:
        report = pipeline.run(cfg.face, cfg.audio, cfg.outfile, hook=hook, metadata=origin.metadata)
    print(summary(report))


def build_pipeline(cfg: DictConfig) -> LipSyncPipeline:
    """The pipeline that a configuration describes.

    Raises:
        ConfigError: A setting is out of range.
        CheckpointError: The weights cannot be loaded or are of another network.
    """
    settings = _settings(cfg)  # checked before weights are loaded
    with DownloadBar() as bar:
        synthesizer = instantiate(cfg.synthesizer, checkpoint=cfg.checkpoint, progress=bar)
        detector = build_detector(cfg.detector, bar)
    return LipSyncPipeline(
        synthesizer,
        detector,
        instantiate(cfg.compositor),
        stages=[instantiate(stage) for stage in (cfg.enhancer, cfg.interpolator) if stage is not None],
        writer=instantiate(cfg.encoder),
        **settings,
    )


def summary(report: RunReport) -> str:
    """One line on a finished run."""
    rate = report.frames / report.seconds
    skipped = f", {report.without_face} without a face left as they are" if report.without_face else ""
    return (
        f"{report.outfile}: {report.frames} frames at {float(report.fps):.6g} fps{skipped}; "
        f"{report.seconds:.1f} s ({rate:.1f} frames/s)"
    )


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Keyword arguments of the pipeline that are plain values."""
    if cfg.no_face not in ("keep", "error"):
        raise ConfigError(f"no_face={cfg.no_face} is unknown; use keep or error")
    box = four(cfg, "box")
    return {
        "pads": four(cfg, "pads"),
        # The reference writes "no box" as -1 -1 -1 -1.
        "box": None if box == (-1, -1, -1, -1) else box,
        "transform": FrameTransform(
            whole(cfg, "resize_factor"), flag(cfg, "rotate"), four(cfg, "crop") or (0, -1, 0, -1)
        ),
        "every": whole(cfg, "every"),
        "smooth": not flag(cfg, "nosmooth"),
        "static": flag(cfg, "static"),
        "still_fps": rate(cfg, "fps"),
        "extend": cfg.extend,
        "must_have_face": cfg.no_face == "error",
        "audio_shift": None if cfg.audio_shift is None else whole(cfg, "audio_shift"),
    }


def main() -> None:
    """Entry point of ``infer.py`` and ``lipsync infer``."""
    launch("infer", infer)


if __name__ == "__main__":
    main()
