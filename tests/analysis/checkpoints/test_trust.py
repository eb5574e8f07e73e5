"""What comes with a file names code, files and folders: none of it is run, read or written unless the person says so.

Above 300 lines: every way in for hostile names is tried, with the same few that a side-car may hold.
"""

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import tomli_w
from saddlescope.analysis.checkpoints.checkpoint_flags import Given
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.settings import AnalysisSettings
from saddlescope.analysis.records.study_plan import curvature_item
from saddlescope.analysis.studies.analyses import do_curvature

from saddlescope import Permission, TrustError

PRESCRIBED = Path(__file__).parents[2] / "prescribed"
QUICK = ("--steps", "3", "--eta", "40")
RECIPE = {
    "name": "theirs",
    "question": "?",
    "seeds": [0],
    "data": {"name": "digits", "imbalance_factor": 20, "n_max": 120, "held_out": 50},
    "groups": {"eta": 40},
    "model": {"name": "digits-resnet"},
    "training": {"epochs": 1, "batch_size": 64, "lr": 0.1},
    "optimizers": {"sgd": {}},
    "analysis": {"steps": 3},
    "slices": {"lines": ["random"], "planes": []},
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run folder with the prescribed checkpoint and its result."""
    path = checkpoint(tmp_path_factory.mktemp("measured"))
    do_curvature(curvature_item(path, AnalysisSettings(steps=3, eta=40)))
    return path.parent


@pytest.fixture
def touch(tmp_path, monkeypatch):
    """A command that leaves a file, and the file."""
    monkeypatch.chdir(tmp_path)
    return {"command": f"touch {tmp_path / 'pwned'}"}, tmp_path / "pwned"


def checkpoint(folder, name="checkpoint", **changed):
    """The prescribed checkpoint in a folder, its side-car changed."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PRESCRIBED / "checkpoint.pt", folder / f"{name}.pt")
    raw = json.loads((PRESCRIBED / "checkpoint.json").read_text())
    for part, table in changed.items():
        raw[part] |= table
    (folder / f"{name}.json").write_text(json.dumps(raw))
    return folder / f"{name}.pt"


def study(folder, recipe=None, run_folder="sgd-seed0", **changed):
    """A study folder of somebody's with one run."""
    target = checkpoint(folder / "sgd-seed0", **changed)
    runs = [{"optimizer": "sgd", "seed": 0, "folder": run_folder}]
    (folder / "study.json").write_text(json.dumps({"name": "theirs", "runs": runs}))
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe or RECIPE))
    return target


def hostile(part, command):
    """Ways for a side-car to have ``os.system`` called as its model, data or loss."""
    return {
        "a function of the operating system": {part: {"factory": "os:system", "args": command}},
        "of a module of ours": {part: {"factory": "saddlescope.analysis.samples.provenance:subprocess", "args": {}}},
        "of a module below ours": {part: {"factory": "saddlescope.analysis.samples.provenance:_git", "args": {}}},
        "a file": {part: {"factory": "theirs.py:run", "args": {}}},
        "by our loader": {part: {"factory": "saddlescope:load_factory", "args": {"reference": "os:system"}}},
        "another package": {part: {"factory": "torchvision:resnet18", "args": {}}},
        "a program": {part: {"factory": "theirs.pt2", "args": {}}},
    }


WAYS = list(hostile("model", {}))


@pytest.mark.parametrize("part", ["model", "data", "loss"])
@pytest.mark.parametrize("way", WAYS)
def test_a_side_car_names_no_code(part, way, tmp_path, touch, run):
    command, pwned = touch
    Path("theirs.py").write_text(f"from pathlib import Path\nPath({str(pwned)!r}).touch()\n")
    changed = hostile(part, command)[way]
    path = checkpoint(tmp_path / "run", **changed)
    code, _, err = run("analyze", path, *QUICK)
    assert (code, err.count("\n"), pwned.exists()) == (2, 1, False)
    assert changed[part]["factory"] in err
    assert f"--{part}" in err
    assert "--trust-checkpoint" in err


