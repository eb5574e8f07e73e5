"""Runs a list of independent work items over worker processes, each single-threaded.

Small models are fastest on one thread, and a fixed thread count makes the digits independent of how many workers share the
list. Items are started in order and reported as they finish; a failure does not stop the others, and names its item at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from saddlescope import processors

from ..samples.memory import memory_shared_by

Item = TypeVar("Item")


class WorkError(RuntimeError):
    """Items of a work list failed; what had finished is kept."""


def default_jobs() -> int:
    """One worker per core that this process may use."""
    return processors()


def run_items(work: Callable[[Item], Any], items: Sequence[Item], jobs: int) -> Iterator[Item]:
    """Calls ``work(item)`` for every item, ``jobs`` at a time; yields each item when it is done.

    Args:
        work: a module-level function (it is pickled); its return value is ignored: results go to files.
        items: picklable work items.
        jobs: worker processes, >= 1; with 1 the work is done in this process.

    Raises:
        WorkError: an item raised an error of this suite or of the operating system. (Any other exception is a defect, and
            comes through as it is.)
    """
    failures, folder = [], os.getcwd()
    jobs = max(1, min(jobs, len(items)))
    calls = [(work, index, item, jobs, folder) for index, item in enumerate(items)]
    if jobs == 1:
        done: Iterator[tuple[int, str | None]] = (_attempt(*call) for call in calls)
    else:
        from joblib import Parallel, delayed  # half a second that one process does without

        workers = Parallel(n_jobs=jobs, return_as="generator_unordered", max_nbytes=None)
        done = workers(delayed(_attempt)(*call) for call in calls)
    for index, failure in done:
        if failure is None:
            yield items[index]
        else:
            failures.append(f"{items[index]}: {failure}")
    if failures:
        more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise WorkError(failures[0] + more)


def _attempt(work: Callable[[Item], Any], index: int, item: Item, jobs: int, folder: str) -> tuple[int, str | None]:
    if os.getcwd() != folder:  # a worker kept from an earlier list is still in the folder of that time
        os.chdir(folder)
    try:
        with single_thread(), memory_shared_by(jobs):
            work(item)
    except Exception as error:
        if of_the_work(error):
            return index, str(error)
        raise
    return index, None


def of_the_work(error: Exception) -> bool:
    """Whether an item failed of itself: an error of this suite or of the operating system. Any other one is a defect."""
    return type(error).__module__.split(".")[0] == "saddlescope" or isinstance(error, OSError)


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread for torch inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
