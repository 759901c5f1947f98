"""What all commands share: composing the configuration, error lines, exit codes, seeding.

Exit codes: 0 done, 2 the user's input (one line on stderr), 130 interrupted, 1 a bug (traceback).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipsync.cli import multirun, ranks
from lipsync.cli.flags import to_overrides
from lipsync.errors import ConfigError, UserError

EXIT_USER, EXIT_INTERRUPTED = 2, 130


def config_dir() -> Path:
    """``configs/``: beside the package in a clone, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parent / "configs"):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"no configs folder beside or inside {package}; reinstall lipsync")


def launch(config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Compose ``configs/<config_name>.yaml`` with the command line and run ``task`` on it.

    Never returns normally on a failure: the process ends with the exit codes above.
    """
    # Hydra would print its own abridged traceback; we want the exception itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    ranks.follow()

    failures: list[BaseException] = []

    def checked(cfg: DictConfig) -> None:
        try:
            require_values(cfg)
            if multirun.needs_own_process(cfg):
                multirun.run_job(config_name, cfg)
                return
            with ranks.leading(cfg):
                task(cfg)
        except Exception as error:
            if multirun.is_multirun():
                raise
            # Raised again outside of Hydra, which would print a line of its own first.
            failures.append(error)

    try:
        sys.argv[1:] = _arguments(config_name)
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(checked)()
        if failures:
            raise failures[0]
    except KeyboardInterrupt:
        ranks.stop("interrupted; finished work is kept", EXIT_INTERRUPTED, spoken=ranks.rank() > 0)
    except multirun.JobFailedError as error:
        raise SystemExit(error.code) from None
    except Exception as error:
        _fail(error, in_task=bool(failures) or multirun.is_multirun())


def _arguments(config_name: str) -> list[str]:
    """Hydra's argument list: what the user typed, and one run folder for ranks that were started apart."""
    arguments = to_overrides(sys.argv[1:])
    return arguments + ranks.shared_run_dir(arguments, config_dir() / f"{config_name}.yaml")


def _fail(error: Exception, *, in_task: bool) -> None:
    """End the process with the line for ``error``, or raise it where it is no fault of the user's."""
    try:
        line = _line(error, in_task=in_task)
    except Exception:
        if ranks.rank() == 0:
            raise
        traceback.print_exc()
        ranks.stop("", 1, spoken=True)
    ranks.stop(line, EXIT_USER)


def require_values(cfg: DictConfig) -> None:
    """Raise ConfigError naming every mandatory setting (``???``) that was not given."""
    missing = sorted(_missing(cfg))
    if missing:
        example = " ".join(f"{key}=..." for key in missing)
        raise ConfigError(f"missing: {', '.join(missing)}; give {example}")


def _missing(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of mandatory values below ``node``.

    Unlike ``OmegaConf.missing_keys`` it does not follow interpolations, which fail on a missing target.
    """
    for key in map(str, node):
        if OmegaConf.is_missing(node, key):
            yield f"{prefix}{key}"
        elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            yield from _missing(node[key], f"{prefix}{key}.")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch for this process and its workers.

    Raises:
        ConfigError: ``seed`` is no whole number that NumPy accepts.
    """
    import pytorch_lightning as pl

    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed}: give a whole number from 0 to {2**32 - 1}")
    pl.seed_everything(seed, workers=True, verbose=False)


def _line(error: Exception, *, in_task: bool) -> str:
    """The line for what the user can mend; everything else is raised again."""
    if isinstance(error, InstantiationException):
        return _construction_line(error)
    if isinstance(error, UserError | HydraException | OmegaConfBaseException):
        return str(error)
    if isinstance(error, OSError) and not in_task:  # Hydra could not make the run folder
        return f"{error.filename}: cannot write there ({error.strerror}); give hydra.run.dir=FOLDER"
    raise error


def _construction_line(error: InstantiationException) -> str:
    """The line for an object that could not be built; re-raises what is not the user's doing."""
    cause = error.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    if cause is None or isinstance(cause, TypeError | ValueError | ImportError | AttributeError):
        return str(error)
    # Lightning on a trainer that cannot be (no GPU, for one); by name, so that only training loads Lightning.
    if type(cause).__name__ == "MisconfigurationException":
        return f"trainer: {cause}"
    raise cause
