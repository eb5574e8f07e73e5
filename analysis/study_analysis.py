"""Does the analyses that a study asks for: one work item, one stored file; what is stored and current is left alone."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from .analyze import analyze
from .directions import Axis, DirectionError, eigen_axis, orthogonal_to, path_axes, project, random_axis
from .distributed import World
from .escape import natural_reach
from .groups import group_indices
from .landscape import flat_weights, slice_loss
from .measurement import Progress as Steps
from .modules import select_parameters
from .operator import HessianOperator
from .provenance import file_sha256
from .results import CurvatureResult, ResultError, Slice, load, save
from .settings import AnalysisSettings, SettingsError
from .study import read_json
from .study_plan import CurvatureItem, SliceItem, StudyAnalysis, curvature_item, curvature_items, run_folders, slice_items
from .subject import Given, Subject, open_checkpoint, side_car_of
from .subsampling import disjoint_subsets
from .user_code import build_model
from .weights import fit_weights, load_weights
from .work import run_items

#: called with (items done, items in all)
Progress = Callable[[int, int], None]


def analyze_study(
    study: Path,
    plan: StudyAnalysis,
    *,
    jobs: int = 1,
    data_root: str | None = None,
    runs: list[Path] | None = None,
    progress: Progress | None = None,
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

    Returns:
        Number of results measured by this call.

    Raises:
        WorkError: an item failed; the others are kept.
    """
    given = Given(data_root=data_root)
    wanted = {folder.resolve() for folder in runs} if runs is not None else None

    def chosen(item: CurvatureItem | SliceItem) -> bool:
        return wanted is None or item.output.parent.parent.resolve() in wanted

    curvature = [item for item in curvature_items(study, plan) if chosen(item)]
    slices = [item for item in slice_items(study, plan) if chosen(item)]
    total = len(curvature) + len(slices)
    stale = [item for item in curvature if not curvature_is_current(item, given)]
    done = len(curvature) - len(stale)
    measured = 0
    if progress is not None:
        progress(done, total)
    for _ in run_items(partial(do_curvature, given=given), stale, jobs):
        measured, done = measured + 1, done + 1
        if progress is not None:
            progress(done, total)
    stale_slices = [item for item in slices if not slice_is_current(item)]
    done += len(slices) - len(stale_slices)
    for _ in run_items(partial(do_slice, given=given), stale_slices, jobs):
        measured, done = measured + 1, done + 1
        if progress is not None:
            progress(done, total)
    if progress is not None:
        progress(done, total)
    return measured


def resolved(settings: AnalysisSettings, eta: int | None) -> AnalysisSettings:
    """The settings with ``eta`` taken from the side-car where they leave it open."""
    if settings.eta is not None or settings.scheme != "head-tail":
        return settings
    return settings.model_copy(update={"eta": eta})


def curvature_is_current(item: CurvatureItem, given: Given | None = None) -> bool:
    """True if the stored result is of these weights, these settings, and of this model, data and loss.

    Ours are known by name and version; what the user brings is tried: same data, same loss, same gradient.
    """
    given = given or Given()
    try:
        stored = load(CurvatureResult, item.output)
        side_car = side_car_of(item.checkpoint)
    except ResultError:
        return False
    if not item.checkpoint.is_file():
        return False
    eta = (side_car or {}).get("groups", {}).get("eta")
    source = stored.provenance
    names = ((given.model, source.model), (given.data, source.data), (given.loss, source.loss))
    named_alike = (
        source.checkpoint_sha256 == file_sha256(item.checkpoint)
        and source.settings == resolved(item.settings, eta).model_dump(mode="json")
        and all(wanted is None or wanted == found for wanted, found in names)
        and source.subject == given.record()
        and (stored.vectors_file is None or _whole(item.output.parent / stored.vectors_file))
    )
    parts = [side_car[part]["factory"] for part in ("model", "data", "loss")] if side_car is not None else [""]
    ours = all(factory.startswith("saddlescope.") for factory in parts) and not given.record()
    return named_alike and (ours or _behaves_as(stored, item, given))


