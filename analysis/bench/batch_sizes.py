"""How many samples a competitor differentiates at once, where its user would have found the best number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import Problem, micro_batches
from .peers import Plan, fixed_start, level_ground

#: samples that sizes are tried on
TRIED_ON = 256


def processor_seconds(work: Callable[[], Any]) -> float:
    """Of this process, while ``work`` is done."""
    began = time.process_time()
    work()
    return time.process_time() - began


def best_micro_batch(competitor: Any, problem: Problem) -> int:
    """The size whose product takes the fewest seconds a sample, each tried twice."""
    assert problem.samples is not None
    few = Problem(problem.subject, problem.samples.subset(np.arange(min(TRIED_ON, problem.samples.num_samples))))
    sizes = [size for size in micro_batches(problem.samples.num_samples) if size <= TRIED_ON]
    v = fixed_start(problem.size)
    best: dict[int, float] = {}
    with level_ground(problem):
        products = {size: competitor.product(few, Plan(micro_batch=size)) for size in sizes}
        for _ in range(2):
            for size, product in products.items():
                best[size] = min(best.get(size, math.inf), processor_seconds(lambda product=product: product(v)))  # type: ignore[misc]
    return min(best, key=lambda size: best[size])
