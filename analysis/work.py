"""Runs a list of independent work items over worker processes, each single-threaded.

Small models are fastest on one thread, and a fixed thread count makes the digits independent of how many workers share the
list. Items are started in order and reported as they finish; the first failure stops the list and names its item.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any, TypeVar

Item = TypeVar("Item")


class WorkError(RuntimeError):
    """An item of a work list failed; what had finished before is kept."""


def default_jobs() -> int:
    """One worker per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _single_thread() -> None:
    import torch

    torch.set_num_threads(1)


def run_items(work: Callable[[Item], Any], items: Sequence[Item], jobs: int) -> Iterator[Item]:
    """Calls ``work(item)`` for every item, ``jobs`` at a time; yields each item when it is done.

    Args:
        work: a module-level function (it is pickled); its return value is ignored: results go to files.
        items: picklable work items.
        jobs: worker processes, >= 1. Fresh interpreters (spawn), so that nothing is inherited from this one.

    Raises:
        WorkError: an item raised; items not yet started are dropped.
    """
    if not items:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(jobs, len(items)), mp_context=context, initializer=_single_thread) as pool:
        running = {pool.submit(work, item): item for item in items}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    item = running.pop(future)
                    try:
                        future.result()
                    except Exception as error:
                        raise WorkError(f"{item}: {error}") from error
                    yield item
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
