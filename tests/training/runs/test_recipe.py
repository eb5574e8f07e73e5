"""Recipes: what is refused and how, overrides, and what is stored."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from pydantic_core import PydanticUndefined
from saddlescope.analysis.records.study_plan import StudyAnalysis
from saddlescope.training.optimizers.registry import OptimizerError
from saddlescope.training.runs.recipe import Recipe, RecipeError, load_recipe, parse_recipe, recipe_names
from saddlescope.training.runs.run import resolve, runs
from saddlescope.training.runs.session import make_optimizer


@pytest.mark.parametrize(
    "name",
    [
        "digits-lt",
        "digits-lt-imbsam-weightings",
        "digits-lt-stages",
        "fashion-mnist-lt",
        "cifar10-lt-small",
        "cifar10-lt-small-rho",
        "cifar10-lt-small-escapers",
        "imagenet-lt-rangwani",
    ],
)
def test_every_recipe_of_ours_is_valid_for_training_and_for_analysis(name):
    assert name in recipe_names()
    recipe = load_recipe(name)
    assert recipe.name == name
    StudyAnalysis.parse(recipe.resolved())
    assert len(runs(recipe)) == len(recipe.seeds) * len(recipe.optimizers)


@pytest.mark.parametrize("table", ["data", "groups", "model", "training"])
def test_the_readme_names_every_field_and_its_default(table):
    page = (Path(__file__).parents[3] / "training" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `[{table}]` |"))
    for name, field in Recipe.model_fields[table].annotation.model_fields.items():
        told = re.search(rf"`{name}`([^;]*)", row)
        assert told, name
        if field.default not in (PydanticUndefined, None) and not isinstance(field.default, (list, dict)):
            shown = str(field.default).lower() if isinstance(field.default, bool | str) else f"{field.default:g}"
            assert re.match(rf"[^(]*\(`?{re.escape(shown)}`?\)", told[1]), (name, shown)


def test_the_readmes_own_recipe_is_valid(tmp_path):
    page = (Path(__file__).parents[3] / "training" / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    (tmp_path / "nets.py").write_text("net = None", encoding="utf-8")
    recipe = load_recipe(tmp_path / "mine.toml")
    assert [(run.optimizer, run.rule) for run in runs(recipe)][::3] == [("sgd", None), ("sam-wide", "sam")]
    assert recipe.model.name == f"{tmp_path / 'nets.py'}:net"


def test_what_is_stored_reads_back_to_the_same_runs():
    plain = load_recipe("digits-lt", ["training.epochs=7"])
    recipe = resolve(plain)
    again = parse_recipe(tomllib.loads(tomli_w.dumps(recipe.resolved())))
    assert again == recipe
    assert [run.folder for run in runs(again)] == [run.folder for run in runs(plain)]


def test_overrides_change_the_field_and_the_folder():
    plain = load_recipe("digits-lt")
    short = load_recipe("digits-lt", ["training.epochs=5", "optimizers.sam.rho=0.1", "seeds=[4]"])
    assert (short.training.epochs, short.optimizers["sam"]["rho"], short.seeds) == (5, 0.1, [4])
    assert not {run.folder for run in runs(plain)} & {run.folder for run in runs(short)}


def test_where_a_run_is_done_does_not_make_it_another_run():
    one, two = (runs(load_recipe("digits-lt", [f"training.device='{d}'"]))[0].folder for d in ("cpu", "cuda"))
    assert one == two


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=5", "unknown field 'training.epoch'; did you mean 'training.epochs'"),
        ("trainig.epochs=5", "unknown field 'trainig'; did you mean 'training'"),
        ("training.epochs=0", r"field 'training.epochs': .*greater than or equal to 1.*given: 0"),
        ("training.lr='fast'", "field 'training.lr'"),
        ("seeds=[0, 0]", "seeds repeat"),
        ("seeds=[]", "seeds"),
        ("data.kind='linear'", "'exp' or 'step'"),
        ("training.schedule='step'", "give both or neither"),
        ("groups.few=500", "a class would be both"),
        ("epochs", "write table.field=value"),
        ("name.x=3", "is a value, not a table"),
        ("name='../x'", "name"),
        (
            "optimizers.adam.rho=1",
            r"digits-lt\.toml: field 'optimizers.adam': unknown optimizer 'adam'.*Known: sgd.* by rule",
        ),
        (
            "optimizers.mine.rule='imbsan'",
            r"digits-lt\.toml: field 'optimizers.mine.rule': unknown optimizer 'imbsan'; did you mean 'imbsam'\? Known: sgd",
        ),
        ("optimizers.mine.rule=['sam']", r"field 'optimizers.mine.rule': unknown optimizer \['sam'\]"),
        (
            "optimizers.sam.rule='imbsam'",
            r"field 'optimizers.sam.rule': 'imbsam' under the name of another.*imbsam-<",
        ),
        ("optimizers.a/b.rule='sam'", "field 'optimizers.a/b': a name has letters, digits"),
    ],
)
def test_bad_fields_are_named_with_the_fix(override, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe("digits-lt", [override])


def by_hand(run):
    """The folder's name as it was before a run could have a rule, or start from another one."""
    content = run.model_dump(mode="json", exclude={"study", "rule", "start"})
    del content["training"]["device"]
    text = json.dumps([1, content], sort_keys=True, separators=(",", ":"))
    return f"{run.optimizer}-seed{run.seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@pytest.mark.parametrize("name", recipe_names())
