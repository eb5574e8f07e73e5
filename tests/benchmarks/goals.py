"""What the goals of an analysis cost: steps and time for everything, for the ends alone, and for a verdict.

    python tests/benchmarks/goals.py CHECKPOINT... [--data-root DATA] [--most 1000] [--seeds 3] [--threads 2]

For head and tail of each checkpoint that saddlescope trained (``all`` is left out). Ends to 1 %, as peers are asked in the
bench; their error is measured against the spectrum, which is converged to 0.1 %.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from saddlescope.analysis.checkpoints.analysis_inputs import open_checkpoint
from saddlescope.analysis.checkpoints.checkpoint_flags import Given
from saddlescope.analysis.hessian.low_precision import rough_if_faster
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.hessian.sample_parts import part_of
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.measures.extremes import measure_ends
from saddlescope.analysis.samples.groups import group_indices, make_scheme


def main() -> None:
    """Prints a line for each group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--data-root")
    parser.add_argument("--most", type=int, default=1000, help="samples of a group")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("checkpoint group samples: steps of spectrum, ends, verdict; their time; largest error of the ends")
    for checkpoint in given.checkpoints:
        subject = open_checkpoint(checkpoint, Given(data_root=given.data_root))
        samples = subject.samples
        for name, indices in group_indices(
            make_scheme("head-tail", samples.class_counts, eta=subject.groups["eta"]), samples
        ).items():
            if name != "all":
                chosen = indices[np.linspace(0, len(indices) - 1, min(len(indices), given.most)).astype(int)]
                print(checkpoint.parent.name, name, len(chosen), compared(subject, chosen, given.seeds), flush=True)


def compared(subject, chosen: np.ndarray, seeds: int) -> str:
    """Medians over the seeds."""

    def operator(indices: np.ndarray) -> HessianOperator:
        return HessianOperator(subject.model, subject.samples.subset(indices), subject.loss)

    steps: dict[str, list[int]] = {"spectrum": [], "ends": [], "verdict": []}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    errors = []
    for seed in range(seeds):
        found = {}
        for goal, counts in steps.items():
            began = time.perf_counter()
            if goal == "spectrum":
                found[goal] = measure_spectrum(operator(chosen), seed=seed, tau=1e-3)
            else:
                enough = {"enough": 0.0} if goal == "verdict" else {}
                whole = operator(chosen)
                part = part_of(chosen, subject.samples.labels, whole.work)
                first = None if part is None else whole.over(subject.samples.subset(part))
                given = {"part": first, "rough": rough_if_faster, "rtol": 1e-2, "tau": 1e-3, "seed": seed}
                found[goal] = measure_ends(whole, **given, **enough)
            seconds[goal].append(time.perf_counter() - began)
            counts.append(found[goal].steps[0])
        for end in ("lambda_min", "lambda_max"):
            value, true = (getattr(found[goal], end).value for goal in ("ends", "spectrum"))
            errors.append(abs(value - true) / abs(true))
    middle = {name: (statistics.median(steps[name]), statistics.median(seconds[name])) for name in steps}
    counted = ", ".join(f"{count:g}" for count, _ in middle.values())
    times = ", ".join(f"{took:.2f} s" for _, took in middle.values())
    return f"{counted}; {times}; {100 * max(errors):.2g} %"


if __name__ == "__main__":
    main()
