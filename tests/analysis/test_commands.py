"""The command line as a stranger with a repository of their own uses it."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from saddlescope.analysis.checkpoints.user_code import _load_samples
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.studies.pass_times import Passes
from safetensors.torch import save_file

import saddlescope

OURS = ("--model", "training.nets:net", "--data", "data.py:tensors", "--eta", "10", "--steps", "40")


def test_one_command_answers_for_somebody_elses_checkpoint(project, run):
    code, out, err = run("analyze", "ckpt.pt", *OURS)
    assert code == 0, err
    result = load(CurvatureResult, project / "curvature" / "ckpt.head-tail.json")
    assert list(result.groups) == ["all", "head", "tail"]
    assert result.provenance.class_counts == [30, 12, 5]
    for group in result.groups.values():
        assert group.verdict.sentence.split(":")[0] in " ".join(out.split())
    assert result.additivity < 1e-5


def test_a_user_package_named_training_is_theirs_and_ours_stays_ours(project, run):
    assert run("analyze", "ckpt.pt", *OURS)[0] == 0
    assert Path(sys.modules["training"].__file__).parent == project / "training"
    assert Path(sys.modules["saddlescope.analysis.measures.analyze"].__file__).parents[1] != project


def test_a_second_call_measures_nothing(project, run):
    run("analyze", "ckpt.pt", *OURS)
    first = (project / "curvature" / "ckpt.head-tail.json").read_bytes()
    run("analyze", "ckpt.pt", *OURS)
    assert (project / "curvature" / "ckpt.head-tail.json").read_bytes() == first
    run("analyze", "ckpt.pt", *OURS, "--seed", "1")
    assert (project / "curvature" / "ckpt.head-tail.json").read_bytes() != first


def test_json_is_the_stored_result(project, run):
    code, out, _ = run("analyze", "ckpt.pt", *OURS, "--json")
    assert code == 0
    assert json.loads(out[out.index("{") :]) == json.loads((project / "curvature" / "ckpt.head-tail.json").read_text())


def test_every_way_to_give_the_data_gives_the_same_numbers(project, run):
    x, y = saddlescope.load_factory("data.py:tensors")()
    np.savez(project / "arrays.npz", inputs=x.numpy(), labels=y.numpy())
    torch.save((x, y), project / "tensors.pt")
    values = []
    for number, given in enumerate(("data.py:tensors", "data.py:dataset", "data:dataset", "arrays.npz", "tensors.pt")):
        out = project / f"out{number}"
        code, _, err = run("analyze", "ckpt.pt", *OURS, "--data", given, "--out", out)
        assert code == 0, err
        groups = load(CurvatureResult, out / "ckpt.head-tail.json").groups
        values.append([group.lambda_min.value for group in groups.values()])
    assert all(row == values[0] for row in values)
    own = ("--data", "data.py:dictionaries", "--loss", "losses.py:dictionary", "--out", "dictionaries")
    assert run("analyze", "ckpt.pt", *OURS, *own)[0] == 0
    groups = load(CurvatureResult, project / "dictionaries" / "ckpt.head-tail.json").groups
    assert [group.lambda_min.value for group in groups.values()] == values[0]


def test_groups_by_list_and_by_file(project, run):
    given = ("--model", "training.nets:net", "--data", "data.py:tensors", "--steps", "20")
    assert run("analyze", "ckpt.pt", *given, "--group", "rare=1,2", "--group", "common=0")[0] == 0
    assert list(load(CurvatureResult, project / "curvature" / "ckpt.custom.json").groups) == ["rare", "common"]
    (project / "groups.json").write_text('{"odd": [1]}')
    assert run("analyze", "ckpt.pt", *given, "--groups", "groups.json")[0] == 0
    assert list(load(CurvatureResult, project / "curvature" / "ckpt.custom.json").groups) == ["odd"]
    assert run("analyze", "ckpt.pt", *given, "--groups", "per-class")[0] == 0


def test_a_series_is_natural_ordered_thinned_and_shared(project, run, architecture):
    from saddlescope.analysis.checkpoints.discovery import find_checkpoints

    (project / "series").mkdir()
    for epoch in (1, 2, 10):
        torch.save(architecture().state_dict(), project / "series" / f"epoch-{epoch}.pt")
    assert [p.stem for p in find_checkpoints(["series"])] == ["epoch-1", "epoch-2", "epoch-10"]
    assert [p.stem for p in find_checkpoints(["series/epoch-1*.pt"])] == ["epoch-1", "epoch-10"]
    code, out, err = run("analyze", "series", *OURS, "--every", "2", "--jobs", "1")
    assert code == 0, err
    assert sorted(p.name for p in (project / "series" / "curvature").glob("*.json")) == [
        "epoch-1.head-tail.json",
        "epoch-10.head-tail.json",
    ]
    assert "epoch-10 " in out  # named by what tells it apart
    assert run("analyze", "series", *OURS, "--shard", "1/3", "--jobs", "1")[0] == 0
    assert (project / "series" / "curvature" / "epoch-2.head-tail.json").exists()


def test_named_extra_keys_are_left_out_and_remembered(project, run, architecture):
    torch.save(architecture().state_dict() | {"embeddings.position_ids": torch.arange(3)}, project / "ckpt.pt")
    code, _, err = run("analyze", "ckpt.pt", *OURS)
    assert code == 2
    assert "--allow-extra-keys 'embeddings.position_ids'" in err
    code, _, err = run("analyze", "ckpt.pt", *OURS, "--allow-extra-keys", "*.position_ids")
    assert code == 0, err
    path = project / "curvature" / "ckpt.head-tail.json"
    assert load(CurvatureResult, path).provenance.subject["extra_keys"] == ["*.position_ids"]
    assert run("verify", path, *OURS[:4])[0] == 0


def test_layers_are_blocks_of_the_whole_hessian(project, run):
    code, _, err = run("analyze", "ckpt.pt", *OURS, "--layers", "--jobs", "1")
    assert code == 0, err
    results = [load(CurvatureResult, path) for path in project.glob("curvature/ckpt.head-tail.*.json")]
    run("analyze", "ckpt.pt", *OURS)
    whole = load(CurvatureResult, project / "curvature" / "ckpt.head-tail.json")
    assert sorted(result.provenance.params_pattern for result in results) == ["0.*", "1.*", "4.*"]
    assert sum(result.provenance.parameters for result in results) == whole.provenance.parameters
    for result in results:  # Cauchy interlacing: no block reaches beyond the whole
        for name, group in result.groups.items():
            assert group.lambda_max.value <= whole.groups[name].lambda_max.interval[1]
            assert group.lambda_min.value >= whole.groups[name].lambda_min.interval[0]


def test_where_nobody_watches_each_group_is_a_line(project, run):
    code, _, errors = run("analyze", "ckpt.pt", *OURS, "--set", "escape=false")
    assert code == 0
    lines = [line for line in errors.splitlines() if line.startswith("ckpt.pt, ")]
    assert [line.split(":")[0] for line in lines] == ["ckpt.pt, all", "ckpt.pt, head", "ckpt.pt, tail"]
    assert all("steps" in line for line in lines)
    assert all("left" in line for line in lines[:2])


def test_the_time_left_is_said_for_every_class_too(project, run):
    code, _, errors = run("analyze", "ckpt.pt", *OURS[:4], "--groups", "per-class", "--goal", "verdict")
    assert code == 0
    lines = [line for line in errors.splitlines() if line.startswith("ckpt.pt, ")]
    assert len(lines) > 2
    assert all("s left" in line for line in lines[:-1])
    assert "left" not in lines[-1]


def test_dry_run_counts_the_forward_passes_of_critical_steps(project, run, monkeypatch):
    """Counted beside the passes that are then taken: no products, and a forward pass for each step that is tried."""
    code, out, _ = run("analyze", "ckpt.pt", *OURS, "--goal", "critical-step", "--dry-run", "--json")
    cost = json.loads(out)
    assert code == 0
    assert cost["steps"] == 0
    assert all(group["products"] == 0 for group in cost["groups"])
    passes, take = [], HessianOperator.mean_loss
    monkeypatch.setattr(HessianOperator, "mean_loss", lambda self: passes.append(self.num_samples) or take(self))
    monkeypatch.setattr("saddlescope.analysis.studies.pass_times._timed", lambda *_: Passes(0, 0, 0, 0, 60.0, 0, 0, 0))
    counted = json.loads(run("analyze", "ckpt.pt", *OURS, "--goal", "critical-step", "--dry-run", "--json")[1])
    passes.clear()
    assert run("analyze", "ckpt.pt", *OURS, "--goal", "critical-step")[0] == 0
    assert 0.5 * sum(passes) < sum(group["minutes"] for group in counted["groups"]) < 2 * sum(passes)
    assert sum(passes) <= sum(group["minutes_at_most"] for group in counted["groups"])


def test_what_a_quick_analysis_is_announced_to_take_it_takes(project, run, monkeypatch):
    """Products counted as they are done, each sample of one a minute."""
    done, take = [], HessianOperator.matvec
    monkeypatch.setattr(HessianOperator, "matvec", lambda self, v: done.append(self.num_samples) or take(self, v))
    monkeypatch.setattr("saddlescope.analysis.studies.pass_times._timed", lambda *_: Passes(0, 60.0, 60.0, 0, 0, 0, 0, 0))
    announced = json.loads(run("analyze", "ckpt.pt", *OURS[:-2], "--quick", "--dry-run", "--json")[1])
    done.clear()
    assert run("analyze", "ckpt.pt", *OURS[:-2], "--quick")[0] == 0
    assert announced["minutes"] / 1.5 < sum(done) < 1.5 * announced["minutes"]
    assert announced["minutes_at_least"] < sum(done) < announced["minutes_at_most"]


def test_dry_run_writes_nothing(project, run):
    code, out, _ = run("analyze", "ckpt.pt", *OURS, "--dry-run")
    assert code == 0
    assert "minutes" in out
    code, out, _ = run("analyze", "ckpt.pt", *OURS, "--dry-run", "--json")
    assert code == 0
    cost = json.loads(out)
    assert [group["group"] for group in cost["groups"]] == ["all", "head", "tail"]
    counted = cost["shared_minutes"] + sum(group["minutes"] for group in cost["groups"])
    assert cost["minutes_in_all"] == cost["start_minutes"] + cost["minutes"] > cost["minutes"] == counted > 0
    assert cost["minutes"] <= cost["minutes_at_most"]
    assert all(group["seconds_in_float64"] > 0 for group in cost["groups"])
    assert not (project / "curvature").exists()


@pytest.mark.parametrize("goal", ["ends", "verdict"])
def test_a_goal_measures_less_and_says_what_is_a_bound(project, run, goal):
    given = ("--model", "training.nets:net", "--data", "data.py:tensors", "--eta", "10")
    assert run("analyze", "ckpt.pt", *given)[0] == 0
    whole = load(CurvatureResult, project / "curvature" / "ckpt.head-tail.json")
    code, out, _ = run("analyze", "ckpt.pt", *given, "--goal", goal, "--out", "less", "--figures", "pictures")
    assert code == 0
    found = load(CurvatureResult, project / "less" / "ckpt.head-tail.json")
    assert found.provenance.settings["goal"] == goal
    for name, group in found.groups.items():
        assert group.density is None
        assert group.verdict.label == whole.groups[name].verdict.label
        assert group.steps < whole.groups[name].steps
    assert ("a bound" in out) == any(not group.lambda_min.converged for group in found.groups.values())
    assert (project / "pictures" / "extremes.png").exists()
    assert not (project / "pictures" / "density.png").exists()
    code, _, errors = run("analyze", "ckpt.pt", *given, "--goal", goal, "--k", "3", "--out", "less")
    assert code == 2
    assert "leave out k" in errors


def test_quick_says_what_it_gave_up(project, run):
    given = ("--model", "training.nets:net", "--data", "data.py:tensors", "--eta", "10")
    code, out, _ = run("analyze", "ckpt.pt", *given, "--quick")
    assert code == 0
    assert "gave up" in out
    settings = load(CurvatureResult, project / "curvature" / "ckpt.head-tail.json").provenance.settings
    assert (settings["goal"], settings["steps"], settings["rates"]) == ("verdict", 30, False)
    code, out, _ = run("analyze", "ckpt.pt", *given, "--quick", "--starts", "2", "--again")  # a verdict has one start
    assert code == 0
    assert load(CurvatureResult, project / "curvature" / "ckpt.head-tail.json").provenance.settings["goal"] == "spectrum"


def test_other_losses_change_the_numbers(project, run):
    run("analyze", "ckpt.pt", *OURS, "--out", "plain")
    run("analyze", "ckpt.pt", *OURS, "--loss", "losses.py:smooth", "--out", "smooth")
    plain, smooth = (load(CurvatureResult, project / name / "ckpt.head-tail.json") for name in ("plain", "smooth"))
    assert plain.groups["all"].loss != smooth.groups["all"].loss
    assert smooth.provenance.loss == "losses.py:smooth"


def test_two_checkpoints_never_share_a_result(project, run, architecture):
    torch.manual_seed(1)
    other = architecture().state_dict()
    save_file(other, project / "ckpt.safetensors")
    for name in ("a", "b"):
        (project / name).mkdir()
        torch.save({key: value * (2 if name == "b" else 1) for key, value in other.items()}, project / name / "m.pt")
    code, _, err = run("analyze", "ckpt.pt", "ckpt.safetensors", *OURS)
    assert code == 0, err
    assert {path.name for path in (project / "curvature").glob("*.json")} == {
        "ckpt.pt.head-tail.json",
        "ckpt.safetensors.head-tail.json",
    }
    code, _, err = run("analyze", "a/m.pt", "b/m.pt", *OURS, "--out", "both")
    assert code == 0, err
    losses = [load(CurvatureResult, project / "both" / f"{name}-m.pt.head-tail.json").groups["all"].loss for name in "ab"]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [("data.py", "+ y[:,", "+ 2 * y[:,"), ("training/nets.py", "nn.ReLU()", "nn.GELU()"), ("losses.py", "0.1", "0.3")],
)
def test_edited_code_is_measured_again(project, run, file, before, after):
    arguments = ("analyze", "ckpt.pt", *OURS, "--loss", "losses.py:smooth", "--json")
    first = json.loads(run(*arguments)[1])
    assert json.loads(run(*arguments)[1]) == first
    text = (project / file).read_text()
    assert before in text
    (project / file).write_text(text.replace(before, after))
    os.utime(project / file, (0, 0))  # another time stamp than the compiled file's
    for name in [name for name in sys.modules if name.startswith("_user_") or name.split(".")[0] == "training"]:
        del sys.modules[name]  # what a new process would not have
    _load_samples.cache_clear()
    again = json.loads(run(*arguments)[1])
    assert again["groups"]["all"]["loss"] != first["groups"]["all"]["loss"]
    _, out, _ = run(*arguments, "--again")
    fresh = json.loads(out)
    shutil.rmtree(project / "curvature")
    assert json.loads(run(*arguments)[1])["groups"] == fresh["groups"] == again["groups"]


def test_states_to_continue_from_are_no_checkpoints(project, run):
    assert run("analyze", ".", *OURS)[0] == 0
    code, out, err = run("analyze", ".", *OURS, "--starts", "2")
    assert code == 0, err
    assert "2 results" not in out


def test_a_file_may_import_packages_of_the_folder_that_the_command_runs_in(project, run):
    (project / "scripts").mkdir()
    (project / "scripts" / "factory.py").write_text("from training.nets import net\n")
    code, _, err = run("analyze", "ckpt.pt", "--model", "scripts/factory.py:net", "--data", "data.py:tensors", "--eta", "10")
    assert code == 0, err


def test_results_by_differences_say_so_and_are_verified(project, run):
    code, out, err = run("analyze", "ckpt.pt", *OURS, "--products", "differences")
    assert code == 0, err
    assert "by central differences of the gradient" in out
    path = project / "curvature" / "ckpt.head-tail.json"
    groups = load(CurvatureResult, path).groups
    assert {group.products for group in groups.values()} == {"differences"}
    assert groups["tail"].certificate.holds
    code, out, err = run("verify", path, *OURS[:4])
    assert code == 0, err
    assert "tail: holds" in out
    assert run("analyze", "ckpt.pt", *OURS, "--products", "guesses")[0] == 2
    assert run("analyze", "ckpt.pt", *OURS, "--products", "differences", "--dry-run")[0] == 0
