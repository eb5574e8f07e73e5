"""The way of a run that goes on from another study: read from what our own training writes, against weights read by hand."""

import json
from pathlib import Path

import pytest
import torch
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.side_car import RunSideCar, SideCar, read_side_car, side_car_of
from saddlescope.analysis.records.steps import Course
from saddlescope.analysis.records.study_plan import StudyAnalysis
from saddlescope.analysis.studies.analyses import analyze_study
from saddlescope.analysis.studies.escape_course import CourseError, course_items, do_course
from saddlescope.training.runs.recipe import parse_recipe
from saddlescope.training.runs.study import train_study
from safetensors.torch import load_file

FIRST = {
    "name": "first",
    "question": "Where from?",
    "seeds": [0],
    "data": {"name": "synthetic", "imbalance_factor": 10, "n_max": 20},
    "groups": {"eta": 8, "many": 15, "few": 4},
    "model": {"name": "digits-mlp", "args": {"width": 4, "depth": 1}},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.1, "checkpoint_every": 1},
    "optimizers": {"sgd": {}},
    "analysis": {"goal": "ends", "steps": 20, "only": ["head", "tail"]},
    "slices": {"lines": [], "planes": []},
}
FORK = {
    **FIRST,
    "name": "fork",
    "loss": {"name": "cross-entropy", "drw_epoch": 1},
    "training": {**FIRST["training"], "start_from": "first", "schedule": "constant", "checkpoint_every_steps": 2},
    "optimizers": {"sgd": {}, "ssesam": {"gamma": 0.5}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both studies, trained; the first is analysed."""
    out = tmp_path_factory.mktemp("runs")
    train_study(parse_recipe(FIRST), out / "first")
    train_study(parse_recipe(FORK), out / "fork")
    analyze_study(out / "first", StudyAnalysis.parse(FIRST))
    return out


def test_analysis_reads_every_side_car_that_training_writes(trained):
    written = sorted([*trained.glob("*/*/checkpoint.json"), *trained.glob("*/*/checkpoints/*.json")])
    assert {path.stem.split("-")[0] for path in written} == {"checkpoint", "epoch", "step"}
    for path in written:
        raw = json.loads(path.read_text())
        assert read_side_car(path, RunSideCar).record() == raw
        assert side_car_of(path.with_suffix(".pt")).record() == raw
        told = read_side_car(path, SideCar).training
        assert (told.start is not None) == (path.parents[1].name == "fork" or path.parents[2].name == "fork")
        assert (told.step is not None) == path.stem.startswith("step")


def flat(path: Path, names: list[str]) -> torch.Tensor:
    state = torch.load(path, weights_only=True)
    return torch.cat([state[name].double().flatten() for name in names])


def test_the_way_is_measured_along_the_starts_eigenvectors(trained):
    plan = StudyAnalysis.parse(FORK)
    analyze_study(trained / "fork", plan)
    items = course_items(trained / "fork", plan)
    assert len(items) == 2
    (start,) = trained.glob("first/sgd-seed0-*")
    vectors = load_file(start / "curvature" / "checkpoint.head-tail.vectors.safetensors")
    names = list(torch.load(start / "checkpoint.pt", weights_only=True))  # no buffers: all are parameters
    for item in items:
        course = load(Course, item.output)
        assert course.started_from["run"] == start.name
        assert [point.step for point in course.points] == sorted(
            int(path.stem.split("-")[1]) for path in item.run.glob("checkpoints/step-*.pt")
        )
        for point in course.points:
            moved = flat(item.run / "checkpoints" / point.checkpoint, names) - flat(start / "checkpoint.pt", names)
            assert point.moved == pytest.approx(float(moved.norm()))
            assert point.along
            for group, distance in point.along.items():
                assert distance == pytest.approx(float(vectors[f"{group}/min"].double() @ moved), rel=1e-6, abs=1e-9)


def test_a_start_without_curvature_is_named(trained):
    item = course_items(trained / "fork", StudyAnalysis.parse(FORK))[0]
    missing = item.result.rename(item.result.with_suffix(".away"))
    try:
        with pytest.raises(CourseError, match=r"has no curvature result.*run 'saddlescope analyze .*first' first"):
            do_course(item)
    finally:
        missing.rename(item.result)
