"""One function over many files: here, in several processes, or on a Ray cluster; a bad file never stops the others.

On Ray (extra `cluster`) a job is a task that is repeated elsewhere when its worker or its node dies. Results come back to
the one process that asked, which alone writes: a death costs the file that was being read, and nothing is half written.
`RAY_ADDRESS=head:6379` (or `auto`) joins a running cluster, whose nodes must see the files under the same path;
without it Ray runs on this machine alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any

import cv2

from ss3d_lib.files import DISK

BACKENDS = ("processes", "ray")
REPEATS = 2  # times that Ray repeats a job whose worker died: a file that kills three is to blame itself
AHEAD = 2  # jobs handed out per core: enough to keep it busy, few enough that a list of millions stays a list
STORE_BYTES = 256 << 20  # Ray's shared memory on this machine: results are rows, frames stay in the worker


def run_jobs(
    function: Callable, jobs: Sequence[tuple], workers: int, backend: str = "processes"
) -> Iterator[tuple[tuple, Any, str]]:
    """Call function(*job) for every job, in `workers` processes here, or on Ray's cores (`workers` of them here).

    Yields (job, result, error) as jobs finish; error is "" when all went well, else the result is None. The first
    element of a job names it in errors. When a process dies, the jobs that were handed out are tried again, each alone, and
    the one that kills its process again is given up with a reason; the others go on. One worker without Ray runs in this process.

    Raises:
        ValueError: an unknown backend. ModuleNotFoundError: Ray is asked for and not installed. OSError: a full disk.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    if backend == "ray":
        return _on_ray(function, jobs, workers)
    if workers <= 1 or len(jobs) <= 1:
        return ((job, *_attempt(function, job)) for job in jobs)
    return _in_processes(function, jobs, workers)


def _in_processes(function: Callable, jobs: Sequence[tuple], workers: int) -> Iterator[tuple[tuple, Any, str]]:
    waiting = iter(jobs)
    while suspects := (yield from _until_a_crash(function, waiting, min(workers, len(jobs)))):
        for job in suspects:
            yield (job, *_alone(function, job))


def _until_a_crash(function: Callable, waiting: Iterator[tuple], workers: int) -> Iterator[tuple[tuple, Any, str]]:
    """Yields (job, result, error) until nothing is waiting or a process dies; returns the jobs that were handed out then."""
    flying, lost = {}, []
    with _pool(workers) as pool:

        def hand_out(count: int) -> None:
            with _unheard():
                for job in islice(waiting, count):
                    try:
                        flying[pool.submit(_attempt, function, job)] = job
                    except BrokenProcessPool:
                        lost.append(job)
                        return

        try:
            hand_out(AHEAD * workers)
            while flying:
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    job = flying.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        lost.append(job)
                        continue
                    if not lost:
                        hand_out(1)
                    yield (job, *result)
        finally:  # after Ctrl-C, what has not begun must not begin
            pool.shutdown(wait=False, cancel_futures=True)
    return lost


def _alone(function: Callable, job: tuple) -> tuple[Any, str]:
    with _pool(1) as pool:
        try:
            return pool.submit(_attempt, function, job).result()
        except BrokenProcessPool:
            return None, _crashed(job)


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawned, because decord does not survive a fork
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_prepare)


@contextmanager
def _unheard() -> Iterator[None]:
    """Ctrl-C is ignored, and so it is by processes that start meanwhile, until `_prepare`: they would greet it with a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _prepare() -> None:
    cv2.setNumThreads(1)  # there is a process on every core
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback of its own


def _attempt(function: Callable, job: tuple) -> tuple[Any, str]:
    try:
        return function(*job), ""
    except OSError as error:
        if error.errno in DISK:
            raise
        return None, _failed(job, error)
    except Exception as error:  # one bad file must not stop the rest: the reason goes into its row
        return None, _failed(job, error)


def _failed(job: tuple, error: BaseException) -> str:
    return f"{job[0]}: {type(error).__name__}: {error}"


def _crashed(job: tuple) -> str:
    return f"{job[0]}: reading it crashed the process; convert it with another program or remove it"


def _on_ray(function: Callable, jobs: Sequence[tuple], workers: int) -> Iterator[tuple[tuple, Any, str]]:
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(**_where(workers))
    try:
        yield from _ray_results(ray, function, iter(jobs))
    finally:
        if ours:
            ray.shutdown()


def _ray_results(ray, function: Callable, waiting: Iterator[tuple]) -> Iterator[tuple[tuple, Any, str]]:
    task = ray.remote(num_cpus=1, max_retries=REPEATS)(ray_attempt)
    shared = ray.put(function)
    ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    flying = {task.remote(shared, job): job for job in islice(waiting, ahead)}
    while flying:
        (done,), _ = ray.wait(list(flying), num_returns=1)
        job = flying.pop(done)
        try:
            result = ray.get(done)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):  # each time
            result = None, _crashed(job)
        except ray.exceptions.RayError as error:  # e.g. a node without this project
            cause = getattr(error, "cause", None)
            if isinstance(cause, OSError):  # of `_attempt`: a full disk
                raise cause from error
            result = None, _failed(job, error)
        flying.update((task.remote(shared, more), more) for more in islice(waiting, 1))
        yield (job, *result)


def ray_attempt(function: Callable, job: tuple) -> tuple[Any, str]:
    """What a Ray task does: the job, with one thread, for there is a task on every core."""
    cv2.setNumThreads(1)
    return _attempt(function, job)


def _ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Ray is not installed: pip install -e '.[cluster]', or leave --backend ray out") from error
    return ray


def _where(workers: int) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if os.environ.get("RAY_ADDRESS"):
        return quiet  # ray.init reads the address itself
    return {"num_cpus": max(1, workers), "include_dashboard": False, "object_store_memory": STORE_BYTES, **quiet}
