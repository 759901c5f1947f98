"""The processes of one training run: who speaks, how they end together, and their one run folder.

Three ways lead to several processes. ``trainer.devices=4`` makes Lightning start the further ranks itself, as
children of rank 0: this module lets none of them outlive it and lets it tell of their failures. ``torchrun``
and ``srun`` start, watch and end all ranks: here they only agree on a run folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from lipsync.errors import ConfigError
from lipsync.files import write_text

MEETING = "LIPSYNC_RANKS"
"""Environment: where ranks 1.. leave word for rank 0, their parent; ``<its process id>:<folder>``."""
SWEEP = "LIPSYNC_SWEEP"
"""Environment: the process id of the sweep, the parent of rank 0."""
SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

POLL_SECONDS = 0.2
GRACE_SECONDS = 3.0
"""How long a rank that failed waits for rank 0 to fail of the same cause, and to say so itself."""
END_SECONDS = 30.0
"""How long rank 0 waits at the end of a run for the other ranks to end."""

_speaking = threading.Lock()
"""One line at most: held for good by the thread that speaks for another rank and ends the process."""


def needs_several(cfg: DictConfig) -> bool:
    """Whether a command with this configuration may start further ranks."""
    trainer = cfg.get("trainer")
    return trainer is not None and any(str(trainer.get(name, 1)) != "1" for name in ("devices", "num_nodes"))


def rank() -> int:
    """This process among all of the run, before a trainer exists (the names Lightning goes by)."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def launcher() -> str | None:
    """What started this process as one of several: ``torchrun``, ``srun``, ``NODE_RANK``; else None."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning sees it
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and not interactive:
        return "srun"
    if MEETING not in os.environ and ("NODE_RANK" in os.environ or "LOCAL_RANK" in os.environ):
        return "NODE_RANK"
    return None


def shared_run_dir(arguments: Sequence[str], config: Path) -> list[str]:
    """The overrides that give all ranks the same run folder, where each would otherwise read its own clock.

    Args:
        arguments: Hydra's argument list.
        config: The command's configuration file.

    Raises:
        ConfigError: The ranks share nothing that could name a folder, or every one of them would run a sweep.
    """
    name = launcher()
    pattern = "" if name is None else _run_dir_pattern(config)
    if name is None or "${now:" not in pattern:
        return []
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(f"--multirun under {name}: each rank would run the sweep; see docs/multi_gpu.md")
    if any(argument.startswith("hydra.run.dir=") for argument in arguments):
        return []
    stamp = _shared_stamp(name)
    if stamp is None:
        raise ConfigError(f"{name}: give hydra.run.dir=FOLDER, the same for all ranks")
    return [f"hydra.run.dir='{re.sub(r'[$][{]now:[^}]*[}]', stamp, pattern)}'"]


def _shared_stamp(name: str) -> str | None:
    """One name for the run that all its ranks know, also after a restart; None: there is none."""
    if name == "srun" and "SLURM_JOB_ID" in os.environ:
        return f"slurm_{os.environ['SLURM_JOB_ID']}_{os.environ.get('SLURM_STEP_ID', '0')}"
    if name == "torchrun" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore

        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        # The first to ask sets it, every other one gets what is set.
        now = time.strftime("%Y-%m-%d_%H-%M-%S")
        return str(store.compare_set("lipsync/started", "", now).decode())
    return None


class Leader:
    """Rank 0 of ranks that it starts itself: waits for them, ends them, speaks for them.

    Args:
        meeting: Where they leave word, see :func:`follow`.
    """

    def __init__(self, meeting: tempfile.TemporaryDirectory[str]) -> None:
        self.meeting, self.folder = meeting, Path(meeting.name)
        self._done = threading.Event()

    def watch(self) -> None:
        """End this process when another rank fails: it may be waiting for that rank in a collective."""
        while not self._done.wait(POLL_SECONDS):
            failures = sorted(self.folder.glob("failed_*.json"))
            if failures and not self._done.wait(GRACE_SECONDS):
                failure = json.loads(failures[0].read_text(encoding="utf-8"))
                _speaking.acquire()
                _say(failure["line"])
                sys.stdout.flush()
                running = list(filter(_runs, self._processes()))
                self.meeting.cleanup()
                for process in running:
                    os.kill(process, signal.SIGKILL)
                # At once, before the main thread tells of the connections that are lost now.
                os._exit(failure["code"])

    def wait(self) -> None:
        """Wait for the other ranks, which are through as well."""
        deadline = time.monotonic() + END_SECONDS
        while any(map(_runs, self._processes())) and time.monotonic() < deadline:
            time.sleep(0.05)

    def end(self) -> None:
        """End the other ranks at once: without rank 0 they would wait in a collective."""
        self._done.set()
        for process in filter(_runs, self._processes()):
            # Collected here: Lightning's observer would take the signal for a failure and kill this process.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)

    def _processes(self) -> list[int]:
        return [int(path.name.removeprefix("rank_")) for path in self.folder.glob("rank_*")]


@contextlib.contextmanager
def leading(cfg: DictConfig) -> Iterator[None]:
    """Runs a command that may start further ranks; none of them is left when the block ends."""
    if not needs_several(cfg) or MEETING in os.environ or launcher() in ("torchrun", "srun"):
        yield
        return
    before = {name: os.environ.get(name) for name in SET_BY_LIGHTNING}
    meeting = tempfile.TemporaryDirectory(prefix="lipsync_ranks_")
    with meeting as folder:
        os.environ[MEETING] = f"{os.getpid()}:{folder}"
        leader = Leader(meeting)
        threading.Thread(target=leader.watch, name="ranks", daemon=True).start()
        try:
            yield
            _leave_group()
            leader.wait()
        finally:
            leader.end()
            del os.environ[MEETING]
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _leave_group() -> None:
    """NCCL ends its communicators together: a rank that only waits for the others would keep them waiting."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def follow() -> None:
    """End when the process ends that started this one; ranks 1.. also leave Ctrl-C to rank 0.

    A parent ends its children itself; this is for when it cannot, having been killed.
    """
    if _is_follower():
        leader, folder = _meeting()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with contextlib.suppress(FileNotFoundError):  # rank 0 is gone
            (folder / f"rank_{os.getpid()}").touch()
        _end_with(leader)
    elif SWEEP in os.environ:
        _end_with(int(os.environ.pop(SWEEP)))


