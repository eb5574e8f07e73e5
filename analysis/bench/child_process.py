"""One task of the bench, done in a process of its own and handed back as JSON."""

from __future__ import annotations

import importlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..krylov.guards import PRODUCTS
from ..krylov.lanczos import Lanczos, ritz_of
from ..krylov.spectrum import LOOK_EVERY
from ..records.base import write_text_atomically
from ..records.settings import AnalysisSettings
from ..samples.provenance import file_sha256
from .batch_sizes import best_micro_batch, processor_seconds
from .cases import CASES, Problem, open_problem, prepare, relative_error
from .density_accuracy import distance, probes_needed, truth
from .peers import COMPETITORS, TOLERANCE, Answer, Eigenthings, Ours, Plan, fixed_start, level_ground
from .trials import eigsh_trials

#: of the reference: residual of both ends, and least steps
REFERENCE_RTOL, REFERENCE_STEPS, REFERENCE_MOST = 1e-6, 100, 400
#: products of our analysis beside its steps: noise and symmetry, Rayleigh quotients of both ends
BESIDE = PRODUCTS + 2
#: products that are timed of a run too long to finish
TIMED = 5


def main() -> None:
    """Reads a job from standard input, does it, writes what came out into the job's ``result``."""
    job = json.load(sys.stdin)
    tasks: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "prepare": lambda job: {"checkpoint": prepare(job["case"], Path(job["out"]), job["data_root"])},
        "reference": reference,
        "plan": plan,
        "measure": measure,
        "prepare-whole": _prepare_whole,
        "find-out": _find_out,
    }
    try:
        result = tasks[job["task"]](job)
    except Exception as error:
        if type(error).__module__.split(".")[0] != "saddlescope":
            raise
        sys.exit(str(error))
    write_text_atomically(Path(job["result"]), json.dumps(result))


def _prepare_whole(job: dict[str, Any]) -> dict[str, Any]:
    from .whole_cases import prepare_whole

    return {"folder": str(prepare_whole(job["case"], Path(job["out"]), job["data_root"]))}


def _find_out(job: dict[str, Any]) -> dict[str, Any]:
    from .whole_child import find_out

    return find_out(Path(job["folder"]))


def _problem(job: dict[str, Any]) -> Problem:
    return open_problem(job["case"], job["group"], job["checkpoint"], job["data_root"])


def reference(job: dict[str, Any]) -> dict[str, Any]:
    """Both ends converged to :data:`REFERENCE_RTOL`, T for trying solvers on, and a density from several probes.

    Kept in ``out/references`` for as long as the checkpoint stays as it is.

    Args:
        job: ``case``, ``group``, ``checkpoint``, ``data_root``, ``out``.
    """
    stored = Path(job["out"]) / "references" / f"{job['case']}-{job['group']}.json"
    digest = file_sha256(Path(job["checkpoint"])) if job["checkpoint"] is not None else None
    if stored.exists():
        known: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        if known["checkpoint_sha256"] == digest:
            return known
    problem = _problem(job)
    operator = Ours().operator(problem)
    # The start that ARPACK and hessian-eigenthings are given: what is tried on T is then what they will do.
    run = Lanczos(operator, start=fixed_start(problem.size)).run(min(REFERENCE_MOST, operator.size), _settled)
    values = run.ritz.values
    known = {"alphas": run.alphas, "betas": run.betas}
    # As long as our own run, from other starts than anybody's.
    steps = _our_steps(known)
    probes = [Lanczos(operator, 1000 + i).run(steps) for i in range(CASES[job["case"]].probes)]
    low, high = problem.extremes or (float(values[0]), float(values[-1]))
    result = {
        "checkpoint_sha256": digest,
        "samples": problem.samples.num_samples if problem.samples is not None else None,
        "parameters": problem.size,
        "lambda_min": low,
        "lambda_max": high,
        "steps": run.steps,
        **known,
        "probes": [{"alphas": probe.alphas, "betas": probe.betas} for probe in probes],
    }
    write_text_atomically(stored, json.dumps(result))
    return result


def _settled(run: Lanczos) -> bool:
    if run.steps < REFERENCE_STEPS or run.steps % 10:
        return False
    values, residuals = run.ritz.values, run.ritz.residuals
    return all(residuals[i] <= REFERENCE_RTOL * abs(values[i]) for i in (0, -1))


def plan(job: dict[str, Any]) -> dict[str, Any]:
    """The best configuration of a competitor, and how many products it will need.

    In exact arithmetic a Krylov solver does on T and the first unit vector what it does on H and the reference's start, so
    ARPACK's variants and numbers of steps are tried on T (SciPy's ``diags_array``), which costs nothing.

    Args:
        job: as for :func:`reference`, with ``competitor`` and ``reference``.
    """
    competitor, known = COMPETITORS[job["competitor"]], job["reference"]
    problem = _problem(job)
    if problem.operator is not None and not competitor.operators:
        return {"takes_part": False}
    ours = isinstance(competitor, Ours)
    choice: dict[str, Any] = {}
    tried: list[dict[str, Any]] = []
    seconds = 0.0
    if problem.samples is not None and not ours:
        choice["micro_batch"] = best_micro_batch(competitor, problem)
    steps = _our_steps(known)
    products = dict.fromkeys(("extremes", "density"), steps + BESIDE)
    if ours and not competitor.together:
        products["extremes"] = 0  # run to the end in any case: what its start saves is not in T
    if job["competitor"] == "curvlinops":
        tried = _eigsh_choices(known, problem.size)
        choice |= {"ends": tried[0]["ends"], "ncv": tried[0]["ncv"]}
        products["extremes"] = tried[0]["products"]
    if isinstance(competitor, Eigenthings):
        choice["steps"] = _steps_to_ends(known)
        products["extremes"] = sum(choice["steps"])
    if job["competitor"] == "pyhessian":
        products["extremes"] = min(100, problem.size)
    if not ours and known["probes"]:  # as long as ours, and as many as make it as accurate
        choice |= {"density_steps": steps, "density_probes": probes_needed(known["probes"], known["parameters"])}
        products["density"] = steps * choice["density_probes"]
    with level_ground(problem):
        product = competitor.product(problem, Plan(**choice))
        v = fixed_start(problem.size)
        seconds = min(processor_seconds(lambda: product(v)) for _ in range(2))
    return {
        "takes_part": True,
        "title": competitor.title,
        "together": competitor.together,
        "questions": ["extremes"] if ours or not known["probes"] else ["extremes", "density"],
        "plan": choice,
        "tried": tried,
        "products": products,
        "seconds_a_product": seconds,
    }


