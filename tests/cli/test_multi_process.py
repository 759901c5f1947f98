"""Several processes: sweeps, torchrun, nodes, SLURM; equal values and weights, one line, nobody left."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from processes import environment, gone, lines, working_on

REPOSITORY = Path(__file__).resolve().parents[2]
Tiny = Callable[..., list[str]]
Start = Callable[..., subprocess.Popen[str]]

PROBE = '''
import hashlib, json, os
from pathlib import Path
from pytorch_lightning.callbacks import Callback
import torch
from lipsync.errors import DataError

class Probe(Callback):
    """Writes what this rank trained with to ``<folder>/rank<n>.json``."""
    def __init__(self, folder, fail_on=None):
        self.folder, self.fail_on, self.draws = Path(folder), fail_on, []
    def on_train_batch_start(self, trainer, module, batch, index):
        self.draws.append(sum(float(x.double().sum()) for x in batch if isinstance(x, torch.Tensor)))
        (self.folder / f"started{trainer.global_rank}").write_text(str(os.getpid()))
        if trainer.global_rank == self.fail_on:
            raise DataError("clip.jpg: damaged")
    def on_train_end(self, trainer, module):
        digest = hashlib.sha256()
        for value in module.parameters():
            digest.update(value.detach().numpy().tobytes())
        group = trainer.optimizers[0].param_groups[0]
        said = {"rank": trainer.global_rank, "world": trainer.world_size, "step": trainer.global_step,
                "lr": group.get("initial_lr", group["lr"]), "draws": self.draws,
                "weights": digest.hexdigest()}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(said))
'''


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(*arguments, launcher=[...], env={})``: a training that has a probe; ended with the test."""
    (tmp_path / "rank_probe.py").write_text(PROBE, encoding="utf-8")
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: str, launcher: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, *launcher, "train.py", *arguments],
            cwd=REPOSITORY,
            env=environment(PYTHONPATH=path, TMPDIR=str(tmp_path), **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def probed(arguments: list[str], **settings: object) -> list[str]:
    return [
        *arguments,
        "+callbacks.probe._target_=rank_probe.Probe",
        "+callbacks.probe.folder=${paths.output_dir}",
        *(f"+callbacks.probe.{name}={value}" for name, value in settings.items()),
    ]


def without_folder(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if not argument.startswith("hydra.run.dir=")]


def finished(*processes: subprocess.Popen[str]) -> str:
    """Wait for processes that must succeed; what they said."""
    said = ""
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "Traceback" not in err
        said += out + err
    return said


def assert_two_ranks(folder: Path, lr: float | None = None) -> None:
    """Two ranks trained on different draws to the same weights, and one run folder tells of it."""
    first, second = (json.loads((folder / f"rank{n}.json").read_text()) for n in (0, 1))
    for name in ("world", "step", "lr", "weights"):
        assert first[name] == second[name], name
    assert first["world"] == 2
    assert lr is None or first["lr"] == lr
    assert len(first["draws"]) == len(second["draws"]) == first["step"] == 2
    assert not set(first["draws"]) & set(second["draws"])
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert sum(bool(row["train/sync"]) for row in csv.DictReader(file)) == 2
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert OmegaConf.load(folder / "config.yaml").paths.output_dir == str(folder)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_all_ranks_of_a_job_of_a_sweep_train_with_its_values(
    start: Start, tiny: Tiny, tmp_path: Path
) -> None:
    sweep = tmp_path / "a sweep, it's = one"
    arguments = probed(without_folder(tiny("syncnet", tmp_path)))
    process = start(
        *("--multirun", f'hydra.sweep.dir="{sweep}"', "trainer.devices=2"),
        *(*arguments, "model.optimizer.lr=1e-3,2e-3"),
    )
    finished(process)
    for job, lr in enumerate((1e-3, 2e-3)):
        assert_two_ranks(sweep / str(job), lr)
    assert gone(*working_on(sweep))


@pytest.mark.slow
def test_a_job_that_fails_says_why_once_and_the_sweep_goes_on(
    start: Start, tiny: Tiny, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"
    arguments = probed(without_folder(tiny("syncnet", tmp_path)))
    process = start(
        *("-m", f"hydra.sweep.dir={sweep}", "trainer.devices=2", *arguments, "model.optimizer.lr=-1,1e-3")
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    (line,) = lines(err)
    assert "model.optimizer" in line
    assert "Traceback" not in err
    assert_two_ranks(sweep / "1", 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [False, True])
def test_ctrl_c_ends_all_ranks(*, sweep: bool, start: Start, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = probed(tiny("syncnet", folder, "trainer.max_steps=100000", "trainer.devices=2"))
    if sweep:
        arguments = ["-m", f"hydra.sweep.dir={folder}", *without_folder(arguments), "seed=1,2"]
    process = start(*arguments)
    marks = [(folder / "0" if sweep else folder) / f"started{rank}" for rank in (0, 1)]
    await_files(process, *marks)
    trainers = [int(mark.read_text()) for mark in marks]
    # As a terminal does it: everything in the foreground gets it.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err, err
    assert gone(*trainers)
    assert not (folder / "1").exists(), "the sweep is over"


@pytest.mark.slow
def test_a_rank_that_fails_alone_ends_the_run(start: Start, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(*probed(tiny("syncnet", folder, "trainer.devices=2"), fail_on=1))
    _, err = process.communicate(timeout=300)
    assert (process.returncode, lines(err)) == (2, ["lipsync: rank 1: clip.jpg: damaged"]), err
    assert "Traceback" not in err
    assert gone(*working_on(folder))


@pytest.mark.slow
def test_nobody_survives_a_killed_rank_0(start: Start, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(*probed(tiny("syncnet", folder, "trainer.max_steps=100000", "trainer.devices=2")))
    await_files(process, folder / "started0", folder / "started1")
    other = int((folder / "started1").read_text())
    process.kill()
    process.communicate(timeout=60)
    assert gone(other)


@pytest.mark.slow
def test_missing_data_is_one_line_of_two_processes(start: Start, tiny: Tiny, tmp_path: Path) -> None:
    arguments = tiny("syncnet", tmp_path / "run", "trainer.devices=2", f"data.root={tmp_path / 'gone'}")
    process = start(*arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert err.splitlines() == lines(err)
    assert len(lines(err)) == 1
    assert gone(*working_on(tmp_path / "run"))


TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")


@pytest.mark.slow
def test_torchrun_has_one_run_folder(start: Start, tiny: Tiny, tmp_path: Path) -> None:
    arguments = probed(without_folder(tiny("syncnet", tmp_path, f"paths.log_dir={tmp_path / 'logs'}")))
    finished(start(*arguments, "trainer.devices=2", launcher=TORCHRUN))
    (folder,) = (tmp_path / "logs" / "train" / "syncnet").iterdir()
    assert_two_ranks(folder)


@pytest.mark.slow
def test_two_nodes_of_one_process(start: Start, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = probed(tiny("syncnet", folder, "trainer.num_nodes=2"))
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    finished(*(start(*arguments, NODE_RANK=str(node), **where) for node in (0, 1)))
    assert_two_ranks(folder)


@pytest.mark.slow
def test_two_nodes_without_a_shared_folder_are_refused(start: Start, tiny: Tiny, tmp_path: Path) -> None:
    process = start(*without_folder(tiny("syncnet", tmp_path)), NODE_RANK="0", MASTER_ADDR="127.0.0.1")
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err.splitlines()) == (
        2,
        ["lipsync: NODE_RANK: give hydra.run.dir=FOLDER, the same for all ranks"],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "tasks"), [(1, 2), (2, 1)])
def test_slurm(nodes: int, tasks: int, start: Start, tiny: Tiny, tmp_path: Path) -> None:
    arguments = without_folder(tiny("syncnet", tmp_path, f"paths.log_dir={tmp_path / 'logs'}"))
    settings = [f"trainer.num_nodes={nodes}", f"trainer.devices={tasks}"]
    job = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": str(tasks),
        "SLURM_NNODES": str(nodes),
        "SLURM_NODELIST": "localhost",
        "MASTER_PORT": free_port(),
    }
    finished(
        *(
            start(
                *probed(arguments),
                *settings,
                **job,
                SLURM_PROCID=str(task),
                SLURM_LOCALID=str(task % tasks),
                SLURM_NODEID=str(task // tasks),
            )
            for task in (0, 1)
        )
    )
    assert_two_ranks(tmp_path / "logs" / "train" / "syncnet" / "slurm_4711_0")


@pytest.mark.slow
def test_submitit_runs_a_sweep_in_processes_of_its_own(start: Start, tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install lipsync[slurm]")
    sweep = tmp_path / "sweep"
    arguments = probed(without_folder(tiny("syncnet", tmp_path)))
    process = start(
        *("-m", "hydra/launcher=submitit_local", f"hydra.sweep.dir={sweep}"),
        *(*arguments, "trainer.devices=2", "model.optimizer.lr=1e-3,2e-3"),
    )
    finished(process)
    for job, lr in enumerate((1e-3, 2e-3)):
        assert_two_ranks(sweep / str(job), lr)


def await_files(process: subprocess.Popen[Any], *paths: Path) -> None:
    deadline = time.monotonic() + 240
    while not all(path.is_file() for path in paths):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