def stop(line: str, code: int, *, spoken: bool = False) -> NoReturn:
    """Say once, for all ranks, why the run fails, and end this process.

    Args:
        line: Why.
        code: The exit code.
        spoken: This rank has said it already (a traceback), or has nothing to add to rank 0.
    """
    number = rank()
    if _is_follower():
        leader, folder = _meeting()
        words = "failed, see above" if spoken else line
        report = json.dumps({"line": f"rank {number}: {words}", "code": code})
        with contextlib.suppress(FileNotFoundError):
            write_text(folder / f"failed_{number}.json", report)
        # The connections stay open, or rank 0 would fail of their loss before it reads this.
        _wait_for_end(leader)
    elif number and not spoken:
        time.sleep(GRACE_SECONDS)  # what rank 0 failed of too, it says; its launcher then ends this one
        _say(f"rank {number}: {line}")
    elif not spoken:
        with _speaking:
            _say(line)
    raise SystemExit(code) from None


def _say(line: str) -> None:
    print("lipsync: " + " ".join(line.split()), file=sys.stderr, flush=True)


def _is_follower() -> bool:
    return MEETING in os.environ and int(os.environ.get("LOCAL_RANK", "0")) > 0


def _meeting() -> tuple[int, Path]:
    process, _, folder = os.environ[MEETING].partition(":")
    return int(process), Path(folder)


def _end_with(parent: int) -> None:
    def watch() -> None:
        _wait_for_end(parent)
        time.sleep(GRACE_SECONDS)  # it may be through, and this rank about to be
        os._exit(1)

    threading.Thread(target=watch, name="follow", daemon=True).start()


def _wait_for_end(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)


def _runs(process: int) -> bool:
    """Whether a child of this process still runs; its exit code is left for whoever started it."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:  # collected already
        return False


def _run_dir_pattern(config: Path) -> str:
    """``hydra.run.dir`` as the configuration has it, before anything is resolved."""
    (group,) = (entry["hydra"] for entry in OmegaConf.load(config).defaults if "hydra" in entry)
    settings = OmegaConf.load(config.parent / "hydra" / f"{group}.yaml")
    return str(OmegaConf.to_container(settings)["run"]["dir"])  # type: ignore[call-overload,index]
