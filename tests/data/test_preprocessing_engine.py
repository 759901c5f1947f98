"""Jobs in this process and in workers."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from lipsync.data.preprocessing import LocalEngine, WorkerError


def test_engine_gives_every_result_once_from_workers_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "NOT_SET_AT_ALL"] * 10
    values = list(LocalEngine(2)(os.getenv, jobs))
    assert (values.count("1"), values.count(None)) == (20, 10)
    assert "OMP_NUM_THREADS" not in os.environ


def test_engine_without_workers_stays_in_this_process() -> None:
    assert list(LocalEngine(0)(lambda job: (job, os.getpid()), [3, 1])) == [
        (3, os.getpid()),
        (1, os.getpid()),
    ]


def test_a_dying_worker_is_reported() -> None:
    with pytest.raises(WorkerError, match="run again with fewer workers"):
        list(LocalEngine(2)(os._exit, [1, 1, 1]))
    assert multiprocessing.active_children() == []


def test_leaving_the_engine_ends_its_processes_at_once() -> None:
    results = LocalEngine(2)(time.sleep, [0, 300, 300])
    next(results)
    start = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 10
    assert multiprocessing.active_children() == []
