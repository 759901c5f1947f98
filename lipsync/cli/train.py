"""``python train.py model=syncnet|wav2lip|wav2lip_hq data.root=FOLDER [key=value ...]``."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from lipsync.checkpoints.loading import load_state
from lipsync.checkpoints.progress import DownloadBar
from lipsync.checkpoints.store import resolve
from lipsync.cli.app import EXIT_INTERRUPTED, launch, seed_everything
from lipsync.cli.values import require
from lipsync.errors import CheckpointError, ConfigError
from lipsync.files import write_text


def train(cfg: DictConfig) -> None:
    """Build data, model and trainer from the configuration, and fit."""
    _quiet()
    require(cfg, "data.root")
    if cfg.trainer.val_check_interval == 0:
        raise ConfigError("trainer.val_check_interval=0: give a number of steps, or null for once an epoch")
    seed_everything(cfg.seed)
    run_dir = Path(cfg.paths.output_dir)
    _prepare_folder(run_dir)
    ckpt_path = _resume_from(cfg)
    data: pl.LightningDataModule = instantiate(cfg.data)
    _check_data(data)
    _fetch_expert(cfg)
    model: pl.LightningModule = instantiate(cfg.model, _convert_="all")
    _check_optimizer(model)
    _check_same_model(ckpt_path, model)
    trainer: pl.Trainer = instantiate(
        cfg.trainer, callbacks=_listed(cfg.callbacks), logger=_listed(cfg.logger), _convert_="all"
    )
    _save_config(cfg, run_dir)
    rank_zero_info(
        f"global batch: {data.batch_size} windows x {trainer.world_size} processes x "  # type: ignore[attr-defined]
        f"{trainer.accumulate_grad_batches} = "
        f"{data.batch_size * trainer.world_size * trainer.accumulate_grad_batches}; run folder: {run_dir}"  # type: ignore[attr-defined]
    )
    try:
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into exit 1
            rank_zero_info(f"interrupted; go on with ckpt_path={run_dir / 'checkpoints' / 'last.ckpt'}")
            raise SystemExit(EXIT_INTERRUPTED) from None
        raise
    rank_zero_info(f"done: step {trainer.global_step}, {run_dir / 'checkpoints' / 'last.ckpt'}")


def _listed(group: DictConfig | None) -> list[Any]:
    """The objects of a config group; entries set to null are left out."""
    return [instantiate(node) for node in (group or {}).values() if node is not None]


def _resume_from(cfg: DictConfig) -> str | None:
    """The checkpoint to go on from; ``last`` means this run folder's ``checkpoints/last.ckpt``."""
    if cfg.ckpt_path is None:
        return None
    last = Path(cfg.paths.output_dir) / "checkpoints" / "last.ckpt"
    path = last if cfg.ckpt_path == "last" else Path(cfg.ckpt_path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give ckpt_path=FILE of an earlier run")
    if "pytorch-lightning_version" not in load_state(path):
        raise CheckpointError(
            f"{path}: holds weights only, no training state; give the last.ckpt of a run of this program"
        )
    return str(path)


def _check_same_model(ckpt_path: str | None, model: pl.LightningModule) -> None:
    """Raise CheckpointError where a run of another model or size would be resumed."""
    if ckpt_path is None:
        return
    checkpoint = load_state(ckpt_path)
    model.on_load_checkpoint(checkpoint)
    saved = {key: value.shape for key, value in checkpoint["state_dict"].items()}
    if saved != {key: value.shape for key, value in model.state_dict().items()}:
        raise CheckpointError(
            f"{ckpt_path}: holds another model or size than this run's; give the settings of its config.yaml"
        )


def _check_optimizer(model: pl.LightningModule) -> None:
    """Raise ConfigError where the optimizer refuses its settings, which it would do late."""
    try:
        model.optimizer([torch.nn.Parameter(torch.zeros(1))])  # type: ignore[operator]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.optimizer: {error}") from error


def _prepare_folder(run_dir: Path) -> None:
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{run_dir}: cannot write there ({error.strerror}); give hydra.run.dir=FOLDER"
        ) from error


def _fetch_expert(cfg: DictConfig) -> None:
    """Download an expert named in the catalogue, with a bar; a path stays as it is."""
    if cfg.model.get("expert_checkpoint") is not None:
        with DownloadBar() as bar:
            cfg.model.expert_checkpoint = str(resolve(cfg.model.expert_checkpoint, bar))


@rank_zero_only
def _check_data(data: pl.LightningDataModule) -> None:
    """Report bad data before a model is built; the trainer repeats this on every rank."""
    data.prepare_data()
    data.setup("fit")


@rank_zero_only
def _save_config(cfg: DictConfig, run_dir: Path) -> None:
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))


def _quiet() -> None:
    """Silence Lightning's advice and banners that do not apply here; keep everything else."""
    for text in (
        "does not have many workers",
        "smaller than the logging interval",
        "isinstance.treespec, LeafSpec",
        "in eval mode at the start of training",  # the frozen expert, on purpose
        "your dataloader is not resumable",  # draws are numbered, the sampler goes on where training is
    ):
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    banners = ("Tip:", "`Trainer(", "GPU available", "TPU available", "`weights_only` was not set")
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"pytorch_lightning.{name}").addFilter(
            lambda record: not any(text in record.getMessage() for text in banners)
        )


def main() -> None:
    """Entry point of ``train.py`` and ``lipsync train``."""
    launch("train", train)


if __name__ == "__main__":
    main()