@pytest.mark.parametrize("factory", ["saddlescope:build_model", "resnet8-cifar"])
def test_a_factory_of_ours_is_given_no_code_by_name(factory, tmp_path, touch, run):
    command, pwned = touch
    path = checkpoint(tmp_path / "run", model={"factory": factory, "args": {"name": "os:system"} | command})
    code, _, err = run("analyze", path, *QUICK)
    assert (code, err.count("\n"), pwned.exists()) == (2, 1, False)
    assert "'os:system'" in err


ENTRANCES = {
    "analyze": ("analyze", "run/checkpoint.pt", *QUICK),
    "several": ("analyze", "run", *QUICK, "--jobs", "1"),
    "dry run": ("analyze", "run/checkpoint.pt", "--dry-run"),
    "layers": ("analyze", "run/checkpoint.pt", "--layers"),
    "slice": ("slice", "run/checkpoint.pt", "random"),
    "slice of a folder": ("slice", "run", "path-plane"),
    "control": ("augmentation-control", "out", "--checkpoint", "run/checkpoint.pt"),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_every_command_that_opens_a_checkpoint_asks(entrance, tmp_path, touch, run):
    command, pwned = touch
    for name in ("checkpoint", "other"):
        checkpoint(tmp_path / "run", name, model={"factory": "os:system", "args": command})
    code, _, err = run(*ENTRANCES[entrance])
    assert (code, pwned.exists()) == (2, False)
    assert "run/checkpoint.json: names 'os:system' as its model" in err.splitlines()[-1]


def test_the_person_may_trust_a_side_car(tmp_path, touch, run):
    command, pwned = touch
    path = checkpoint(tmp_path / "run", model={"factory": "os:system", "args": command})
    code, _, err = run("analyze", path, *QUICK, "--trust-checkpoint")
    assert code == 2  # the factory makes no model, but now it was called
    assert "returned int" in err
    assert pwned.exists()


def test_the_person_may_say_what_it_is_instead(tmp_path, touch, run):
    command, pwned = touch
    path = checkpoint(tmp_path / "run", model={"factory": "os:system", "args": command})
    code, _, err = run("analyze", path, *QUICK, "--model", "digits-resnet", "--model-args", '{"in_channels": 1}')
    assert code == 0, err
    assert not pwned.exists()


def test_ours_is_opened_without_asking(measured):
    assert load(CurvatureResult, measured / "curvature" / "checkpoint.head-tail.json").provenance.subject == {}


@pytest.mark.parametrize("part", ["model", "data", "loss"])
def test_a_stored_result_names_no_code(part, measured, tmp_path, touch, run):
    command, pwned = touch
    path = Path(shutil.copytree(measured, tmp_path / "run")) / "checkpoint.pt"
    result = tmp_path / "run" / "curvature" / "checkpoint.head-tail.json"
    raw = json.loads(result.read_text())
    raw["provenance"]["subject"] = {part: "os:system"} | ({} if part == "loss" else {f"{part}_args": command})
    result.write_text(json.dumps(raw))
    for arguments in (("verify", result), ("slice", path, "tail-min")):
        code, _, err = run(*arguments)
        assert (code, pwned.exists()) == (2, False)
        assert f"'os:system' as its {part}" in err.splitlines()[-1]
    if part == "model":
        assert "returned int" in run("verify", result, "--model", "os:system")[2]  # named, and so called with what is stored
        assert pwned.exists()


@pytest.mark.parametrize(
    "subject", [{"trust": True}, {"data_root": "/"}, {"named": ["os:system"]}, {"model": 3}, {"model_args": 3}]
)
def test_a_stored_result_gives_itself_no_permission(subject, measured, tmp_path, run):
    shutil.copytree(measured, tmp_path / "run")
    result = tmp_path / "run" / "curvature" / "checkpoint.head-tail.json"
    raw = json.loads(result.read_text())
    raw["provenance"]["subject"] = subject
    result.write_text(json.dumps(raw))
    code, _, err = run("verify", result)
    assert (code, err.count("\n")) == (2, 1)
    assert next(iter(subject)) in err


def test_a_study_folder_names_no_code(tmp_path, touch, run):
    command, pwned = touch
    path = study(tmp_path / "theirs", model={"factory": "os:system", "args": command})
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(RECIPE))
    for arguments in (("analyze", path.parents[1]), ("analyze", path.parent), ("slice", path.parent, "random")):
        code, _, err = run(*arguments)
        assert (code, pwned.exists()) == (2, False)
        assert "names 'os:system' as its model" in err.splitlines()[-1]