def _whole(vectors: Path) -> bool:
    try:
        with safe_open(vectors, framework="pt"):
            return True
    except (FileNotFoundError, SafetensorError):
        return False


def _behaves_as(stored: CurvatureResult, item: CurvatureItem, given: Given) -> bool:
    """Whether data, loss and gradient are what was measured: code and files of the user's may change under their names."""
    subject = open_checkpoint(item.checkpoint, given)
    if subject.samples.sha256() != stored.provenance.data_sha256:
        return False
    settings = resolved(item.settings, subject.eta)
    name, group = next(iter(stored.groups.items()))
    indices = group_indices(stored.scheme, subject.samples.labels)[name]
    if settings.subsample is not None and settings.subsample < len(indices):
        indices = disjoint_subsets(indices, settings.subsample, settings.seed)[0]
    model = subject.model.to(getattr(torch, stored.provenance.dtype))
    operator = HessianOperator(model, subject.samples.subset(indices), subject.loss, params=settings.params)
    loss, gradient = operator.loss_and_gradient()
    pairs = ((loss, group.loss), (float(gradient.double().norm()), group.gradient_norm))
    return all(math.isclose(now, before, rel_tol=1e-3, abs_tol=1e-6) for now, before in pairs)


def do_curvature(
    item: CurvatureItem,
    given: Given | None = None,
    progress: Steps | None = None,
    world: World | None = None,
    keep_starts: bool = False,
) -> None:
    """Measures and stores one curvature result, its eigenvectors first; of several processes the first one stores.

    Args:
        item: checkpoint, settings and where the result goes.
        given: what the command line says of model, data and loss.
        progress: called after each Lanczos step.
        world: the processes that share the work.
        keep_starts: keep the Lanczos starts beside the result, for a later call with more of them.
    """
    cache = item.output.parent / f".{item.output.stem}.starts"
    subject = open_checkpoint(item.checkpoint, given)
    result = analyze(
        subject.model,
        subject.samples,
        loss=subject.loss,
        settings=resolved(item.settings, subject.eta),
        source=subject.source,
        vectors=item.output.with_suffix(".vectors.safetensors"),
        progress=progress,
        world=world,
        cache=cache,
    )
    if world is None or world.first:
        save(result, item.output)
        if not keep_starts:
            shutil.rmtree(cache, ignore_errors=True)


def slice_is_current(item: SliceItem) -> bool:
    """True if the stored slice is of these weights and these settings."""
    try:
        stored = load(Slice, item.output)
    except ResultError:
        return False
    same_weights = stored.provenance.checkpoint_sha256 == read_json(item.checkpoint.with_suffix(".json"))["sha256"]
    return same_weights and stored.provenance.settings.get("slice") == _slice_settings(item)


def do_slice(item: SliceItem, given: Given | None = None) -> None:
    """Computes and stores one slice through a checkpoint that has been analysed."""
    subject = open_checkpoint(item.checkpoint, given)
    curvature = _curvature_of(item)
    axes, spans, path = _axes(item, subject, curvature)
    points = item.settings.points if len(axes) == 1 else item.settings.plane_points
    grids = [_grid(low, high, points) for low, high in spans]
    result = slice_loss(
        subject.model,
        subject.samples,
        curvature.scheme,
        axes,
        grids,
        loss=subject.loss,
        source=subject.source,
        path=path,
        device=item.analysis.device,
        params=item.analysis.params,
        settings={"slice": _slice_settings(item)},
    )
    save(result, item.output)


def _slice_settings(item: SliceItem) -> dict[str, object]:
    return {"name": item.name, **item.settings.model_dump(mode="json"), "analysis": item.analysis.model_dump(mode="json")}


def _grid(low: float, high: float, points: int) -> list[float]:
    """Equal steps from low to high, the value nearest to 0 being exactly 0 so that the centre is on the grid."""
    grid = np.linspace(low, high, points)
    grid[np.abs(grid).argmin()] = 0.0
    return [float(x) for x in grid]


def _curvature_of(item: SliceItem) -> CurvatureResult:
    return load(CurvatureResult, curvature_item(item.checkpoint, item.analysis).output)


