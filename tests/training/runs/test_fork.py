"""Going on from another study: the same weights for every optimizer, and refusals by name."""

import json
import shutil

import pytest
import torch
from saddlescope.training.runs.recipe import RecipeError, load_recipe
from saddlescope.training.runs.run import runs
from saddlescope.training.runs.study import train_study

SMALL = ["training.epochs=1", "seeds=[0,1]", "data.n_max=20", "data.imbalance_factor=4", "groups.eta=12"]


def recipe(name="first", *more):
    return load_recipe("digits-lt", [f"name={name}", *SMALL, *more])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    train_study(recipe(), out / "first", only=["sgd"])
    return out


def fork(*more):
    return recipe("fork", "training.start_from=first", "training.schedule=constant", "training.lr=0", *more)


def test_every_optimizer_goes_on_from_the_same_weights_of_its_seed(first):
    plan = fork("training.checkpoint_every_steps=1")
    folders = train_study(plan, first / "fork", only=["sgd", "sam"])
    origin = {seed: next(first.glob(f"first/sgd-seed{seed}-*/checkpoint.pt")) for seed in (0, 1)}
    for folder in folders:
        side_car = json.loads((folder / "checkpoint.json").read_text())
        start = side_car["training"]["start"]
        seed = side_car["training"]["seed"]
        assert (folder.parent / start["checkpoint"]).resolve() == origin[seed].resolve()
        # a rate of 0 and no momentum yet: the weights are those it started from, to the bit
        here, there = (torch.load(path, weights_only=True) for path in (folder / "checkpoint.pt", origin[seed]))
        assert all(torch.equal(here[name], there[name]) for name in there if "running" not in name and "tracked" not in name)
        steps = sorted(folder.glob("checkpoints/step-*.json"))
        assert [json.loads(path.read_text())["training"]["step"] for path in steps] == list(range(1, len(steps) + 1))
        assert len(steps) >= 2


def test_a_study_that_starts_anew_keeps_its_folders_and_its_recipe(first):
    plain = recipe()
    assert "start_from" not in plain.resolved()["training"]
    assert [run.folder for run in runs(plain)] == [run.folder for run in runs(plain, first / "first")]
    other = {run.folder for run in runs(fork(), first / "fork")}
    assert not other & {run.folder for run in runs(plain)}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["training.start_from=nowhere"], "no study 'nowhere'"),
        (["training.start_from=./no/where"], "no study in no/where"),
        (["seeds=[0,1,5,6]"], "no finished sgd run of seed 5, 6"),
        (["training.start_optimizer=ssesam"], "no finished ssesam run of seed 0, 1"),
        (["training.start_optimizer=adam"], "has no optimizer 'adam'"),
        (["data.n_max=24"], "study first trained on other data"),
        (["data.seed=1"], "study first trained on other data"),
        (["model.name=small-cnn"], "study first trained another model"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(first, more, words):
    with pytest.raises(RecipeError, match=words):
        train_study(fork(*more), first / "fork")


def test_weights_that_changed_since_are_refused(first, tmp_path):
    (tmp_path / "first").symlink_to(first / "first")
    plan = fork()
    (run,) = (run for run in runs(plan, tmp_path / "fork") if (run.optimizer, run.seed) == ("sgd", 0))
    from saddlescope.training.runs.fork import load_start

    with pytest.raises(RecipeError, match="SHA-256 differs"):
        load_start(torch.nn.Linear(1, 1), {**run.start, "sha256": "0"}, tmp_path / "fork")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"name": "first"}',
        '{"runs": [{"optimizer": "sgd", "seed": 0}]}',
        '{"runs": [{"optimizer": "sgd", "seed": "0", "folder": "a"}]}',
        '{"runs": [{"optimizer": "sgd", "seed": 0, "folder": "../first"}]}',
        '{"runs": 3}',
        "[" * 100_000,
    ],
)
def test_a_damaged_list_of_runs_is_refused_in_a_sentence(first, tmp_path, text):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "study.json").write_text(text)
    with pytest.raises(RecipeError, match=r"first/study\.json is damaged"):
        train_study(fork(), tmp_path / "fork")


@pytest.mark.parametrize("damage", [{"model": []}, {"data": 1}, {"sha256": None}, {"model": {"args": 3}}])
def test_a_damaged_record_beside_a_checkpoint_is_refused_in_a_sentence(first, tmp_path, damage):
    shutil.copytree(first / "first", tmp_path / "first")
    for path in (tmp_path / "first").glob("*/checkpoint.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(RecipeError, match=r"checkpoint\.json is damaged"):
        train_study(fork(), tmp_path / "fork")


def test_weights_that_are_not_there_are_missed_before_anything_is_trained(first, tmp_path):
    shutil.copytree(first / "first", tmp_path / "first")
    next((tmp_path / "first").glob("sgd-seed1-*/checkpoint.pt")).unlink()  # as in a study that is stored without weights
    with pytest.raises(RecipeError, match=r"checkpoint\.pt is gone; train that run again"):
        train_study(fork(), tmp_path / "fork")
    assert not (tmp_path / "fork").exists()


def test_a_study_does_not_start_from_itself(first):
    with pytest.raises(RecipeError, match="study first cannot start from itself"):
        train_study(recipe("first", "training.start_from=first"), first / "first")


def test_a_study_that_went_on_can_be_gone_on_from(first):
    train_study(fork("training.lr=0.05"), first / "fork", only=["sgd"])
    again = recipe("again", "training.start_from=fork", "training.schedule=constant", "training.lr=0", "seeds=[0]")
    (folder,) = train_study(again, first / "again", only=["sam"])
    start = json.loads((folder / "checkpoint.json").read_text())["training"]["start"]
    assert (start["study"], (folder.parent / start["checkpoint"]).resolve().parent.parent) == (
        "fork",
        (first / "fork").resolve(),
    )


def test_start_optimizer_alone_is_refused():
    with pytest.raises(RecipeError, match="start_optimizer says whose checkpoints"):
        recipe("odd", "training.start_optimizer=sgd")


@pytest.mark.parametrize(
    ("name", "start"), [("digits-lt-escape", "digits-lt"), ("cifar10-lt-small-escape", "cifar10-lt-small")]
)
def test_the_recipes_of_the_experiment_fit_the_study_they_start_from(name, start):
    ours, theirs = load_recipe(name), load_recipe(start)
    assert ours.training.start_from == start
    assert (ours.data, ours.model, ours.groups, ours.optimizers) == (
        theirs.data,
        theirs.model,
        theirs.groups,
        theirs.optimizers,
    )
    assert set(ours.seeds) <= set(theirs.seeds)
    assert "sgd" in ours.optimizers
