"""Runs and studies: killed and continued to the same digits, refused before training, failures kept apart."""

import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
from saddlescope.analysis.records.load_study import load_study
from saddlescope.training.data.datasets import load_data
from saddlescope.training.networks.models import build_model
from saddlescope.training.optimizers.registry import OptimizerError
from saddlescope.training.runs.accuracy import class_groups, measure_accuracy
from saddlescope.training.runs.checkpoint import StateError
from saddlescope.training.runs.loop import TrainingError, train_run
from saddlescope.training.runs.recipe import RecipeError, load_recipe
from saddlescope.training.runs.run import runs
from saddlescope.training.runs.session import Session, _seed_layers
from saddlescope.training.runs.study import epochs_done, train_study
from saddlescope.training.runs.tensorboard import scalars, write_events


def content(folder):
    """Everything a run left, but for the seconds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".pt":
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".json":
            raw = json.loads(path.read_text())
            raw.pop("provenance", None)
            found[path.name] = raw
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return found


def test_seeds_are_added_to_a_finished_study_and_its_runs_stay_as_they_are(recipe, tmp_path):
    tables = {"optimizers": {"sgd": {}, "ssesam": {"gamma": 0.5}}, "training": {"epochs": 2}}
    few = recipe(**tables)
    train_study(few, tmp_path)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*-seed0-*/**/*") if path.is_file()}
    more = few.model_copy(update={"seeds": [0, 1]})
    train_study(more, tmp_path)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert [(run.optimizer, run.seed, run.finished) for run in load_study(tmp_path).runs] == [
        (optimizer, seed, True) for optimizer in ("sgd", "ssesam") for seed in (0, 1)
    ]


def test_layers_draw_what_the_global_seed_would_let_them_draw():
    with torch.random.fork_rng():
        torch.manual_seed(71)
        wanted = torch.nn.functional.dropout(torch.ones(50))
        _seed_layers(torch.device("cpu"), 71)
        assert torch.equal(torch.nn.functional.dropout(torch.ones(50)), wanted)


class Killed(BaseException):
    """What a kill is to the code that it hits: nothing catches it."""


@pytest.mark.parametrize("optimizer", ["sgd", "sam", "imbsam", "ssesam", "ccsam", "focalsam"])
def test_killed_after_any_step_it_continues_to_the_same_digits(recipe, optimizer, tmp_path, monkeypatch):
    run = next(run for run in runs(recipe()) if run.optimizer == optimizer)
    data = load_data(**run.data.model_dump(exclude_none=True))
    train_run(run, tmp_path / "whole", data)
    steps = Session.steps

    def interrupted(self):
        for count, _ in enumerate(steps(self)):
            yield
            if (self.epoch, self.step) in deadly and count >= 0:
                deadly.remove((self.epoch, self.step))
                raise Killed

    deadly = {(0, 1), (1, 2), (2, 1), (2, 3), (4, 2)}
    monkeypatch.setattr(Session, "steps", interrupted)
    for _ in range(5):
        with pytest.raises(Killed):
            train_run(run, tmp_path / "killed", data, state_seconds=0.0)
        assert not (tmp_path / "killed" / "checkpoint.json").exists()
    train_run(run, tmp_path / "killed", data, state_seconds=0.0)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert not (tmp_path / "killed" / "state.pt").exists()


def test_a_step_within_the_first_re_weighted_epoch_says_that_it_was_re_weighted(recipe, tmp_path):
    plan = recipe(
        optimizers={"sgd": {}},
        loss={"name": "cross-entropy", "drw_epoch": 2},
        training={"epochs": 4, "checkpoint_every": None, "checkpoint_every_steps": 1},
    )
    (folder,) = train_study(plan, tmp_path)
    steps = -(-len(load_data(**plan.data.model_dump(exclude_none=True)).train) // 32)
    for path in folder.glob("checkpoints/step-*.json"):
        car = json.loads(path.read_text())
        epoch = (car["training"]["step"] - 1) // steps  # of this step, from 0
        assert (car["loss"]["args"].get("drw_epoch") == 0) == (epoch >= 2), path.name


def test_a_network_that_was_changed_is_not_continued(recipe, tmp_path, monkeypatch):
    run = next(run for run in runs(recipe()) if run.optimizer == "sgd")
    data = load_data(**run.data.model_dump(exclude_none=True))

    def stopped(self):
        yield from steps(self)
        raise Killed

    steps = Session.steps
    monkeypatch.setattr(Session, "steps", stopped)
    with pytest.raises(Killed):
        train_run(run, tmp_path, data, state_seconds=0.0)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["model"].popitem()
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(StateError, match="another network"):
        train_run(run, tmp_path, data)


def test_accuracy_of_a_model_that_returns_an_object_with_logits():
    data = load_data("synthetic", 10, n_max=40)

    class Named(torch.nn.Module):
        def forward(self, x):
            return SimpleNamespace(logits=torch.nn.functional.one_hot(torch.full((len(x),), 1), 5).float())

    assert measure_accuracy(Named(), data.test, {"all": [0, 1, 2, 3, 4]})["all"] == 0.2


def test_a_side_car_tells_all_that_an_analysis_needs(recipe, tmp_path):
    (folder,) = train_study(recipe(optimizers={"ssesam": {"gamma": 0.5}}), tmp_path)
    side_car = json.loads((folder / "checkpoint.json").read_text())
    raw = (folder / "checkpoint.pt").read_bytes()
    assert side_car["sha256"] == hashlib.sha256(raw).hexdigest()
    assert side_car["training"]["stage_switch_epoch"] == 3
    assert sorted(p.stem for p in folder.glob("checkpoints/*.json")) == ["epoch-002", "epoch-003", "epoch-004"]
    stages = [json.loads(line)["stage"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert stages == [1, 1, 1, 2, 2]
    model = build_model(**side_car["model"]["args"])
    model.load_state_dict(torch.load(folder / "checkpoint.pt", weights_only=True))
    data = load_data(**side_car["data"]["args"])
    groups = class_groups(data.class_counts, **side_car["groups"])
    assert measure_accuracy(model, data.test, groups) == side_car["training"]["accuracy"]


def test_accuracy_is_the_share_of_right_answers_of_each_group():
    data = load_data("synthetic", 10, n_max=40)

    class Always(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 1), 5).float()

    found = measure_accuracy(Always(), data.test, {"all": [0, 1, 2, 3, 4], "head": [0, 1], "none": []}, batch_size=7)
    assert found == {"all": 0.2, "head": 0.5, "none": None, "per_class": [0, 1, 0, 0, 0]}


def test_finished_runs_are_left_alone_and_unfinished_ones_counted(recipe, tmp_path):
    tiny = recipe(optimizers={"sgd": {}, "sam": {}})
    folders = train_study(tiny, tmp_path, only=["sgd"])
    assert epochs_done(tmp_path, tiny) == (5, 10)
    stamp = (folders[0] / "checkpoint.pt").stat().st_mtime_ns
    train_study(tiny, tmp_path, jobs=2)
    assert (folders[0] / "checkpoint.pt").stat().st_mtime_ns == stamp
    assert epochs_done(tmp_path, tiny) == (10, 10)


def test_a_named_variant_trains_as_its_rule_does_and_says_so(recipe, tmp_path):
    group = {"normalisation": "group"}
    variants = recipe(optimizers={"imbsam": {}, "imbsam-group": {"rule": "imbsam", **group}})
    plain, named = (json.loads((f / "checkpoint.json").read_text()) for f in train_study(variants, tmp_path / "variants"))
    (alone,) = (
        json.loads((f / "checkpoint.json").read_text()) for f in train_study(recipe(optimizers={"imbsam": group}), tmp_path)
    )
    assert named["sha256"] == alone["sha256"] != plain["sha256"]
    assert (named["training"]["optimizer"], named["training"]["rule"]) == ("imbsam-group", "imbsam")
    assert named["training"]["optimizer_settings"] == alone["training"]["optimizer_settings"]
    assert "rule" not in plain["training"]
    assert "rule" not in plain["recipe"]
    study = load_study(tmp_path / "variants").variants
    assert {key: entry.named("ImbSAM") for key, entry in study.items()} == {
        "imbsam": "ImbSAM (batch)",
        "imbsam-group": "ImbSAM (group)",
    }
    with pytest.raises(OptimizerError, match=r"\[optimizers.imbsam-group\] has unknown setting 'rhoo'; it takes: "):
        train_study(recipe(optimizers={"imbsam-group": {"rule": "imbsam", "rhoo": 1}}), tmp_path / "bad")


@pytest.mark.slow
def test_digits_do_not_depend_on_the_number_of_workers(recipe, tmp_path):
    tiny = recipe(optimizers={"sgd": {}, "ssesam": {}})
    for name, jobs in (("one", 1), ("two", 2)):
        train_study(tiny, tmp_path / name, jobs=jobs)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_diverging_run_fails_with_the_fix_and_the_others_are_kept(recipe, tmp_path):
    wild = recipe(training={"lr": 1e30}, optimizers={"sgd": {}})
    with pytest.raises(TrainingError, match=r"the loss or a weight is no longer a finite number .* Lower training.lr"):
        train_study(wild, tmp_path)
    assert not list(tmp_path.glob("*/checkpoint.json"))


def test_a_damaged_state_is_named(recipe, tmp_path):
    run = runs(recipe())[0]
    data = load_data(**run.data.model_dump(exclude_none=True))
    tmp_path.joinpath("state.pt").write_bytes(b"cut")
    with pytest.raises(StateError, match=r"state\.pt cannot be read"):
        train_run(run, tmp_path, data)


def test_an_optimizer_that_the_recipe_lacks(recipe, tmp_path):
    with pytest.raises(RecipeError, match="it has: sgd, sam"):
        train_study(recipe(), tmp_path, only=["adam"])


def test_accuracies_are_measured_where_they_are_due(tmp_path):
    changes = ["training.epochs=7", "seeds=[0]", "training.evaluate_every=3", "training.checkpoint_every=5"]
    (run,) = train_study(load_recipe("digits-lt", changes), tmp_path, only=["sgd"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["accuracy"]] == [3, 5, 6, 7]
    (each,) = train_study(load_recipe("digits-lt", changes[:2]), tmp_path / "each", only=["sgd"])
    final = [json.loads((folder / "checkpoint.json").read_text()) for folder in (run, each)]
    assert final[0]["sha256"] == final[1]["sha256"]
    assert final[0]["training"]["accuracy"] == final[1]["training"]["accuracy"]


def test_shares_of_two_processes_are_the_whole_study(recipe, tmp_path):
    plan = recipe(optimizers={"sgd": {}, "imbsam": {}}, training={"epochs": 1, "checkpoint_every": 1})
    parts = [train_study(plan, tmp_path / "shared", shard=f"{i}/2") for i in range(2)]
    assert epochs_done(tmp_path / "shared", plan, shard="1/2") == (1, 1)
    assert not set(parts[0]) & set(parts[1])
    whole = train_study(plan, tmp_path / "alone")
    assert sorted(path.name for part in parts for path in part) == sorted(path.name for path in whole)
    assert all(content(path) == content(tmp_path / "shared" / path.name) for path in whole)
    for wrong in ("2/2", "1", "-1/2", "1/0"):
        with pytest.raises(RecipeError, match=f"--shard {wrong}: write i/n"):
            train_study(plan, tmp_path / "wrong", shard=wrong)


def test_tensorboard_gets_what_was_measured():
    row = {
        "epoch": 3,
        "stage": None,
        "lr": 0.1,
        "train_loss": 0.5,
        "accuracy": {"all": 0.9, "few": None, "per_class": [1.0, 0.8]},
    }
    expected = {"lr": 0.1, "train loss": 0.5, "accuracy/all": 0.9, "accuracy per class/0": 1.0, "accuracy per class/1": 0.8}
    assert scalars(row) == expected
    assert scalars({**row, "accuracy": None, "stage": 2}) == {"lr": 0.1, "train loss": 0.5, "stage": 2}


def test_tensorboard_files_are_written_anew(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = [{"epoch": e, "stage": None, "lr": 0.1, "train_loss": 1.0 / e, "accuracy": None} for e in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        reader = events.EventAccumulator(str(write_events(tmp_path)))
        reader.Reload()
        assert [(point.step, point.value) for point in reader.Scalars("train loss")] == [(1, 1.0), (2, 0.5)]
