"""What an analysis will take, measured on a few passes of each group and counted as it is done, before it is begun."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from ..checkpoints.analysis_inputs import open_checkpoint
from ..checkpoints.checkpoint_flags import Given
from ..hessian.losses import loss_of
from ..hessian.modules import copied
from ..hessian.subject import Subject
from ..krylov.guards import PRODUCTS
from ..measures.extremes import FIRST_LOOK
from ..measures.objective import NET_STEPS, Objective
from ..measures.optimizer_fields import ALL
from ..measures.subsampling import disjoint_subsets
from ..records.settings import AnalysisSettings
from ..records.study_plan import CurvatureItem
from ..samples.groups import asked_for, group_indices, scheme_of
from ..samples.memory import graph_budget
from .cost_table import Cost, GroupCost
from .memory_cost import group_memory, resident_bytes
from .pass_times import Passes, orthogonalisation, timed_passes

#: passes are timed on at most so many samples and scaled
SAMPLE = 256
#: products of a spectrum beside its steps: the guard's, Rayleigh quotients, additivity
EXTRA = PRODUCTS + 3
#: Usual steps of a verdict, which stops where negative curvature is certain, far from an end and from the most that are
#: allowed: 5 on the image networks of the bench, 17 on a network of 363 parameters without any.
VERDICT = 10.0
#: forward passes of an escape test
ESCAPE_TEST = 10
#: Memory is announced for so many times the usual steps: what does not fit ends a run, what is left over does no harm.
ROOM = 1.5
#: Fields of an escape rate: at both sides, at two distances (4), and of a network with kinks at two more (8, at most); usual
#: is what lies between.
FIELDS_AT_LEAST, FIELDS, FIELDS_AT_MOST = 4, 6, 8
#: Forward passes of a critical step: some doublings and the bisection; at most, where a tiny step hurts already
CRITICAL, CRITICAL_AT_MOST = 12, 25


def lanczos_steps(settings: AnalysisSettings, size: int) -> tuple[int, float, int]:
    """Steps of one start: the least, as many as are usual (a geometric mean of the least and the most), and the most."""
    if settings.engine == "exact":
        return size, size, size
    most = min(settings.steps, size)
    if settings.engine == "pyhessian":
        return most, most, most
    least = min(most, settings.min_steps if settings.goal == "spectrum" else FIRST_LOOK)
    return least, min(VERDICT, most) if settings.goal == "verdict" else math.sqrt(least * most), most


def measure_cost(
    item: CurvatureItem, given: Given, count: int = 1, *, processes: int = 1, slices: int = 1, spent: float = 0.0
) -> Cost:
    """Times a few passes of each group; stores nothing.

    Args:
        item: the first checkpoint.
        given: what the command line says about it.
        count: how many checkpoints there are.
        processes: that will share the samples; time and memory are of one of them, messages between them are not timed.
        slices: that each vector will be spread over.
        spent: seconds that the process took before this: imports.
    """
    began = time.perf_counter()
    subject = open_checkpoint(item.checkpoint, given, item.settings.params)
    reading = time.perf_counter() - began
    settings = item.settings.with_groups_of(subject.groups)
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    if settings.engine == "exact":
        dtype = torch.float64
    loss = loss_of(subject.loss, subject.samples)
    model = copied(subject.model).to(device, dtype)
    scheme = scheme_of(settings, subject.samples)
    indices = group_indices(scheme, subject.samples)
    asked = asked_for(scheme, settings.only)
    objective = Objective(subject.samples, settings, subject.source, lambda rows: (subject.samples.subset(rows), None), asked)
    groups, parameters = [], 0
    passes = None
    for name in asked:
        rows = indices[name]
        subsets = 1
        if settings.subsample is not None and settings.subsample < len(rows):
            parts = disjoint_subsets(rows, settings.subsample, settings.seed)
            rows, subsets = parts[0], len(parts)
        mine = rows[::processes] if len(rows) >= processes else rows  # as World.share
        part = mine[np.linspace(0, len(mine) - 1, min(len(mine), SAMPLE)).astype(int)]
        samples = subject.samples.subset(part)
        before = resident_bytes()
        operator, passes = timed_passes(model, samples, loss, settings, slices)
        parameters = operator.size
        critical = settings.goal == "critical-step"
        least, usual, most = (0, 0.0, 0) if critical else lanczos_steps(settings, parameters)
        # Where ends alone are looked for, one micro-batch is guarded.
        guarded = min(operator.micro_batch, len(mine)) if settings.goal in ("ends", "verdict") else len(mine)
        tries = (CRITICAL, CRITICAL, CRITICAL_AT_MOST) if critical else ()
        against = 0.0 if critical else orthogonalisation(operator, slices)
        seconds_of = [_of_steps(objective, passes, name, len(mine), number) for number in tries] or [
            _of_group(settings, objective, passes, len(mine), guarded, subsets, steps, fields, against * steps * steps / 2)
            for steps, fields in ((least, FIELDS_AT_LEAST), (usual, FIELDS), (most, FIELDS_AT_MOST))
        ]
        scale = len(mine) / len(part)
        memory, _, graphs, _ = group_memory(operator, settings, before, scale, min(ROOM * usual, most), slices)
        memory_at_most, unchecked, _, on_disk = group_memory(operator, settings, before, scale, most, slices)
        groups.append(
            GroupCost(
                group=name,
                samples=len(rows),
                subsets=subsets,
                seconds_a_product=passes.product * len(mine),
                seconds_in_float64=passes.pair64 * len(mine),
                products=0 if critical else subsets * (settings.starts * most + EXTRA),
                minutes_at_least=seconds_of[0] / 60,
                minutes=seconds_of[1] / 60,
                minutes_at_most=seconds_of[2] / 60,
                graph_bytes=graphs,
                memory_bytes=memory,
                memory_bytes_at_most=memory_at_most,
                disk_bytes=on_disk,
                memory_bytes_unchecked=unchecked,
            )
        )
        operator.release()
    shared = reading
    if passes is not None:
        if settings.goal == "critical-step":
            shared += _fields_of(objective) * passes.gradient
        else:
            shared += passes.forward * subject.samples.num_samples + _net_rates(settings, objective, passes, subject)
    steps = settings.steps if settings.goal != "critical-step" else 0
    return Cost(
        checkpoint=str(item.checkpoint),
        checkpoints=count,
        starts=settings.starts,
        steps=steps,
        parameters=parameters,
        basis_bytes=steps * -(-parameters // slices) * torch.finfo(dtype).bits // 8,
        graph_budget_bytes=settings.memory or graph_budget(device),
        groups=groups,
        shared_minutes=shared / 60,
        start_minutes=spent / 60,
        processes=processes,
        slices=slices,
        message_bytes=_messages(parameters * torch.finfo(dtype).bits // 8, processes, slices),
    )


def _messages(vector: int, processes: int, slices: int) -> int:
    """Bytes that a process sends for a product: its sum (a ring sends it nearly twice), and a slice to all who want it."""
    return int(2 * (processes - 1) / processes * vector + (slices - 1) / slices * vector)


def _of_group(
    settings: AnalysisSettings,
    objective: Objective,
    one: Passes,
    size: int,
    guarded: int,
    subsets: int,
    steps: float,
    fields: int,
    orthogonal: float,
) -> float:
    """Seconds of one group, in the order of :func:`~saddlescope.analysis.measures.measure_group.measure_group`."""
    spectrum = settings.starts * (steps * one.product * size + orthogonal) + one.graph * size
    spectrum += (one.graph + PRODUCTS * one.product) * guarded
    if settings.goal == "spectrum":
        spectrum += (EXTRA - PRODUCTS) * one.product * size
    total = one.setup + one.gradient * size + 2 * one.look + one.pair64 * size
    total += subsets * spectrum + (subsets - 1) * one.setup
    if settings.escape:
        total += ESCAPE_TEST * one.forward * size
        if objective.wants_rates:
            total += fields * _fields_of(objective) * one.gradient64 + one.pair64 * sum(objective.sizes.values())
    if settings.gauss_newton:
        total += steps * one.product * size
    return total


def _fields_of(objective: Objective) -> int:
    """Samples whose gradient is taken for the fields of all rules at one place."""
    whole = sum(objective.sizes.values())
    perturbed = {(term.part, term.rho) for rule in objective.rules for term in rule.terms if term.rho}
    return whole + sum(whole if part == ALL else objective.sizes[part] for part, _ in perturbed)


def _of_steps(objective: Objective, one: Passes, name: str, size: int, tries: int) -> float:
    """Seconds of one group's critical steps: along every rule's step, the head's part, and the group's own."""
    tried = {rule.name for rule in objective.rules} | ({"head"} & set(objective.sizes)) - {name}
    return one.gradient * size + (len(tried) + (name != "all")) * tries * one.forward * size


def _net_rates(settings: AnalysisSettings, objective: Objective, one: Passes, subject: Subject) -> float:
    """Seconds of the net rates: runs on the fields of whole optimizers, each step up to four products of each part."""
    if objective.wants_net == "none":
        return 0.0
    total, steps = 0.0, math.sqrt(FIRST_LOOK * min(settings.steps, NET_STEPS))
    sampled = settings.subsample is not None and settings.subsample < subject.samples.num_samples
    for rule in objective.chosen:
        if rule.name == "sgd" and not sampled:
            continue  # known from the group of all
        each = sum(
            (4 if term.rho else 1) * (sum(objective.sizes.values()) if term.part == ALL else objective.sizes[term.part])
            for term in rule.terms
        )
        total += (steps + 3) * each * one.product
    return total