def _eigsh_choices(known: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Calls and ``ncv`` with the products each needs: first those that reach both ends, and of them the cheapest."""
    sizes = [ncv for ncv in (20, 40, 60) if ncv < size]

    def missed(answer: Answer) -> bool:
        return max(_errors(answer, known)) > TOLERANCE

    return eigsh_trials(known["alphas"], known["betas"], (("BE",), ("SA", "LA")), sizes, missed)


def _our_steps(known: dict[str, Any]) -> int:
    """After how many steps our defaults stop: both residuals small, looked at every few steps from the least number on."""
    settings = AnalysisSettings()
    for steps in range(settings.min_steps, min(settings.steps, len(known["alphas"])), LOOK_EVERY):
        ritz = ritz_of(known["alphas"][:steps], known["betas"])
        least = 0.01 * max(abs(ritz.values[0]), abs(ritz.values[-1]))
        if all(ritz.residuals[i] <= settings.rtol * max(abs(ritz.values[i]), least) for i in (0, -1)):
            return steps
    return min(settings.steps, len(known["alphas"]))


def _steps_to_ends(known: dict[str, Any]) -> tuple[int, int]:
    """Fewest multiples of five after which the smallest and the largest Ritz value are within the tolerance."""
    counts = [len(known["alphas"])] * 2
    for steps in range(len(known["alphas"]), 4, -1):
        if steps % 5 == 0:
            values = ritz_of(known["alphas"][:steps], known["betas"]).values
            errors = [relative_error(values[0], known["lambda_min"]), relative_error(values[-1], known["lambda_max"])]
            counts = [steps if error <= TOLERANCE else count for error, count in zip(errors, counts, strict=True)]
    return counts[0], counts[1]


def _errors(answer: Answer, known: dict[str, Any]) -> tuple[float, float]:
    pairs = ((answer.lambda_min, known["lambda_min"]), (answer.lambda_max, known["lambda_max"]))
    low, high = (math.inf if value is None else relative_error(value, true) for value, true in pairs)
    return low, high


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One competitor, one question: seconds, products, accuracy, peak memory.

    Args:
        job: as for :func:`plan`, with ``question``, ``plan`` and perhaps ``compose``: time so many products by a few of them.
    """
    competitor, known, choice = COMPETITORS[job["competitor"]], job["reference"], Plan(**job["plan"])
    problem = _problem(job)
    compose = job.get("compose")
    with level_ground(problem):
        for module in competitor.modules:
            importlib.import_module(module)
        _warm_up(problem)
        before = _peak()
        clock = _Clock()
        if compose is not None:
            product = competitor.product(problem, choice)
            v = fixed_start(problem.size)
            product(v)
            first = clock.read()
            for _ in range(TIMED - 1):
                product(v)
            answer = Answer(products=compose)
            # What is set up once, and with the first product, is not multiplied.
            each = [(now - then) / (TIMED - 1) for now, then in zip(clock.read(), first, strict=True)]
            seconds, cpu_seconds = (then + (compose - 1) * one for then, one in zip(first, each, strict=True))
        else:
            answer = getattr(competitor, job["question"])(problem, choice)
            seconds, cpu_seconds = clock.read()
    errors = _errors(answer, known)
    off = None
    if answer.nodes and known["probes"]:
        found = np.array(answer.nodes), np.array(answer.weights)
        off = distance(found, truth(known["probes"], known["parameters"]))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "composed": compose is not None,
        "products": answer.products,
        "nodes": len(answer.nodes),
        "error_min": errors[0] if math.isfinite(errors[0]) else None,
        "error_max": errors[1] if math.isfinite(errors[1]) else None,
        "distance": off,
        "peak_bytes": _peak(),
        "before_bytes": before,
    }


class _Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """``(wall, processor)``."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def _warm_up(problem: Problem) -> None:
    """A Hessian-vector product of eight samples: nobody pays for the first kernels, nor for what torch imports then (sympy)."""
    if problem.samples is None:
        return
    inputs, targets = problem.batches(8)[0]
    parameters = list(problem.model.parameters())
    loss = torch.nn.functional.cross_entropy(problem.model(inputs), targets)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    torch.autograd.grad(gradients, parameters, [torch.ones_like(p) for p in parameters])


def _peak() -> int:
    """Largest resident size of this process in bytes."""
    try:  # ru_maxrss of a child begins at its parent's
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