def test_the_path_of_a_training_names_no_code(measured, tmp_path, touch, run):
    command, pwned = touch
    path = study(tmp_path / "theirs")
    shutil.copytree(measured / "curvature", path.parent / "curvature")
    for epoch in (1, 2):
        checkpoint(path.parent / "checkpoints", f"epoch-{epoch}", model={"factory": "os:system", "args": command})
    code, _, err = run("slice", path.parent, "path-plane", "--set", "steps=3", "--set", "eta=40", "--set", "plane_points=3")
    assert (code, pwned.exists()) == (2, False)
    assert "names 'os:system' as its model" in err.splitlines()[-1]


@pytest.mark.parametrize("command", ["train", "reproduce"])
def test_the_recipe_of_a_study_folder_names_no_code(command, tmp_path, touch, run):
    _, pwned = touch
    (tmp_path / "theirs.py").write_text(f"from pathlib import Path\nPath({str(pwned)!r}).touch()\ndef net(): pass\n")
    recipe = RECIPE | {"model": {"name": f"{tmp_path}/theirs.py:net"}}
    study(tmp_path / "theirs", recipe)
    code, _, err = run(command, tmp_path / "theirs" / "recipe.toml", "--out", "out")
    assert (code, err.count("\n"), pwned.exists()) == (2, 1, False)
    assert "theirs.py:net' as its model" in err
    assert "--set model.name=" in err
    run(command, tmp_path / "theirs" / "recipe.toml", "--out", "out", "--set", f"model.name={tmp_path}/theirs.py:net")
    assert pwned.exists()  # named on the command line


