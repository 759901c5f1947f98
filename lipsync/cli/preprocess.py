"""``python preprocess.py data_root=RAW preprocessed_root=OUT [workers=N] [detector=...] [storage=pack]``."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import launch
from lipsync.cli.values import flag, four, require, whole
from lipsync.cli.weights import detector_factory
from lipsync.data.pack_writer import check_size, pack_splits
from lipsync.data.preprocessing.runner import preprocess
from lipsync.errors import ConfigError
from lipsync.inference.hooks import ProgressHook

STORAGES = ("clips", "pack")


def run(cfg: DictConfig) -> None:
    """Preprocess as configured and say in one line what came of it.

    Raises:
        UserError: a setting or the input is at fault.
    """
    require(cfg, "data_root", "preprocessed_root", "pads")
    if cfg.storage not in STORAGES:
        raise ConfigError(f"storage={cfg.storage}: give {' or '.join(STORAGES)}")
    check_size(whole(cfg, "pack_size"))
    workers = whole(cfg, "workers")  # checked before the engine is made with it
    engine = instantiate(cfg.engine)
    with DownloadBar() as bar:
        detector = detector_factory(cfg.detector, bar)
    with ProgressHook() as hook:
        report = preprocess(
            cfg.data_root,
            cfg.preprocessed_root,
            detector,  # each worker builds its own
            workers=workers,
            every=whole(cfg, "every"),
            pads=four(cfg, "pads") or (),
            min_frames=whole(cfg, "min_frames"),
            smooth=not flag(cfg, "nosmooth"),
            overwrite=flag(cfg, "overwrite"),
            progress=lambda done, total, _name: hook("preprocess", done, total),
            engine=engine,
        )
        if cfg.storage == "pack":
            pack_splits(
                Path(cfg.preprocessed_root),
                [name for name, count in report.splits.items() if count],
                whole(cfg, "pack_size"),
                lambda done, total, step: hook(step, done, total),
                runner=engine,
                overwrite=flag(cfg, "overwrite"),
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
