"""Where jobs run: in this process or in worker processes of this machine.

An engine is any callable that maps a picklable task over jobs and yields results as they come, in any order;
a cluster scheduler plugs in by the same signature.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

import cv2
import torch

from lipsync.errors import ConfigError, UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_QUEUED_PER_WORKER = 3


class Engine(Protocol):
    """Maps a task over jobs; results come as they are finished."""

    def __call__(self, task: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Yield ``task(job)`` for every job."""


class WorkerError(UserError):
    """A worker process died (killed, out of memory, crashed in native code)."""


class LocalEngine:
    """Runs jobs here (``workers`` 0 or 1) or in fresh processes of one thread each.

    The task is sent to each process once and stays there, so what it caches (a detector) is built once.

    Args:
        workers: Number of processes.

    Raises:
        ConfigError: ``workers`` is negative.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 0:
            raise ConfigError(f"workers={workers}: give a whole number of at least 0")
        self.workers = workers

    def __call__(self, task: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Yield ``task(job)`` for every job, in order in this process, as finished otherwise.

        Leaving early (an error, Ctrl-C, a closed generator) ends the processes at once.

        Raises:
            WorkerError: A process died; which job was at fault is not known.
        """
        workers = min(self.workers, len(jobs))
        if workers <= 1:
            yield from map(task, jobs)
            return
        before = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(task,)
        )
        try:
            yield from _stream(pool, jobs, workers)
        except BrokenProcessPool as error:
            raise WorkerError(
                f"a worker process died (out of memory or killed) with workers={self.workers}; "
                "finished work is kept: run again with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
                while process.is_alive():  # the pool's own thread may reap it, unseen by a single join
                    process.join(timeout=0.1)


def _stream(pool: ProcessPoolExecutor, jobs: Sequence[Job], workers: int) -> Iterator[Any]:
    """Keep a short queue, so that a list of a million jobs costs no memory."""
    waiting = iter(jobs)
    with _one_thread():  # inherited by the processes, which start with the first jobs
        running: set[Future[Any]] = {
            pool.submit(_run, job) for job in islice(waiting, workers * _QUEUED_PER_WORKER)
        }
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {pool.submit(_run, job) for job in islice(waiting, len(done))}
        for future in done:
            yield future.result()


@contextmanager
def _one_thread() -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_worker_task: Callable[[Any], Any] | None = None  # set once in each worker process


def _start_worker(task: Callable[[Any], Any]) -> None:
    global _worker_task  # noqa: PLW0603 - the executor offers no other place for per-process state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _worker_task = task


def _run(job: Any) -> Any:
    if _worker_task is None:
        raise RuntimeError("worker process was started without a task")
    return _worker_task(job)
