"""Processes that tests start and look for."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lipsync.cli import ranks


def environment(**extra: str) -> dict[str, str]:
    """This process's without what another launcher may have left in it."""
    foreign = ("SLURM_", "LIPSYNC_RANKS", "LIPSYNC_SWEEP", "TORCHELASTIC_", *ranks.SET_BY_LIGHTNING, "RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "OMP_NUM_THREADS": "1", **extra}


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(*pids: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(runs, pids))


def working_on(folder: Path) -> list[int]:
    """The processes that name ``folder`` on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid in found if runs(pid)]


def lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("lipsync: ")]