def test_a_recipe_that_the_person_names_is_theirs_and_its_study_goes_on(tmp_path, touch, run):
    """``reproduce`` trains with a model of the person's, and then analyses side-cars that name it."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    recipe = RECIPE | {"model": {"name": "nets.py:net"}, "slices": {"lines": [], "planes": []}}
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(recipe))
    code, _, err = run("reproduce", "mine.toml", "--out", "out", "--jobs", "1")
    assert code == 0, err
    (folder,) = (tmp_path / "out" / "theirs").glob("sgd-*")
    assert (folder / "curvature" / "checkpoint.head-tail.json").exists()
    code, _, err = run("analyze", tmp_path / "out" / "theirs", "--seed", "1")  # nothing of the person's is named here
    assert code == 2
    assert "nets.py:net" in err.splitlines()[-1]
    assert run("analyze", tmp_path / "out" / "theirs", "--trust-checkpoint", "--jobs", "1")[0] == 0


def test_a_model_of_a_recipe_has_one_name():
    from saddlescope.training.runs.recipe import RecipeError, parse_recipe

    with pytest.raises(RecipeError, match=r"model\.args\.name"):
        parse_recipe(RECIPE | {"model": {"name": "digits-resnet", "args": {"name": "os:system"}}})


def test_permission_goes_with_the_work_into_another_process():
    given = pickle.loads(pickle.dumps(Given(model="nets.py:net", named=frozenset({"mine:net"}))))
    given.permission.check("x", {"model": ("nets.py:net", {}), "data": ("mine:net", {}), "loss": ("ldam", {})})
    given.permission.check("x", {"model": (f"{Path.cwd()}/nets.py:net", {})})  # the same file, as our training stores it
    with pytest.raises(TrustError, match=r"x: names 'a:b' as its model and '/etc/x.npz' as its data, .* --model and --data"):
        given.permission.check("x", {"model": ("a:b", {}), "data": ("/etc/x.npz", {})})
    Permission(everything=True).check("x", {"model": ("a:b", {})})


@pytest.mark.parametrize("folder", ["../mine", "/tmp", "..", ".", "a/b", "", "a\\b", "a\0b"])
def test_runs_lie_in_their_study(folder, tmp_path, run):
    checkpoint(tmp_path / "mine")
    study(tmp_path / "theirs", run_folder=folder)
    for command in ("analyze", "figures", "report"):
        code, _, err = run(command, tmp_path / "theirs")
        assert code == 2
        assert "runs.0.folder" in err.splitlines()[-1]
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == ["checkpoint.json", "checkpoint.pt"]


def test_a_manifest_removes_nothing_elsewhere(tmp_path, run):
    study(tmp_path / "theirs")
    (tmp_path / "thesis.png").write_bytes(b"mine")
    (tmp_path / "theirs" / "figures").mkdir()
    (tmp_path / "theirs" / "figures" / "manifest.json").write_text(json.dumps({"../../thesis": {"files": [], "title": "t"}}))
    for command in ("figures", "report"):
        code, _, err = run(command, tmp_path / "theirs")
        assert code == 2
        assert "../../thesis" in err
    assert (tmp_path / "thesis.png").read_bytes() == b"mine"


def test_names_in_a_result_stay_beside_it(measured, tmp_path, run):
    shutil.copytree(measured, tmp_path / "run")
    result = tmp_path / "run" / "curvature" / "checkpoint.head-tail.json"
    good = json.loads(result.read_text())
    elsewhere = "../../elsewhere"
    changes = (
        ("vectors_file", good | {"vectors_file": elsewhere}),
        ("scheme", good | {"scheme": good["scheme"] | {"name": elsewhere}}),
    )
    for field, raw in (*changes, ("checkpoint", good | {"provenance": good["provenance"] | {"checkpoint": elsewhere}})):
        result.write_text(json.dumps(raw))
        code, _, err = run("verify", result)
        assert (code, err.count("\n")) == (2, 1)
        assert field in err
        assert elsewhere in err


def test_slices_of_a_recipe_stay_in_their_folder(tmp_path, run):
    study(tmp_path / "theirs", RECIPE | {"slices": {"lines": ["../../../tail-min"]}})
    code, _, err = run("analyze", tmp_path / "theirs")
    assert code == 2
    assert "lines" in err


def test_a_model_of_the_persons_that_was_edited_is_measured_again(tmp_path, touch, run):
    """A side-car of ours whose model is somebody's file: known by its behaviour, not by the name of our factory."""
    source = "from torch import nn\ndef net(num_classes, in_channels):\n    from saddlescope import build_model\n"
    source += "    return build_model('digits-resnet', num_classes, in_channels=in_channels)\n"
    (tmp_path / "nets.py").write_text(source)
    raw = json.loads((PRESCRIBED / "checkpoint.json").read_text())["model"]
    path = checkpoint(tmp_path / "run", model=raw | {"args": raw["args"] | {"name": f"{tmp_path}/nets.py:net"}})
    trusted = ("analyze", path, *QUICK, "--trust-checkpoint")
    assert run(*trusted)[0] == 0
    item = curvature_item(path, AnalysisSettings(steps=3, eta=40))
    before = load(CurvatureResult, item.output).groups["all"].loss
    (tmp_path / "nets.py").write_text(
        source.replace("return build", "model = build") + "    model.eval()\n    return nn.Sequential(model)\n"
    )
    for name in [name for name in sys.modules if name.startswith("_user_nets")]:
        del sys.modules[name]
    assert before > 0
    assert "does not fit" in run(*trusted)[2]
