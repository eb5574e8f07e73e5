"""Where a run that goes on from another study's checkpoint goes: its way along that checkpoint's eigenvectors.

The run's side-cars name the checkpoint it started from; the most negative eigenvectors of the groups are read from the
curvature result stored beside that. What is measured here needs weights only; losses and curvature on the way are ordinary
results of the run's own checkpoints.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.analysis_inputs import open_checkpoint
from ..checkpoints.checkpoint_flags import Given
from ..checkpoints.weights import load_weights
from ..hessian.modules import select_parameters
from ..krylov.sliced_files import StoredVectors
from ..records.base import ResultError, load, save
from ..records.results import CurvatureResult
from ..records.side_car import side_car_of
from ..records.steps import Course, CoursePoint, StartPoint
from ..records.study_plan import StudyAnalysis, curvature_item, run_folders
from ..records.training_record import Start


class CourseError(ValueError):
    """A way cannot be measured; the message says what is missing and how to make it."""


@dataclass(frozen=True)
class CourseItem:
    """One unit of work: one run that goes on from another study."""

    run: Path
    scheme: str
    start: Path
    result: Path
    output: Path

    def __str__(self) -> str:
        return f"the way of {self.run}"


def course_items(study: Path, plan: StudyAnalysis) -> list[CourseItem]:
    """Every run of the study that goes on from another one and is finished."""
    items = []
    for folder, _ in run_folders(study):
        start = _start_of(folder)
        if start is None:
            continue
        checkpoint = Path(os.path.normpath(study / start.checkpoint))
        result = curvature_item(checkpoint, plan.final).output
        items.append(CourseItem(folder, plan.final.scheme, checkpoint, result, folder / "course" / f"{plan.final.scheme}.json"))
    return items


def course_is_current(item: CourseItem) -> bool:
    """Whether the stored way is of these checkpoints and this start."""
    try:
        stored, start = load(Course, item.output), load(CurvatureResult, item.result)
    except ResultError:
        return False
    there = [sha256 for _, _, sha256 in _checkpoints(item.run)]
    return [point.checkpoint_sha256 for point in stored.points] == there and stored.vectors == _hashes(start)


def do_course(item: CourseItem, given: Given | None = None) -> None:
    """Measures and stores one way.

    Raises:
        CourseError: the starting checkpoint has no curvature result with eigenvectors, or one of other weights.
    """
    try:
        start = load(CurvatureResult, item.result)
        vectors = StoredVectors(item.result.parent / str(start.vectors_file))
    except (ResultError, OSError) as error:
        raise CourseError(
            f"{item.run}: the checkpoint that it started from, {item.start}, has no curvature result under '{item.scheme}' "
            f"with its eigenvectors ({error}); run 'saddlescope analyze {item.start.parent.parent}' first"
        ) from None
    told = _start_of(item.run)
    if told is None or start.provenance.checkpoint_sha256 != told.sha256:
        raise CourseError(
            f"{item.run}: {item.result} was measured on other weights than those that the run started from; analyze "
            f"{item.start.parent.parent} again, or train this study again"
        )
    names, _ = select_parameters(open_checkpoint(item.start, given).model, start.provenance.params_pattern)
    origin = _flat(item.start, names)
    directions = {group: vectors[f"{group}/min"].double() for group in _hashes(start)}
    points = []
    for path, step, sha256 in _checkpoints(item.run):
        moved = _flat(path, names) - origin
        points.append(
            CoursePoint(
                step=step,
                checkpoint=path.name,
                checkpoint_sha256=sha256,
                along={group: float(torch.dot(v, moved) / v.norm()) for group, v in directions.items()},
                moved=float(moved.norm()),
            )
        )
    course = Course(
        scheme=start.scheme,
        start={
            group: StartPoint(
                loss=entry.loss, lambda_min=entry.lambda_min, verdict=entry.verdict, weight_norm=entry.weight_norm
            )
            for group, entry in start.groups.items()
        },
        started_from={"study": told.study, "run": told.run, "sha256": told.sha256},
        vectors=_hashes(start),
        points=points,
    )
    save(course, item.output)


def _start_of(run: Path) -> Start | None:
    """What the run goes on from; None where it began anew, or is not finished."""
    side_car = side_car_of(run / "checkpoint.pt")
    return side_car.training.start if side_car is not None and side_car.training is not None else None


def _checkpoints(run: Path) -> list[tuple[Path, int, str]]:
    """File, step and SHA-256 of the checkpoints that were stored every so many steps, in their order."""
    found = []
    for path in run.glob("checkpoints/step-*.json"):
        side_car = side_car_of(path.with_suffix(".pt"))
        if side_car is not None and side_car.training is not None and side_car.training.step is not None:
            found.append((path.with_suffix(".pt"), side_car.training.step, side_car.sha256))
    return sorted(found, key=lambda checkpoint: checkpoint[1])


def _hashes(start: CurvatureResult) -> dict[str, str]:
    """SHA-256 of the eigenvector of each group that has a certificate."""
    return {name: group.certificate.vector_sha256 for name, group in start.groups.items() if group.certificate is not None}


def _flat(checkpoint: Path, names: list[str]) -> Tensor:
    state = load_weights(checkpoint)
    return torch.cat([state[name].detach().double().reshape(-1) for name in names])
