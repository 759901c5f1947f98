"""``python train.py model=syncnet|wav2lip|wav2lip_hq data.root=FOLDER [key=value ...]``."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from lipsync.checkpoints.progress import DownloadBar
from lipsync.checkpoints.store import resolve
from lipsync.cli.app import EXIT_INTERRUPTED, launch, seed_everything
from lipsync.cli.values import require
from lipsync.errors import CheckpointError, ConfigError
from lipsync.files import write_text
from lipsync.training.checkpointing import AtomicCheckpointIO, ExactResume, read_last, read_training_state


def train(cfg: DictConfig) -> None:
    """Build data, model and trainer from the configuration, and fit."""
    _quiet()
    require(cfg, "data.root")
    if cfg.trainer.val_check_interval == 0:
        raise ConfigError("trainer.val_check_interval=0: give a number of steps, or null for once an epoch")
    seed_everything(cfg.seed)
    run_dir = Path(cfg.paths.output_dir)
    _prepare_folder(run_dir)
    ckpt_path, state = _resume_from(cfg)
    data: pl.LightningDataModule = instantiate(cfg.data)
    _check_data(data)
    _fetch_weights(cfg)
    model: pl.LightningModule = instantiate(cfg.model, _convert_="all")
    _check_optimizer(model)
    _check_same_model(ckpt_path, state, model)
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        callbacks=[ExactResume(cfg.seed), *_listed(cfg.callbacks)],
        logger=_listed(cfg.logger),
        plugins=[AtomicCheckpointIO(ckpt_path, state)],
        _convert_="all",
    )
    state = None  # the trainer frees it once it is restored
    _save_config(cfg, run_dir)
    _say_scale(data, model, trainer, run_dir)
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


def _resume_from(cfg: DictConfig) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to go on from and what it holds; ``last`` means the one of this run folder."""
    if cfg.ckpt_path is None:
        return None, None
    if cfg.ckpt_path != "last":
        path = Path(cfg.ckpt_path)
        return path, read_training_state(path)
    folder = Path(cfg.paths.output_dir) / "checkpoints"
    path, state = read_last(folder)
    if path.name != "last.ckpt":
        _warn(
            f"{folder / 'last.ckpt'} is missing or damaged; going on from {path}, step {state['global_step']}"
        )
    return path, state


@rank_zero_only
def _warn(message: str) -> None:
    print(f"lipsync: warning: {message}", file=sys.stderr)


def _check_same_model(path: Path | None, state: dict[str, Any] | None, model: pl.LightningModule) -> None:
    """Raise CheckpointError where a run of another model or size would be resumed."""
    if state is None:
        return
    checkpoint = {**state, "state_dict": dict(state["state_dict"])}
    model.on_load_checkpoint(checkpoint)
    saved = {key: value.shape for key, value in checkpoint["state_dict"].items()}
    if saved != {key: value.shape for key, value in model.state_dict().items()}:
        raise CheckpointError(
            f"{path}: holds another model or size than this run's; give the settings of its config.yaml"
        )


def _say_scale(data: Any, model: Any, trainer: pl.Trainer, run_dir: Path) -> None:
    """The batch that counts for the learning rate, and what the module says of that."""
    processes, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    batch = data.batch_size * processes * accumulated
    rank_zero_info(
        f"global batch: {data.batch_size} windows x {processes} processes x {accumulated} = {batch}; "
        f"run folder: {run_dir}"
    )
    if hasattr(model, "lr_note"):
        rank_zero_info(model.lr_note(batch))


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


def _fetch_weights(cfg: DictConfig) -> None:
    """Download weights named in the catalogue, with a bar; paths stay as they are."""
    for key in ("expert_checkpoint", "judge_checkpoint", "init_checkpoint"):
        named = cfg.model.get(key)
        if named is None:
            continue
        with DownloadBar() as bar:
            if isinstance(named, str):
                cfg.model[key] = str(resolve(named, bar))
            else:
                cfg.model[key] = [str(resolve(name, bar)) for name in named]


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
        "Checkpoint directory .* exists and is not empty",  # a resumed run's
        "The dirpath has changed from",  # only matters to a best score, which is BestCheckpoint's business
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