def test_an_optimizer_without_a_rule_keeps_the_folder_that_it_had(name):
    plain = [run for run in runs(load_recipe(name)) if run.rule is None and run.start is None]
    if not plain:
        pytest.skip("every run has a rule or starts from another study")
    assert [run.folder for run in plain] == [by_hand(run) for run in plain]


def test_a_rule_that_is_the_name_itself_changes_nothing():
    plain, said = (resolve(load_recipe("digits-lt", changes)) for changes in ([], ["optimizers.imbsam.rule='imbsam'"]))
    assert said == plain
    assert [run.folder for run in runs(said)] == [run.folder for run in runs(plain)]


def test_one_optimizer_several_times():
    recipe = load_recipe("digits-lt-imbsam-weightings")
    found = {run.optimizer: run for run in runs(recipe) if run.seed == 0}
    assert {name: (run.rule, run.settings.get("normalisation")) for name, run in found.items()} == {
        "sgd": (None, None),
        "imbsam": (None, "batch"),
        "imbsam-x2": ("imbsam", "batch-x2"),
        "imbsam-group": ("imbsam", "group"),
    }
    assert all(run.folder.startswith(f"{name}-seed0-") for name, run in found.items())
    assert len({run.folder[-8:] for run in found.values()}) == 4
    shared = {run.folder for run in runs(load_recipe("digits-lt", ["training.lr=0.02"]))}
    assert {name for name, run in found.items() if run.folder in shared} == {"sgd", "imbsam"}  # the defaults written out
    again = parse_recipe(tomllib.loads(tomli_w.dumps(resolve(recipe).resolved())))
    assert [run.folder for run in runs(again)] == [run.folder for run in runs(recipe)]


def test_the_same_optimizer_with_the_same_settings_is_refused():
    with pytest.raises(OptimizerError, match=r"\[optimizers.mine\] is \[optimizers.imbsam\] again"):
        runs(load_recipe("digits-lt", ["optimizers.mine.rule='imbsam'", "optimizers.mine.normalisation='batch'"]))
    assert runs(load_recipe("digits-lt", ["optimizers.mine.rule='imbsam'", "optimizers.mine.normalisation='group'"]))


def test_missing_and_damaged_recipes(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'digits-lt'"):
        load_recipe("digits_lt")
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RecipeError, match=r"bad\.toml: not readable as TOML"):
        load_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize("name", ["digits-lt-stages", "cifar10-lt-small-rho", "cifar10-lt-small-escapers"])
def test_every_optimizer_of_these_recipes_can_be_built(name):
    """Its settings are known and in range; no data are needed for that."""
    seen = set()
    for run in runs(load_recipe(name)):
        model = torch.nn.Linear(3, 10)
        optimizer = make_optimizer(run, [120, 90, 70, 50, 44, 30, 20, 15, 8, 5], model, np.random.default_rng(0), "cpu")
        assert set(run.settings) <= set(optimizer.settings)
        seen.add(json.dumps([type(optimizer).__name__, optimizer.settings]))
    assert len(seen) == len(load_recipe(name).optimizers)
