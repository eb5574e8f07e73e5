"""A study's analyses: complete, resumable, and independent of how the work is spread."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from saddlescope.analysis.hessian.differences import Look
from saddlescope.analysis.records.base import load, save
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.study_plan import StudyAnalysis
from saddlescope.analysis.studies import slices
from saddlescope.analysis.studies.analyses import analyze_study
from saddlescope.analysis.studies.worker_pool import WorkError
from saddlescope.training.runs.recipe import parse_recipe
from saddlescope.training.runs.study import train_study

RECIPE = {
    "name": "tiny",
    "question": "Does it work?",
    "seeds": [0],
    "data": {"name": "synthetic", "imbalance_factor": 10, "n_max": 40},
    "groups": {"eta": 15, "many": 30, "few": 8},
    "model": {"name": "small-cnn", "args": {"width": 4}},
    "training": {"epochs": 4, "batch_size": 32, "lr": 0.1, "checkpoint_every": 1},
    "optimizers": {"sgd": {}, "ssesam": {}},
    "analysis": {
        "steps": 20,
        "min_steps": 5,
        "starts": 2,
        "along": {"starts": 1, "escape": False},
        "also": [{"scheme": "per-class"}],
    },
    "slices": {"points": 5, "plane_points": 3, "lines": ["tail-min", "random"], "planes": ["tail-plane", "path-plane"]},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "tiny"
    train_study(parse_recipe(RECIPE), folder)
    return folder


@pytest.fixture
def study(trained, tmp_path):
    """A copy of the trained study without analyses."""
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "tiny"))


def numbers(study):
    """Everything stored, but for when and how long."""
    found = {}
    for path in sorted(study.rglob("*.json")):
        if path.parent.name not in ("curvature", "slices"):
            continue
        raw = json.loads(path.read_text())
        for field in ("created", "seconds", "git_commit"):
            raw["provenance"].pop(field)
        found[str(path.relative_to(study))] = raw
    return found


PLAN = StudyAnalysis.parse(RECIPE)


def test_every_checkpoint_and_slice_is_there_and_tells_its_origin(study):
    assert analyze_study(study, PLAN) == 2 * (1 + 1 + 3) + 2 * 4
    found = load_study(study)
    for run in found.runs:
        assert [epoch for epoch, _ in run.along()] == [1, 2, 3, 4]
        assert set(run.slices) == {"tail-min", "random", "tail-plane", "path-plane"}
        final = run.final()
        assert final.provenance.checkpoint_sha256 == run.side_car["sha256"]
        assert final.provenance.training["optimizer"] == run.optimizer
        assert final.provenance.index_sha256 == run.side_car["data"]["index_sha256"]
        assert final.additivity < 1e-4
        path = run.slices["path-plane"]
        assert path.path_epochs == [1, 2, 3, 4]
        assert path.path[-1] == [0, 0]
        line = run.slices["tail-min"]
        centre = line.axes[0].index(0.0)
        assert line.loss["tail"][centre] == pytest.approx(final.groups["tail"].loss, rel=1e-4)
        assert line.directions[0].eigenvalue == pytest.approx(final.groups["tail"].lambda_min.value, rel=1e-2)


def test_digits_do_not_depend_on_the_number_of_workers(study, trained, tmp_path):
    import shutil

    other = Path(shutil.copytree(trained, tmp_path / "other"))
    analyze_study(study, PLAN, jobs=1)
    analyze_study(other, PLAN, jobs=2)
    assert numbers(study) == numbers(other)


def test_what_is_current_is_left_alone_and_what_is_not_is_done_again(study):
    analyze_study(study, PLAN)
    assert analyze_study(study, PLAN) == 0
    sgd = next(run.folder for run in load_study(study).runs if run.optimizer == "sgd")
    (sgd / "curvature" / "epoch-001.head-tail.json").write_text('{"kind": "curva')
    (sgd / "slices" / "random.json").unlink()
    (sgd / "curvature" / "checkpoint.per-class.vectors.safetensors").unlink()
    assert analyze_study(study, PLAN) == 3
    elsewhere = StudyAnalysis.parse({**RECIPE, "analysis": {**RECIPE["analysis"], "basis": "disk"}})
    assert analyze_study(study, elsewhere) == 0  # no digit depends on where the vectors were kept
    changed = StudyAnalysis.parse({**RECIPE, "analysis": {**RECIPE["analysis"], "along": {"starts": 2, "escape": False}}})
    assert analyze_study(study, changed) == 6


def test_a_convexity_map_is_added_where_it_is_asked_for_and_then_kept(study):
    analyze_study(study, PLAN)
    asked = {**RECIPE, "slices": {**RECIPE["slices"], "convexity": ["tail-plane"], "convexity_groups": ["tail"]}}
    with_map = StudyAnalysis.parse(asked)
    assert analyze_study(study, with_map) == 2  # the tail's plane of both runs, and nothing else
    assert analyze_study(study, with_map) == analyze_study(study, PLAN) == 0  # asked for no more, it stays
    for run in load_study(study).runs:
        piece, final = run.slices["tail-plane"], run.final().groups["tail"]
        assert set(piece.lambda_min) == {"tail"}
        assert not run.slices["path-plane"].lambda_min
        assert piece.axes[0][1] == piece.axes[1][1] == 0
        assert piece.lambda_max["tail"][1][1] == pytest.approx(final.lambda_max.value, rel=1e-2)
        assert piece.provenance.settings["convexity"]["steps"] == 20
    path = load_study(study).runs[0].folder / "slices" / "random.json"
    raw = json.loads(path.read_text())
    raw["provenance"]["settings"]["slice"] |= {"lines": ["random"], "plane_seeds": [0, 1]}  # as before there were maps
    path.write_text(json.dumps(raw))
    closer = StudyAnalysis.parse({**asked, "slices": {**asked["slices"], "convexity_rtol": 1e-3}})
    assert analyze_study(study, closer) == 2


def test_a_failing_item_does_not_stop_the_others(study):
    sgd = next(run.folder for run in load_study(study).runs if run.optimizer == "sgd")
    (sgd / "checkpoints" / "epoch-002.pt").write_bytes(b"cut off")
    with pytest.raises(WorkError, match=r"epoch-002\.pt"):
        analyze_study(study, PLAN)
    assert len(list(study.glob("*/curvature/*.head-tail.json"))) == 7


@pytest.mark.slow
def test_killed_at_any_moment_it_continues_to_the_same_numbers(study, trained, tmp_path):
    import shutil

    whole = Path(shutil.copytree(trained, tmp_path / "whole"))
    analyze_study(whole, PLAN)
    script = (
        "import json, sys\nfrom pathlib import Path\n"
        "from saddlescope.analysis.studies.analyses import analyze_study\n"
        "from saddlescope.analysis.records.study_plan import StudyAnalysis\n"
        "analyze_study(Path(sys.argv[1]), StudyAnalysis.parse(json.loads(sys.argv[2])))\n"
    )
    for wanted in (1, 4, 9):
        process = subprocess.Popen([sys.executable, "-c", script, str(study), json.dumps(RECIPE)])
        while process.poll() is None and len(list(study.glob("*/curvature/*.json"))) < wanted:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    for path in study.glob("*/curvature/*.json"):
        load(CurvatureResult, path)  # whole files only
    analyze_study(study, PLAN)
    assert numbers(study) == numbers(whole)


def test_a_result_of_other_weights_is_not_taken_for_this_checkpoint(study):
    analyze_study(study, PLAN)
    run = load_study(study).runs[0]
    path = run.folder / "curvature" / "checkpoint.head-tail.json"
    result = load(CurvatureResult, path)
    save(result.model_copy(update={"provenance": result.provenance.model_copy(update={"checkpoint_sha256": "0" * 64})}), path)
    assert analyze_study(study, PLAN) == 1


def test_many_and_few_are_those_of_the_recipe(study):
    from saddlescope.analysis.records.settings import AnalysisSettings
    from saddlescope.analysis.records.study_plan import curvature_item
    from saddlescope.analysis.studies.analyses import curvature_is_current, do_curvature

    (checkpoint, *_) = sorted(study.glob("*/checkpoint.pt"))
    fast = AnalysisSettings(scheme="many-medium-few", steps=2, min_steps=2, escape=False)
    item = curvature_item(checkpoint, fast)
    do_curvature(item)
    stored = load(CurvatureResult, item.output)
    counts = stored.provenance.class_counts
    assert stored.scheme.groups["many"] == [c for c, n in enumerate(counts) if n > 30]
    assert stored.scheme.groups["few"] == [c for c, n in enumerate(counts) if n < 8]
    assert (stored.provenance.settings["many"], stored.provenance.settings["few"]) == (30, 8)
    assert curvature_is_current(item)
    assert not curvature_is_current(curvature_item(checkpoint, fast.model_copy(update={"many": 20, "few": 8})))


def test_the_slices_of_one_checkpoint_share_one_model_and_one_look_at_its_groups(study, monkeypatch):
    analyze_study(study, PLAN)
    before = numbers(study)
    for path in study.rglob("slices/*.json"):
        path.unlink()
    opened, looks = [], []
    own_open, own_look = slices.open_checkpoint, Look.__call__

    def opening(checkpoint, given=None, params=None):
        opened.append(checkpoint.parent.name)
        return own_open(checkpoint, given, params)

    def looking(self, vectors=None):
        looks.append(vectors is None)
        return own_look(self, vectors)

    monkeypatch.setattr(slices, "open_checkpoint", opening)
    monkeypatch.setattr(Look, "__call__", looking)
    assert analyze_study(study, PLAN) == 2 * 4
    assert len(opened) == len(set(opened)) == 2
    groups = ("all", "head", "tail")
    assert looks.count(True) == 2 * len(groups)
    assert looks.count(False) == 2 * len(groups) * 4  # the vectors of every slice are looked at, too
    assert numbers(study) == before


def test_a_slice_that_cannot_be_made_is_named_and_the_others_of_its_checkpoint_are_there(study):
    lost = {**RECIPE, "slices": {**RECIPE["slices"], "lines": ["nobody-min", "random"], "planes": []}}
    with pytest.raises(WorkError, match="'nobody-min' is no slice"):
        analyze_study(study, StudyAnalysis.parse(lost))
    assert len(list(study.rglob("slices/random.json"))) == 2
