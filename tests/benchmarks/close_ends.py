"""How often an end that is called converged is the second eigenvalue, or short of the first: spectra with close outer ends.

    python tests/benchmarks/close_ends.py [--spectra 1000] [--first 0]

Prescribed heavy-tailed spectra whose two outermost eigenvalues lie 1 to 4 % apart at both ends, at the defaults. Half of them
have a start that knows a part of the samples, whose eigenvalues differ by some percent: often it points to the second one.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from saddlescope.analysis.measures.extremes import measure_ends


class Diagonal:
    """``diag(values)``; random starts know nothing of coordinates."""

    def __init__(self, values: np.ndarray, dtype: torch.dtype) -> None:
        self.values = torch.from_numpy(values).to(dtype)
        self.size, self.dtype, self.device = len(values), dtype, torch.device("cpu")
        self.num_samples, self.matvecs = 1, 0

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        """Its product with v ``[n]``."""
        self.matvecs += 1
        return self.values * v

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """Its product with V ``[n, k]``."""
        self.matvecs += v.shape[1]
        return self.values[:, None] * v

    def release(self) -> None:
        """Keeps nothing between products."""


def close(rng: np.random.Generator) -> np.ndarray:
    """A spectrum ``[n]``, ascending."""
    size = int(rng.integers(500, 2001))
    if rng.random() < 0.5:
        values = rng.standard_t(rng.uniform(1.5, 3), size)
    else:
        values = np.exp(rng.uniform(1, 2) * rng.normal(size=size)) * rng.choice([-1, 1], size)
    values = np.sort(values)
    values *= np.where(values < 0, rng.uniform(0.05, 1) / abs(values[0]), rng.uniform(1, 100) / values[-1])
    for first, second in ((0, 1), (-1, -2)):
        values[first] = values[second] * (1 + rng.uniform(0.01, 0.04))
    return values


def main() -> None:
    """Prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spectra", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for knows in (False, True):
        products, looked_at, converged, outside = [], [], [], 0
        for number in range(given.first, given.first + given.spectra // 2):
            rng = np.random.default_rng([number, knows])
            values = close(rng)
            operator, part = Diagonal(values, torch.float32), None
            if knows:
                part = Diagonal(values * (1 + 0.1 * rng.normal(size=len(values))), torch.float32)
            found = measure_ends(operator, part=part, seed=number)
            products.append(operator.matvecs)
            looked_at.append(part.matvecs if part is not None else 0)
            for end, truth in ((found.lambda_min, values[0]), (found.lambda_max, values[-1])):
                low, high = end.interval
                outside += not (-np.inf if low is None else low) <= truth <= (np.inf if high is None else high)
                if end.converged:
                    converged.append(abs(end.value - truth) / abs(truth))
        off = np.array(converged)
        print(
            f"{'start from a part' if knows else 'random start'}: {len(products)} spectra, {2 * len(products)} ends, "
            f"{len(off)} converged, of these off by more than 1 %: {(off > 0.01).sum()}, 0.5 %: {(off > 0.005).sum()}, 0.2 %: "
            f"{(off > 0.002).sum()}; {outside} outside their interval; products {np.mean(products):.2f} on average (part "
            f"{np.mean(looked_at):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
