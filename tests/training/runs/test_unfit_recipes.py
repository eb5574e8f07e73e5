"""Recipes whose parts do not belong together: refused by name, before anything is trained."""

import pytest
from saddlescope.training.data.sources import DataError
from saddlescope.training.losses import LossError
from saddlescope.training.networks.models import ModelError
from saddlescope.training.optimizers.registry import OptimizerError
from saddlescope.training.runs.recipe import RecipeError
from saddlescope.training.runs.study import train_study


@pytest.mark.parametrize(
    ("tables", "error", "words"),
    [
        ({"data": {"name": "synthetik"}}, DataError, "is not known"),
        ({"data": {"n_max": 4000}}, ValueError, "lower n_max"),
        ({"groups": {"eta": 2}}, OptimizerError, "class counts are"),
        ({"optimizers": {"sam": {"rhoo": 1}}}, OptimizerError, "unknown setting 'rhoo'"),
        ({"optimizers": {"adam": {}}}, RecipeError, "unknown optimizer 'adam'"),
        ({"model": {"args": {"depth": 9}}}, ValueError, "cannot be built"),
        ({"loss": {"name": "hinge"}}, LossError, "hinge"),
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
def test_what_does_not_fit_is_found_before_the_first_step(recipe, tables, error, words, tmp_path):
    with pytest.raises(error, match=words):
        train_study(recipe(**{"optimizers": {"sgd": {}, "ssesam": {}}, **tables}), tmp_path)
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"args": {"seed": 3}}}, "model.args.seed"),
        ({"loss": {"name": "cross-entropy", "class_counts": [1]}}, "loss.class_counts"),
        ({"training": {"nesterov": True, "momentum": 0.0}}, "momentum"),
        ({"data": {"seed": 2**33}}, "data.seed"),
    ],
)
def test_what_a_recipe_may_not_say(recipe, tables, words):
    with pytest.raises(RecipeError, match=words):
        recipe(**tables)


def test_a_finished_study_asks_for_no_device(recipe, tmp_path):
    tables = {"optimizers": {"sgd": {}}}
    folders = train_study(recipe(**tables, training={"epochs": 1}), tmp_path)
    assert train_study(recipe(**tables, training={"epochs": 1, "device": "gpu"}), tmp_path) == folders
