"""Does the analyses that a study asks for: one work item, one stored file; what is stored and current is left alone."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from saddlescope import Permission, foreign, reuse_freed_memory

from ..checkpoints.analysis_inputs import check_side_cars, open_checkpoint
from ..checkpoints.checkpoint_flags import Given
from ..checkpoints.weights import weights_digest
from ..hessian.distributed import World
from ..hessian.operator import HessianOperator
from ..hessian.sharded_differences import ShardedDifferenceOperator
from ..hessian.sharded_models import is_sharded
from ..krylov.sliced_files import files_of
from ..krylov.space import space_of
from ..measures.analyze import analyze, critical_steps
from ..measures.measurement import Progress as Steps
from ..measures.subsampling import looked_at
from ..records.base import ResultError, load, save
from ..records.results import CurvatureResult, GroupResult
from ..records.side_car import side_car_of
from ..records.steps import GroupSteps, StepResult
from ..records.study_plan import CurvatureItem, SliceItem, StudyAnalysis, curvature_items, run_folders, slice_items
from ..samples.groups import asked_for, group_indices, scheme_of
from .escape_course import course_is_current, course_items, do_course
from .slices import SlicesOfCheckpoint, do_slices, slice_is_current
from .worker_pool import WorkError, run_items

#: called with (items done, items in all)
Progress = Callable[[int, int], None]


class RefusedGroupsError(WorkError):
    """Some groups of a checkpoint could not be measured; the others are stored."""


def analyze_study(
    study: Path,
    plan: StudyAnalysis,
    *,
    jobs: int = 1,
    data_root: str | None = None,
    runs: list[Path] | None = None,
    progress: Progress | None = None,
    permission: Permission | None = None,
) -> int:
    """Brings every curvature result and slice of a study up to date.

    A result is current if it was measured on the weights that lie there now, with the same settings; anything else is measured
    again. Results are written whole, so an interrupted call is continued by the next.

    Args:
        study: folder with ``study.json``.
        plan: what to measure.
        jobs: items at a time, each in a single-threaded process; the digits do not depend on it.
        data_root: folder to look for the data in first.
        runs: only these run folders; default: all.
        progress: called at the start and after each item.
        permission: what the study's files may name.

    Returns:
        Number of results measured by this call.

    Raises:
        WorkError: an item failed; the others are kept.
    """
    permission = permission or Permission()
    given = Given(data_root=data_root, trust=permission.everything, named=permission.named)
    wanted = {folder.resolve() for folder in runs} if runs is not None else None

    def chosen(item: CurvatureItem | SliceItem) -> bool:
        return wanted is None or item.output.parent.parent.resolve() in wanted

    curvature = [item for item in curvature_items(study, plan) if chosen(item)]
    slices = [item for item in slice_items(study, plan) if chosen(item)]
    check_side_cars([item.checkpoint for item in curvature] + [item.checkpoint for item in slices], given)
    courses = [item for item in course_items(study, plan) if wanted is None or item.run.resolve() in wanted]
    total = len(curvature) + len(slices) + len(courses)
    stale = [item for item in curvature if not curvature_is_current(item, given)]
    done = len(curvature) - len(stale)
    measured = 0
    if progress is not None:
        progress(done, total)
    for _ in run_items(partial(do_curvature, given=given), stale, jobs):
        measured, done = measured + 1, done + 1
        if progress is not None:
            progress(done, total)
    stale_courses = [item for item in courses if not course_is_current(item)]
    done += len(courses) - len(stale_courses)
    for _ in run_items(partial(do_course, given=given), stale_courses, jobs):
        measured, done = measured + 1, done + 1
        if progress is not None:
            progress(done, total)
    stale_slices = [item for item in slices if not slice_is_current(item)]
    done += len(slices) - len(stale_slices)
    for of_one in run_items(partial(do_slices, given=given), SlicesOfCheckpoint.among(stale_slices), jobs):
        measured, done = measured + len(of_one.items), done + len(of_one.items)
        if progress is not None:
            progress(done, total)
    if progress is not None:
        progress(done, total)
    return measured


def curvature_is_current(item: CurvatureItem, given: Given | None = None) -> bool:
    """True if the stored result is of these weights, these settings, and of this model, data and loss.

    Ours are known by name and version; what the user brings is tried: same data, same loss, same gradient.
    """
    given = given or Given()
    try:
        stored = load(kind_of(item), item.output)
        side_car = side_car_of(item.checkpoint)
    except ResultError:
        return False
    if not item.checkpoint.exists():
        return False
    source = stored.provenance
    names = ((given.model, source.model), (given.data, source.data), (given.loss, source.loss))
    named_alike = (
        source.checkpoint_sha256 == weights_digest(item.checkpoint, given.key)
        and item.settings.with_groups_of(side_car.thresholds if side_car is not None else {}).measure_as(source.settings)
        and all(wanted is None or wanted == found for wanted, found in names)
        and source.subject == given.record()
        and not getattr(stored, "refused", None)
        and _has_its_vectors(stored, item.output.parent)
    )
    parts = (side_car.model, side_car.data, side_car.loss) if side_car is not None else ()
    ours = bool(parts) and not given.record() and not any(foreign(part.factory, part.args) for part in parts)
    return named_alike and (ours or _behaves_as(stored, item, given))


def kind_of(item: CurvatureItem) -> type[CurvatureResult] | type[StepResult]:
    """What the item's file holds."""
    return StepResult if item.settings.goal == "critical-step" else CurvatureResult


