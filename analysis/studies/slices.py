"""The slices of checkpoints that were analysed: what a slice's name asks for, and whether a stored one still answers it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.analysis_inputs import check_side_car, model_of, open_checkpoint
from ..checkpoints.checkpoint_flags import Given
from ..checkpoints.weights import fit_weights, load_weights
from ..hessian.modules import select_parameters
from ..hessian.subject import Subject
from ..krylov.sliced_files import StoredVectors
from ..measures.convexity import Convexity
from ..measures.directions import Axis, DirectionError, eigen_axis, orthogonal_to, path_axes, project, random_axis
from ..measures.landscape import Landscape, flat_weights
from ..measures.saddle import natural_reach
from ..records.base import ResultError, load, save
from ..records.results import CurvatureResult
from ..records.settings import SettingsError
from ..records.side_car import RunSideCar, SideCar, read_side_car
from ..records.slices import Slice
from ..records.study_plan import SliceItem, curvature_item
from .worker_pool import WorkError, of_the_work

#: called with (points done, points in all)
Progress = Callable[[int, int], None]


def slice_is_current(item: SliceItem) -> bool:
    """True if the stored slice is of these weights and these settings, with the convexity map where one is asked for.

    A map that is there without having been asked for stays.
    """
    try:
        stored = load(Slice, item.output)
    except ResultError:
        return False
    settings, wanted = stored.provenance.settings, _convexity(item)
    found, asked = _without_names(settings.get("slice", {})), _slice_settings(item)
    asked.pop("analysis")
    return (
        stored.provenance.checkpoint_sha256 == read_side_car(item.checkpoint.with_suffix(".json"), SideCar).sha256
        and item.analysis.measure_as(found.pop("analysis", {}))
        and found == asked
        and (wanted is None or Convexity.read(settings.get("convexity"), basis=wanted.basis) == wanted)
    )


@dataclass(frozen=True)
class SlicesOfCheckpoint:
    """One unit of work: the slices of one checkpoint, through one model and one look at its data."""

    items: tuple[SliceItem, ...]

    def __str__(self) -> str:
        return str(self.items[0].checkpoint)

    @classmethod
    def among(cls, items: Sequence[SliceItem]) -> list[SlicesOfCheckpoint]:
        """The slices of each checkpoint, in their order."""
        together: dict[tuple[Path, str], list[SliceItem]] = {}
        for item in items:
            together.setdefault((item.checkpoint, item.analysis.model_dump_json()), []).append(item)
        return [cls(tuple(alike)) for alike in together.values()]


def do_slices(work: SlicesOfCheckpoint, given: Given | None = None, progress: Progress | None = None) -> None:
    """Computes and stores slices through one checkpoint that has been analysed.

    Args:
        work: which, and where they go.
        given: what the command line says of model, data and loss.
        progress: called with (points done, points in all) of a slice.

    Raises:
        WorkError: some of them could not be made; the others are stored.
    """
    first = work.items[0]
    subject, curvature = open_checkpoint(first.checkpoint, given), _curvature_of(first)
    around = Landscape(
        subject.model,
        subject.samples,
        curvature.scheme,
        loss=subject.loss,
        source=subject.source,
        device=first.analysis.device,
        dtype=getattr(torch, first.analysis.dtype),
        params=first.analysis.params,
    )
    failures: list[tuple[SliceItem, Exception]] = []
    for item in work.items:
        try:
            _do_slice(item, subject, curvature, around, given or Given(), progress)
        except Exception as error:
            if len(work.items) == 1 or not of_the_work(error):
                raise
            failures.append((item, error))
    if failures:
        raise WorkError("; ".join(f"{item}: {error}" for item, error in failures))


def _do_slice(
    item: SliceItem, subject: Subject, curvature: CurvatureResult, around: Landscape, given: Given, progress: Progress | None
) -> None:
    axes, spans, path = _axes(item, subject, curvature, given)
    points = item.settings.points if len(axes) == 1 else item.settings.plane_points
    grids = [_grid(low, high, points) for low, high in spans]
    done, total = 0, points ** len(axes)

    def count(further: int) -> None:
        nonlocal done
        done += further
        if progress is not None:
            progress(done, total)

    count(0)
    result = around.slice(
        axes, grids, path=path, convexity=_convexity(item), settings={"slice": _slice_settings(item)}, progress=count
    )
    save(result, item.output)


def _convexity(item: SliceItem) -> Convexity | None:
    """The map that is asked for, measured on the samples that the curvature was measured on."""
    asked, analysis = item.settings, item.analysis
    if item.name not in asked.convexity:
        return None
    return Convexity(
        groups=asked.convexity_groups,
        rtol=asked.convexity_rtol,
        steps=analysis.steps,
        seed=analysis.seed,
        subsample=analysis.subsample,
        micro_batch=analysis.micro_batch,
        memory=analysis.memory,
        basis=analysis.basis,
    )


def _slice_settings(item: SliceItem) -> dict[str, Any]:
    own = _without_names(item.settings.model_dump(mode="json"))
    return {"name": item.name, **own, "analysis": item.analysis.model_dump(mode="json")}


def _without_names(settings: dict[str, Any]) -> dict[str, Any]:
    """What makes one slice: not which others a recipe asks for (results of earlier versions stored that, too)."""
    names = ("lines", "planes", "plane_seeds")
    return {name: value for name, value in settings.items() if name not in names and not name.startswith("convexity")}


def _grid(low: float, high: float, points: int) -> list[float]:
    """Equal steps from low to high, the value nearest to 0 being exactly 0 so that the centre is on the grid."""
    grid = np.linspace(low, high, points)
    grid[np.abs(grid).argmin()] = 0.0
    return [float(x) for x in grid]


def _curvature_of(item: SliceItem) -> CurvatureResult:
    return load(CurvatureResult, curvature_item(item.checkpoint, item.analysis, key=item.key).output)


Path2D = tuple[list[list[float]], list[float], list[int]]


def _axes(
    item: SliceItem, subject: Subject, curvature: CurvatureResult, given: Given
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
        return _path_plane(item, subject, given)
    if group in curvature.groups and kind in ("min", "max", "plane"):
        ends = ("min", "max") if kind == "plane" else (kind,)
        vectors = StoredVectors(_vectors_path(item, curvature))
        axes = [eigen_axis(vectors, group, end) for end in ends]
        reach = [_reach(curvature, group, end) * span for end in ends]
        return axes, [(-r, r) for r in reach], None
    known = ", ".join(f"{g}-min, {g}-max, {g}-plane" for g in curvature.groups)
    raise SettingsError(f"[slices]: '{name}' is no slice; known: random, random-plane, path-plane, {known}")


def _vectors_path(item: SliceItem, curvature: CurvatureResult) -> Path:
    if curvature.vectors_file is None:
        raise DirectionError(f"{item.output.parent.parent}: the curvature result has no eigenvectors; analyze it again")
    return curvature_item(item.checkpoint, item.analysis, key=item.key).output.parent / curvature.vectors_file


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


def _path_plane(item: SliceItem, subject: Subject, given: Given) -> tuple[list[Axis], list[tuple[float, float]], Path2D]:
    run = item.checkpoint.parent
    stored = [(read_side_car(path, RunSideCar), path) for path in run.glob("checkpoints/*.json")]
    points, epochs = [], []
    for side_car, path in sorted(stored, key=lambda pair: pair[0].training.epoch):
        check_side_car(side_car, given, path)
        model = model_of(side_car)
        fit_weights(model, load_weights(path.with_suffix(".pt"), trust=given.trust), path, given.extra_keys)
        points.append(flat_weights(model, item.analysis.params))
        epochs.append(side_car.training.epoch)
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
