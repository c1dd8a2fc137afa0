"""One function over many files in several processes; a file that fails or crashes never stops the others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2


def run_jobs(function: Callable, jobs: Sequence[tuple], workers: int) -> Iterator[tuple[tuple, Any, str]]:
    """Call function(*job) for every job in spawned processes (decord does not survive a fork).

    Yields (job, result, error) as jobs finish; error is "" when all went well, else the result is None. The first
    element of a job names it in errors. A job that kills its process is tried once more alone, and then given up
    with a reason; the others go on.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from ((job, *_attempt(function, job)) for job in jobs)
        return
    waiting = dict(enumerate(jobs))
    with _pool(min(workers, len(jobs))) as pool:
        futures = {pool.submit(_attempt, function, job): i for i, job in waiting.items()}
        for future in as_completed(futures):
            try:
                result = future.result()
            except BrokenProcessPool:
                continue
            yield (waiting.pop(futures[future]), *result)
    for job in waiting.values():
        with _pool(1) as pool:
            try:
                result = pool.submit(_attempt, function, job).result()
            except BrokenProcessPool:
                result = None, f"{job[0]}: reading it crashed the process; convert it with another program or remove it"
        yield (job, *result)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))


def _attempt(function: Callable, job: tuple) -> tuple[Any, str]:
    try:
        return function(*job), ""
    except Exception as error:  # one bad file must not stop the rest: the reason goes into its row
        return None, f"{job[0]}: {type(error).__name__}: {error}"
