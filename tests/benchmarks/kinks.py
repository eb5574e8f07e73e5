"""How far the Hessian of a ReLU network reaches: central differences of the gradient along a certificate's v, by step.

    python tests/benchmarks/kinks.py <run>/curvature/checkpoint.head-tail.json tail

Prints the difference quotient for steps from 1e-2 down to 1e-9 beside ``v^T H v``. Where the two part, units have switched on
the way.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from saddlescope.analysis.checkpoints.analysis_inputs import open_checkpoint
from saddlescope.analysis.checkpoints.checkpoint_flags import Given, given_again
from saddlescope.analysis.hessian.elsewhere import shifted
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.samples.groups import group_indices
from safetensors.torch import load_file


def main(path: Path, group: str) -> None:
    """Prints the table."""
    result = load(CurvatureResult, path)
    subject = open_checkpoint(
        path.parent.parent / result.provenance.checkpoint, given_again(result.provenance.subject, Given(), path)
    )
    v = load_file(path.parent / str(result.vectors_file))[f"{group}/min"].double()
    v /= v.norm()
    samples = subject.samples.subset(group_indices(result.scheme, subject.samples)[group])
    operator = HessianOperator(copy.deepcopy(subject.model).double(), samples, subject.loss, accelerate=False)
    print(f"v'Hv = {float(operator.matvec(v) @ v):.6f}")
    for power in range(-2, -10, -1):
        slopes = []
        for side in (10.0**power, -(10.0**power)):
            with shifted(operator, v, side):
                slopes.append(float(torch.dot(operator.loss_and_gradient()[1], v)))
        print(f"step 1e{power}: {(slopes[0] - slopes[1]) / (2 * 10.0**power):.6f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
