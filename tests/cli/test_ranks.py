"""Who started this process, where it writes, and how ranks end together: without a training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment, gone, lines

from lipsync.cli import ranks
from lipsync.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
PATTERN = "${paths.log_dir}/${task}/${hydra:runtime.choices.model}/"

LEADER = """
import os, subprocess, sys, time
from omegaconf import OmegaConf
from lipsync.cli import ranks
mode = sys.argv[1]
ranks.follow()
if os.environ.get("LOCAL_RANK"):
    if mode in ("follower_fails", "both_fail"):
        ranks.stop("no such clip", 2)
    time.sleep(60)
with ranks.leading(OmegaConf.create({"trainer": {"devices": 2}})):
    child = subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "LOCAL_RANK": "1"})
    folder = ranks.Path(os.environ[ranks.MEETING].partition(":")[2])
    while not list(folder.glob("rank_*")):
        time.sleep(0.02)
    print(child.pid, flush=True)
    if mode == "follower_fails" or mode == "leader_is_killed":
        time.sleep(60)
    if mode == "both_fail":
        time.sleep(0.5)
        ranks.stop("no such clip", 2)
    raise KeyError("a bug")
"""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher in the environment."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "0"}, "torchrun"),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, "srun"),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, None),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, None),
        ({"NODE_RANK": "1", "MASTER_ADDR": "first"}, "NODE_RANK"),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1", ranks.MEETING: "1:/nowhere"}, None),
    ],
)
def test_who_started_this_process(
    variables: dict[str, str], expected: str | None, alone: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        alone.setenv(name, value)
    assert ranks.launcher() == expected


TRAIN = REPOSITORY / "configs" / "train.yaml"


def test_tasks_of_slurm_share_a_folder_that_a_requeued_job_finds_again(alone: pytest.MonkeyPatch) -> None:
    for name, value in {"NTASKS": "2", "JOB_ID": "77", "STEP_ID": "1", "JOB_NAME": "train"}.items():
        alone.setenv(f"SLURM_{name}", value)
    assert ranks.shared_run_dir([], TRAIN) == [f"hydra.run.dir='{PATTERN}slurm_77_1'"]
    assert ranks.shared_run_dir(["hydra.run.dir=here"], TRAIN) == []
    assert ranks.shared_run_dir([], TRAIN.with_name("infer.yaml")) == []


def test_ranks_of_torchrun_agree_on_a_folder(alone: pytest.MonkeyPatch) -> None:
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    alone.setenv("TORCHELASTIC_RUN_ID", "none")
    alone.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    alone.setenv("MASTER_ADDR", "127.0.0.1")
    alone.setenv("MASTER_PORT", str(store.port))
    clocks = iter(["first", "second"])
    alone.setattr(ranks.time, "strftime", lambda _: next(clocks))
    asked = [ranks.shared_run_dir([], TRAIN) for _ in range(2)]
    assert asked == [[f"hydra.run.dir='{PATTERN}first'"]] * 2


def test_nodes_that_share_nothing_need_a_folder_and_no_rank_runs_a_sweep(alone: pytest.MonkeyPatch) -> None:
    assert ranks.shared_run_dir(["-m"], TRAIN) == [], "a plain sweep"
    alone.setenv("NODE_RANK", "0")
    with pytest.raises(ConfigError, match=r"NODE_RANK: give hydra\.run\.dir=FOLDER"):
        ranks.shared_run_dir([], TRAIN)
    with pytest.raises(ConfigError, match="each rank would run the sweep"):
        ranks.shared_run_dir(["-m", "hydra.run.dir=here"], TRAIN)


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("follower_fails", 2, ["lipsync: rank 1: no such clip"]),
        ("both_fail", 2, ["lipsync: no such clip"]),
        ("leader_has_a_bug", 1, []),
        ("leader_is_killed", -signal.SIGKILL, []),
    ],
)
def test_ranks_end_together_and_say_it_once(mode: str, code: int, said: list[str], tmp_path: Path) -> None:
    script = tmp_path / "leader.py"
    script.write_text(LEADER, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), mode],
        env=environment(TMPDIR=str(tmp_path), PYTHONPATH=str(REPOSITORY)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    follower = int(process.stdout.readline())
    if mode == "leader_is_killed":
        process.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert lines(err) == said
    assert ("KeyError: 'a bug'" in err) == (mode == "leader_has_a_bug")
    assert gone(follower)
    left = [path.name for path in tmp_path.glob("lipsync_ranks_*")]
    assert bool(left) == (mode == "leader_is_killed"), "only a killed process leaves its folder"
