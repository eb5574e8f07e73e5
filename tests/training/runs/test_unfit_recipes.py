"""Recipes whose parts do not belong together: refused by name, before anything is trained."""

import pytest
from saddlescope.training.data.sources import DataError
from saddlescope.training.losses import LossError
from saddlescope.training.networks.models import ModelError
from saddlescope.training.optimizers.registry import OptimizerError
from saddlescope.training.runs.recipe import RecipeError, parse_recipe
from saddlescope.training.runs.study import train_study

RECIPE = {
    "name": "tiny",
    "question": "?",
    "seeds": [0],
    "data": {"name": "synthetic", "imbalance_factor": 10, "n_max": 40},
    "groups": {"eta": 15, "many": 30, "few": 8},
    "model": {"name": "small-cnn", "args": {"width": 4}},
    "training": {"epochs": 1, "batch_size": 32, "lr": 0.05},
    "optimizers": {"sgd": {}},
}


def recipe(**tables):
    """The recipe with some fields of its tables changed, or its optimizers replaced."""
    changed = {k: v if k == "optimizers" else {**RECIPE.get(k, {}), **v} for k, v in tables.items()}
    return parse_recipe({**RECIPE, **changed})


@pytest.mark.parametrize(
    ("tables", "error", "words"),
    [
        ({"loss": {"name": "ldam"}}, LossError, "cosine"),
        ({"model": {"name": "small-cnn", "args": {"width": 4, "num_classes": 3}}}, LossError, "one column for each class"),
        ({"model": {"name": "digits-mlp", "args": {"size": 28}}}, ModelError, "does not take inputs of shape"),
        ({"model": {"name": "small-cnn", "args": {"width": -1}}}, ModelError, "cannot be built"),
        ({"model": {"name": "resnet8-cifar", "args": {"classifier": "cosin"}}}, ModelError, "linear, cosine"),
        ({"training": {"epochs": 1, "device": "gpu"}}, RecipeError, "training.device = 'gpu'"),
        ({"optimizers": {"lpfsgd": {"generator": 3}}}, OptimizerError, "unknown setting 'generator'"),
        ({"optimizers": {"imbsam": {"split_batches": "no"}}}, OptimizerError, "true or false"),
        ({"optimizers": {"imbsam": {"eta": "30"}}}, OptimizerError, "eta"),
        (
            {"optimizers": {"imbsam": {"split_batches": True}}, "training": {"compile": True}},
            OptimizerError,
            "training.compile",
        ),
        ({"optimizers": {"eigensam": {}}, "training": {"compile": True}}, OptimizerError, "second derivatives"),
        ({"data": {"imbalance_factor": None}}, DataError, "n_max"),
        ({"data": {"imbalance_factor": None, "n_max": None, "kind": "step"}}, DataError, "kind"),
    ],
)
def test_what_does_not_fit_is_found_before_the_first_step(tables, error, words, tmp_path):
    with pytest.raises(error, match=words):
        train_study(recipe(**{"optimizers": {"sgd": {}}, **tables}), tmp_path)
    assert not list(tmp_path.glob("*/run.json"))


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"args": {"seed": 3}}}, "model.args.seed"),
        ({"loss": {"name": "cross-entropy", "class_counts": [1]}}, "loss.class_counts"),
        ({"training": {"nesterov": True, "momentum": 0.0}}, "momentum"),
        ({"data": {"seed": 2**33}}, "data.seed"),
    ],
)
def test_what_a_recipe_may_not_say(tables, words):
    with pytest.raises(RecipeError, match=words):
        recipe(**tables)
