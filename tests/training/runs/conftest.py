"""A study of seconds."""

import pytest
from saddlescope.training.runs.recipe import parse_recipe

RECIPE = {
    "name": "tiny",
    "question": "?",
    "seeds": [0],
    "data": {"name": "synthetic", "imbalance_factor": 10, "n_max": 40},
    "groups": {"eta": 15, "many": 30, "few": 8},
    "model": {"name": "small-cnn", "args": {"width": 4}},
    "training": {"epochs": 5, "batch_size": 32, "lr": 0.05, "checkpoint_every": 2, "augment": "crop-flip"},
    "optimizers": {"sgd": {}, "sam": {}, "imbsam": {}, "ssesam": {"gamma": 0.5}, "ccsam": {}, "focalsam": {}},
}


@pytest.fixture(scope="session")
def recipe():
    """``recipe(training={"epochs": 1})``: the recipe with some fields of its tables changed, or its optimizers replaced."""

    def changed(**tables):
        given = {k: v if k == "optimizers" else {**RECIPE.get(k, {}), **v} for k, v in tables.items()}
        return parse_recipe({**RECIPE, **given})

    return changed
