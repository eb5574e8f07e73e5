"""What is found out beforehand about a case of whole commands: its ends, and the settings that suit the peers best."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..hessian.losses import loss_of
from ..hessian.operator import HessianOperator
from ..hessian.subject import Subject
from ..krylov.bounds import hidden_mass, luck_needed
from ..krylov.lanczos import Lanczos, ritz_of
from ..records.base import write_text_atomically
from ..samples.provenance import Source
from ..samples.samples import Samples
from .batch_sizes import best_micro_batch
from .cases import Problem, relative_error
from .peers import COMPETITORS, Answer, fixed_start, installed
from .trials import eigsh_trials
from .whole_cases import network_of

#: residual of the reference's ends relative to their size (the error is about its square), and its least and most steps
RTOL, LEAST, MOST = 2e-3, 40, 200
#: a reference is converged where a random start that hides an eigenvalue more than RTOL beyond it has at most this probability
DOUBT = 1e-2
#: relative error of an end that settings must reach on the reference
REACHED = 1e-2


def find_out(folder: Path) -> dict[str, Any]:
    """Both ends, converged, and what suits the peers best, kept in ``folder/known.json``.

    Steps and variants are tried on the reference's tridiagonal matrix, on which a Krylov solver does what it does on the
    Hessian from the same start; batch sizes are timed.
    """
    stored = folder / "known.json"
    if stored.exists():
        known: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        return known
    problem = _problem(folder)
    assert problem.samples is not None
    operator = HessianOperator(problem.model, problem.samples)
    run = Lanczos(operator, start=fixed_start(problem.size)).run(min(MOST, operator.size), _settled)
    low, high = float(run.ritz.values[0]), float(run.ritz.values[-1])
    known = {
        "parameters": problem.size,
        "samples": problem.samples.num_samples,
        "lambda_min": low,
        "lambda_max": high,
        "steps": run.steps,
        "residuals": [float(run.ritz.residuals[end]) for end in (0, -1)],
        "eigsh": {"ends": _eigsh(run, low, high, (("BE",), ("SA", "LA"))), "verdict": _eigsh(run, low, high, (("SA",),))},
        "eigenthings": _steps(run, low, high),
        "batch": {
            name: batch
            for name in ("curvlinops", "eigenthings")
            if installed(name) is not None and (batch := _batch_of(name, problem)) is not None
        },
    }
    write_text_atomically(stored, json.dumps(known))
    return known


def _batch_of(name: str, problem: Problem) -> int | None:
    """The batch size that suits a peer best; None where it fails, which its commands will say."""
    try:
        return best_micro_batch(COMPETITORS[name], problem)
    except Exception as error:  # whatever a peer raises
        print(f"{name}: {error}", file=sys.stderr)
        return None


def _problem(folder: Path) -> Problem:
    model = network_of(folder)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    data = np.load(folder / "data.npz")
    samples = Samples.from_tensors(torch.from_numpy(data["x"]), torch.from_numpy(data["y"]), int(data["y"].max()) + 1)
    return Problem(Subject(model.eval(), samples, loss_of(None, samples), Source()), samples)


def _settled(run: Lanczos) -> bool:
    if run.steps < LEAST or run.steps % 10:
        return False
    values, residuals = run.ritz.values, run.ritz.residuals
    if run.exhausted:
        return True

    def confirmed(end: int, side: int) -> bool:
        value = float(values[end])
        return luck_needed(run.operator.size, hidden_mass(*run.chain, value + side * RTOL * abs(value))) <= DOUBT

    # A small residual is that of some eigenvalue: a second one is often within 1 % of the outermost, and is found first.
    return all(residuals[end] <= RTOL * abs(values[end]) for end in (0, -1)) and confirmed(0, -1) and confirmed(-1, 1)


def _eigsh(run: Lanczos, low: float, high: float, ways: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    """The calls and Lanczos vectors that reach the ends with the fewest products."""

    def missed(answer: Answer) -> bool:
        pairs = [(answer.lambda_min, low)] + ([(answer.lambda_max, high)] if ways != (("SA",),) else [])
        return any(value is None or relative_error(value, true) > REACHED for value, true in pairs)

    return eigsh_trials(run.alphas, run.betas, ways, (10, 15, 20, 30, 40), missed)[0]


def _steps(run: Lanczos, low: float, high: float) -> tuple[int, int]:
    """Fewest steps after which the smallest, and the largest, Ritz value is right."""
    found = [run.steps, run.steps]
    for steps in range(run.steps, 2, -1):
        values = ritz_of(run.alphas[:steps], run.betas).values
        right = relative_error(values[0], low) <= REACHED, relative_error(values[-1], high) <= REACHED
        found = [steps if one else before for one, before in zip(right, found, strict=True)]
    return found[0], found[1]
