"""``python preprocess.py data_root=RAW preprocessed_root=OUT [workers=N] [detector=...]``."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import launch
from lipsync.cli.values import flag, four, require, whole
from lipsync.cli.weights import detector_factory
from lipsync.data.preprocessing.runner import preprocess
from lipsync.inference.hooks import ProgressHook


def run(cfg: DictConfig) -> None:
    """Preprocess as configured and say in one line what came of it.

    Raises:
        UserError: a setting or the input is at fault.
    """
    require(cfg, "data_root", "preprocessed_root", "pads")
    with DownloadBar() as bar:
        detector = detector_factory(cfg.detector, bar)
    with ProgressHook() as hook:
        report = preprocess(
            cfg.data_root,
            cfg.preprocessed_root,
            detector,  # each worker builds its own
            workers=whole(cfg, "workers"),
            every=whole(cfg, "every"),
            pads=four(cfg, "pads") or (),
            min_frames=whole(cfg, "min_frames"),
            smooth=not flag(cfg, "nosmooth"),
            overwrite=flag(cfg, "overwrite"),
            progress=lambda done, total, _name: hook("preprocess", done, total),
            engine=instantiate(cfg.engine),
        )
    splits = ", ".join(f"{name} {count}" for name, count in report.splits.items())
    print(
        f"{report.kept} of {report.seen} videos kept as {report.clips} clips ({splits}); "
        f"{len(report.dropped)} dropped, see {Path(cfg.preprocessed_root) / 'report.json'}"
    )


def main() -> None:
    """Entry point of ``preprocess.py`` and ``lipsync preprocess``."""
    launch("preprocess", run)


if __name__ == "__main__":
    main()