Path2D = tuple[list[list[float]], list[float], list[int]]


def _axes(
    item: SliceItem, subject: Subject, curvature: CurvatureResult
) -> tuple[list[Axis], list[tuple[float, float]], Path2D | None]:
    """The axes that a slice's name asks for, the range along each, and the training path where it is drawn.

    Raises:
        SettingsError: a name that means nothing here.
    """
    name, span = item.name, item.settings.span
    parameters = select_parameters(subject.model, item.analysis.params)[1]
    group, _, kind = name.rpartition("-")
    if name == "random":
        return [random_axis(parameters, item.settings.seed)], [(-span, span)], None
    if name == "random-plane":
        first = random_axis(parameters, item.settings.seed)
        second = orthogonal_to(random_axis(parameters, item.settings.seed + 1), first)
        return [first, second], [(-span, span)] * 2, None
    if name == "path-plane":
        return _path_plane(item, subject)
    if group in curvature.groups and kind in ("min", "max", "plane"):
        ends = ("min", "max") if kind == "plane" else (kind,)
        vectors = load_file(_vectors_path(item, curvature))
        axes = [eigen_axis(vectors, group, end) for end in ends]
        reach = [_reach(curvature, group, end) * span for end in ends]
        return axes, [(-r, r) for r in reach], None
    known = ", ".join(f"{g}-min, {g}-max, {g}-plane" for g in curvature.groups)
    raise SettingsError(f"[slices]: '{name}' is no slice; known: random, random-plane, path-plane, {known}")


def _vectors_path(item: SliceItem, curvature: CurvatureResult) -> Path:
    if curvature.vectors_file is None:
        raise DirectionError(f"{item.output.parent.parent}: the curvature result has no eigenvectors; analyze it again")
    return curvature_item(item.checkpoint, item.analysis).output.parent / curvature.vectors_file


def _reach(curvature: CurvatureResult, group: str, end: str) -> float:
    """How far an eigenvector slice goes: 1.5 times the distance at which the quadratic model has lost half of the loss.

    Upwards the same with the largest eigenvalue: where the quadratic model has doubled the loss.
    """
    found = curvature.groups[group]
    if end == "min":
        slope = -abs(found.escape.gradient_along_v) if found.escape else 0.0
        return 1.5 * natural_reach(slope, found.lambda_min.value, found.loss, found.weight_norm)
    top = found.lambda_max.value
    if top <= 0:
        return 0.05 * found.weight_norm
    reach = 1.5 * math.sqrt(2 * found.loss / top)
    return min(max(reach, 1.5e-3 * found.weight_norm), 0.2 * found.weight_norm)


def _path_plane(item: SliceItem, subject: Subject) -> tuple[list[Axis], list[tuple[float, float]], Path2D]:
    run = item.checkpoint.parent
    stored = sorted(run.glob("checkpoints/*.json"), key=lambda path: read_json(path)["training"]["epoch"])
    points, epochs = [], []
    for side_car_path in stored:
        side_car = read_json(side_car_path)
        model = build_model(side_car["model"]["factory"], side_car["model"]["args"])
        fit_weights(model, load_weights(side_car_path.with_suffix(".pt")), side_car_path)
        points.append(flat_weights(model, item.analysis.params))
        epochs.append(int(side_car["training"]["epoch"]))
    centre = flat_weights(subject.model, item.analysis.params)
    axes = list(path_axes(centre, points))
    points, epochs = [*points, centre], [*epochs, int(subject.source.training["epoch"] if subject.source.training else 0)]
    coordinates, distances = project(points, centre, axes)
    spans = []
    for column in range(2):
        values = [row[column] for row in coordinates]
        margin = 0.25 * max(max(values) - min(values), 1e-6)
        spans.append((min(values) - margin, max(values) + margin))
    return axes, spans, (coordinates, distances, epochs)


def study_of(run: Path) -> Path | None:
    """The study that a run folder belongs to: the parent whose ``study.json`` lists it."""
    study = run.resolve().parent
    if not (study / "study.json").exists():
        return None
    return study if run.resolve() in {folder.resolve() for folder, _ in run_folders(study)} else None
