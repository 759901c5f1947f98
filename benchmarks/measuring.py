"""What benchmarks share: processes of their own, CPU time, peak memory (Linux only), and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lipsync.errors import UserError

Result = TypeVar("Result")


def reported(measure: Callable[[], Result], table: Callable[[Result], str], file: Path | None = None) -> int:
    """Measure, print the table, write the figures to ``file`` as JSON if one is named; the exit code."""
    try:
        result = measure()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(result))
    if file is not None:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def memory(kind: str) -> float:
    """Resident set of this process in MB: ``VmRSS``, now, or ``VmHWM``, the largest so far.

    Not ``ru_maxrss``: that begins with the resident set of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def forget_peak() -> None:
    """Let ``VmHWM`` begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def in_a_process(script: str, job: Sequence[Any]) -> dict[str, Any]:
    """Run ``script --job JOB`` and read the figures from the last line that it prints, as JSON."""
    command = [sys.executable, str(Path(script).resolve()), "--job", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - itself
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
