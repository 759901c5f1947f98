"""The console command: ``lipsync train ...`` replaces itself by ``python -m lipsync.cli.train ...``.

Re-executing (instead of calling the command in this process) keeps Lightning's DDP relaunch
intact, which starts every further rank as ``python -m <main module> <same arguments>``.
"""

import os
import sys

COMMANDS = ("preprocess", "train", "evaluate", "infer")


def main() -> None:
    """Dispatch ``lipsync COMMAND ...``; exit code 2 for an unknown command."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("--version", "-V"):
        from lipsync import __version__

        sys.stdout.write(f"lipsync {__version__}\n")
        return
    if name not in COMMANDS:
        known = name in ("", "-h", "--help")
        stream = sys.stdout if known and name else sys.stderr
        stream.write(f"usage: lipsync {{{'|'.join(COMMANDS)}}} [key=value ...]   (lipsync COMMAND --help)\n")
        raise SystemExit(0 if known and name else 2)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"lipsync.cli.{name}", *sys.argv[2:]])  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