def _opens(path: Path) -> bool:
    with safe_open(path, framework="pt"):
        return True


def _has_its_vectors(stored: CurvatureResult | StepResult, folder: Path) -> bool:
    if isinstance(stored, StepResult) or stored.vectors_file is None:
        return True
    try:
        return all(_opens(path) for path in files_of(folder / stored.vectors_file))
    except (FileNotFoundError, SafetensorError, ResultError):
        return False


def _behaves_as(stored: CurvatureResult | StepResult, item: CurvatureItem, given: Given) -> bool:
    """Whether data, loss and gradient are what was measured: code and files of the user's may change under their names."""
    subject = open_checkpoint(item.checkpoint, given, item.settings.params)
    if subject.samples.sha256() != stored.provenance.data_sha256:
        return False
    settings = item.settings.with_groups_of(subject.groups)
    groups: Mapping[str, GroupResult | GroupSteps] = stored.groups
    name, group = next(iter(groups.items()))
    indices = group_indices(stored.scheme, subject.samples)[name]
    indices = looked_at(indices, settings.subsample, settings.seed)
    part = subject.samples.subset(indices)  # all of it in every process, so nothing is summed
    operator: HessianOperator
    if is_sharded(subject.model):
        operator = ShardedDifferenceOperator(subject.model, part, subject.loss, params=settings.params)
    else:
        model = subject.model.to(getattr(torch, stored.provenance.dtype))
        operator = HessianOperator(model, part, subject.loss, params=settings.params)
    loss, gradient = operator.loss_and_gradient()
    pairs = ((loss, group.loss), (space_of(operator).norm(gradient.double()), group.gradient_norm))
    return all(math.isclose(now, before, rel_tol=1e-3, abs_tol=1e-6) for now, before in pairs)


def do_curvature(
    item: CurvatureItem,
    given: Given | None = None,
    progress: Steps | None = None,
    world: World | None = None,
    keep_starts: bool = False,
    begins: Callable[[Mapping[str, int]], None] | None = None,
) -> None:
    """Measures and stores one curvature result, its eigenvectors first; of several processes the first one stores.

    Args:
        item: checkpoint, settings and where the result goes.
        given: what the command line says of model, data and loss.
        progress: called after each Lanczos step.
        world: the processes that share the work.
        keep_starts: keep the Lanczos starts beside the result, for a later call with more of them.
        begins: called with the groups that will be measured, and their samples, once that is known.

    Raises:
        RefusedGroupsError: the result is stored without some groups.
    """
    reuse_freed_memory()
    adds = item.settings.goal == "spectrum"  # nothing is added to the ends
    cache = item.output.parent / f".{item.output.stem}.{'starts' if adds else 'ends'}"
    subject = open_checkpoint(item.checkpoint, given, item.settings.params)
    if item.settings.goal == "critical-step":
        settings = item.settings.with_groups_of(subject.groups)
        steps = critical_steps(
            subject.model, subject.samples, loss=subject.loss, settings=settings, source=subject.source, world=world
        )
        if world is None or world.first:
            save(steps, item.output)
        return
    settings = item.settings.with_groups_of(subject.groups)
    scheme = scheme_of(settings, subject.samples)
    if begins is not None:
        begins({name: scheme.sizes[name] for name in asked_for(scheme, settings.only)})
    result = analyze(
        subject.model,
        subject.samples,
        loss=subject.loss,
        settings=settings,
        scheme=scheme,
        source=subject.source,
        vectors=item.output.with_suffix(".vectors.safetensors"),
        progress=progress,
        world=world,
        cache=cache,
    )
    if world is None or world.first:
        save(result, item.output)
        if not (keep_starts and adds):
            shutil.rmtree(cache, ignore_errors=True)
    if result.refused:
        raise RefusedGroupsError(
            f"{item.output}: stored without "
            + "; ".join(f"group {name}, refused: {why}" for name, why in result.refused.items())
        )


def study_of(run: Path) -> Path | None:
    """The study that a run folder belongs to: the parent whose ``study.json`` lists it."""
    study = run.resolve().parent
    if not (study / "study.json").exists():
        return None
    return study if run.resolve() in {folder.resolve() for folder, _ in run_folders(study)} else None
