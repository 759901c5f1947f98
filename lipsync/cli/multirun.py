"""Jobs of a Hydra sweep that train with several processes.

Lightning starts further ranks by repeating the command line. In a sweep that is the command line of the whole
sweep: every rank would run all of it, and where a sampler draws the values, train on values of its own. So
such a job becomes a run of its own, of the values composed for it. No state goes from one job to the next
(process group, environment, device memory), and a job that fails does not end the sweep.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lipsync.cli.flags import quote
from lipsync.cli.ranks import SWEEP, launcher, needs_several
from lipsync.files import write_text

INTERRUPTED = 130


class JobFailedError(Exception):
    """A job failed and has said why.

    Args:
        code: Its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def is_multirun() -> bool:
    """Whether this is one job of a Hydra sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def needs_own_process(cfg: DictConfig) -> bool:
    """Whether this is a job of a sweep whose ranks Lightning will start (srun has started them already)."""
    return is_multirun() and needs_several(cfg) and launcher() is None


def run_job(config_name: str, cfg: DictConfig) -> None:
    """Run one job of a sweep as ``python -m lipsync.cli.<config_name>`` on its composed values.

    Interpolations (the time, the number of the job) are resolved here, so that all ranks get the same values.

    Raises:
        JobFailedError: It ended with another exit code than 0; it has said why.
        KeyboardInterrupt: It, or this process, was interrupted.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    written = folder / ".hydra" / "job.yaml"
    written.parent.mkdir(parents=True, exist_ok=True)
    write_text(written, OmegaConf.to_yaml(cfg, resolve=True))
    command = [
        *(sys.executable, "-m", f"lipsync.cli.{config_name}"),
        *(f"--config-path={written.parent}", f"--config-name={written.stem}"),
        *(f"hydra.run.dir={quote(str(folder))}", "hydra.output_subdir=null", "hydra/job_logging=stdout"),
    ]
    root = str(Path(__file__).resolve().parents[2])
    paths = filter(None, (root, os.environ.get("PYTHONPATH")))
    # A process group of its own: Ctrl-C in the terminal comes once, from here.
    job = subprocess.Popen(  # noqa: S603 - our own command
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), SWEEP: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        code = job.wait()
    except KeyboardInterrupt:
        job.send_signal(signal.SIGINT)
        job.wait()
        raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise JobFailedError(code if code > 0 else 128 - code)
