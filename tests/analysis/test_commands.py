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
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.slices import Slice
from safetensors.torch import save_file
from torch import nn

import saddlescope

FILES = {
    # packages of the same names as ours, in a project that is not ours
    "training/__init__.py": "",
    "training/nets.py": (
        "from torch import nn\n"
        "from analysis.blocks import head\n"
        "def net(num_classes, width=6):\n"
        "    body = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten()\n"
        "    return nn.Sequential(*body, head(width, num_classes))\n"
    ),
    "analysis/__init__.py": "",
    "analysis/blocks.py": "from torch import nn\ndef head(width, classes):\n    return nn.Linear(width * 16, classes)\n",
    "data.py": (
        "import torch\n"
        "from torch.utils.data import Dataset, TensorDataset\n"
        "def tensors():\n"
        "    g = torch.Generator().manual_seed(0)\n"
        "    y = torch.cat([torch.full((n,), c) for c, n in enumerate((30, 12, 5))])\n"
        "    return torch.randn(len(y), 1, 6, 6, generator=g) + y[:, None, None, None], y\n"
        "def dataset():\n"
        "    return TensorDataset(*tensors())\n"
        "def dictionaries():\n"
        "    x, y = tensors()\n"
        "    return [{'x': x[i:i + 10], 'labels': y[i:i + 10]} for i in range(0, len(y), 10)]\n"
        "class Augmenting(Dataset):\n"
        "    def __init__(self): self.x, self.y = tensors()\n"
        "    def __len__(self): return len(self.y)\n"
        "    def __getitem__(self, i): return self.x[i] + 0.1 * torch.randn(1, 6, 6), int(self.y[i])\n"
        "def augmenting():\n"
        "    return Augmenting()\n"
        "def raising():\n"
        "    raise KeyError('no such split')\n"
    ),
    "losses.py": (
        "from torch.nn import functional\n"
        "def smooth(model, batch):\n"
        "    inputs, targets = batch\n"
        "    return functional.cross_entropy(model(inputs), targets, reduction='none', label_smoothing=0.1)\n"
        "def dictionary(model, batch):\n"
        "    return functional.cross_entropy(model(batch['x']), batch['labels'], reduction='none')\n"
    ),
}


def architecture():
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Somebody's repository with a checkpoint as LDAM-style code leaves it."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in architecture().state_dict().items()}
    torch.save({"epoch": 9, "state_dict": state, "best_acc1": 50.0}, tmp_path / "ckpt.pt")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("training", "analysis") or name.startswith("_user_"):
            del sys.modules[name]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line; returns exit code, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["saddlescope", *map(str, arguments)])
        code = 0
        try:
            saddlescope.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


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


def test_a_series_is_natural_ordered_thinned_and_shared(project, run):
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


def test_verify_confirms_and_notices_changes(project, run):
    run("analyze", "ckpt.pt", *OURS)
    path = project / "curvature" / "ckpt.head-tail.json"
    assert load(CurvatureResult, path).groups["tail"].certificate is not None
    code, out, err = run("verify", path, *OURS[:4])
    assert code == 0, err
    assert "tail: holds" in out
    raw = json.loads(path.read_text())
    raw["groups"]["tail"]["verdict"]["tau"] = 1e3
    path.write_text(json.dumps(raw))
    assert run("verify", path, *OURS[:4])[0] == 1
    run("analyze", "ckpt.pt", *OURS, "--again")
    vectors = path.with_suffix(".vectors.safetensors")
    vectors.write_bytes(vectors.read_bytes()[:-8] + b"\0" * 8)
    code, _, err = run("verify", path, *OURS[:4])
    assert code == 2
    assert "SHA-256 differs" in err


def test_named_extra_keys_are_left_out_and_remembered(project, run):
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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--group", "tail"), "write name=classes"),
        (("--goal", "fast"), "field 'goal'"),
        (("--set", "stepz=3"), "did you mean 'steps'"),
        (("--set", "only=['tial']"), "no group tial in scheme head-tail; there are: all, head, tail"),
        (("--device", "cuda:99"), "device 'cuda:99' cannot be used here"),
        (("--memory", "lots"), "write a size"),
        (("--out", "ckpt.pt/results"), "ckpt.pt is a file; name a folder"),
        (("--figures", "ckpt.pt"), "ckpt.pt is a file; name a folder"),
        (("--shard", "4/4"), "--shard 4/4"),
    ],
)
def test_a_wrong_call_is_refused_before_data_and_model_are_loaded(project, run, flags, said):
    (project / "slow.py").write_text("def data():\n    open('loaded', 'w').close()\n    raise KeyError('loaded')\n")
    code, _, errors = run("analyze", "ckpt.pt", *OURS, "--data", "slow.py:data", *flags)
    assert code == 2
    assert said in errors
    assert not (project / "loaded").exists()


def test_where_nobody_watches_each_group_is_a_line(project, run):
    code, _, errors = run("analyze", "ckpt.pt", *OURS, "--set", "escape=false")
    assert code == 0
    lines = [line for line in errors.splitlines() if line.startswith("ckpt.pt, ")]
    assert [line.split(":")[0] for line in lines] == ["ckpt.pt, all", "ckpt.pt, head", "ckpt.pt, tail"]
    assert all("steps" in line for line in lines)
    assert all("left" in line for line in lines[:2])


def test_dry_run_writes_nothing(project, run):
    code, out, _ = run("analyze", "ckpt.pt", *OURS, "--dry-run")
    assert code == 0
    assert "minutes" in out
    code, out, _ = run("analyze", "ckpt.pt", *OURS, "--dry-run", "--json")
    assert code == 0
    cost = json.loads(out)
    assert [group["group"] for group in cost["groups"]] == ["all", "head", "tail"]
    counted = cost["shared_minutes"] + sum(group["minutes"] for group in cost["groups"])
    assert cost["minutes_in_all"] == cost["minutes"] == counted > 0
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ckpt.pt",), "no side-car ckpt.json beside it, so say what it is with --model and --data"),
        (("missing.pt", *OURS), "no checkpoint there"),
        (("ckpt.pt", *OURS, "--model", "training.nets:missing"), "has no 'missing'"),
        (("ckpt.pt", *OURS, "--model-args", '{"depth": 3}'), "does not take the arguments"),
        (("ckpt.pt", *OURS, "--model-args", "{depth"), "not JSON"),
        (("ckpt.pt", *OURS, "--model-args", '{"width": 7}'), "other shape: 0.weight"),
        (("ckpt.pt", *OURS, "--data", "data.py:augmenting"), "changed between two looks"),
        (("ckpt.pt", *OURS, "--data", "data.py:raising"), "raised KeyError"),
        (("ckpt.pt", *OURS, "--eta", "1"), "group tail"),
        (("ckpt.pt", *OURS, "--loss", "losses.py:nothing"), "has no 'nothing'"),
        (("ckpt.pt", *OURS, "--set", "stepz=3"), "did you mean 'steps'"),
        (("ckpt.pt", *OURS, "--params", "conv9.*"), "no parameter with requires_grad matches"),
        (("ckpt.pt", *OURS, "--memory", "lots"), "write a size such as 2GB"),
        (("ckpt.pt", *OURS, "--group", "tail"), "write name=classes"),
        (("ckpt.pt", *OURS, "--shard", "3/3"), "write i/n"),
        (("ckpt.pt", *OURS, "--num-classes", "2"), "outside 0..1"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(project, run, arguments, said):
    code, _, err = run("analyze", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not list(project.glob("curvature/*"))


def test_weights_of_a_run_that_diverged_are_named(project, run):
    state = architecture().state_dict()
    state["4.weight"][0, 0] = float("nan")
    torch.save(state, project / "nan.pt")
    code, _, err = run("analyze", "nan.pt", *OURS)
    assert code == 2
    assert "'4.weight' holds NaN" in err


def test_a_result_that_cannot_be_written_leaves_nothing_half_done(project, run):
    (project / "full").write_text("a file where a folder is needed")
    code, _, err = run("analyze", "ckpt.pt", *OURS, "--out", "full")
    assert code == 2
    assert "full" in err


def test_other_losses_change_the_numbers(project, run):
    run("analyze", "ckpt.pt", *OURS, "--out", "plain")
    run("analyze", "ckpt.pt", *OURS, "--loss", "losses.py:smooth", "--out", "smooth")
    plain, smooth = (load(CurvatureResult, project / name / "ckpt.head-tail.json") for name in ("plain", "smooth"))
    assert plain.groups["all"].loss != smooth.groups["all"].loss
    assert smooth.provenance.loss == "losses.py:smooth"


def test_two_checkpoints_never_share_a_result(project, run):
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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--device", "cuda:99"), "cuda:99"),
        (("--device", "foo"), "foo"),
        (("--seed", "100000000000000000000"), "seed"),
        (("--memory", "1.2.3GB"), "1.2.3GB"),
        (("--data", "more.py:labels", "--model-args", '{"num_classes": 3}'), "out of bounds"),
        (("--data", "more.py:whole"), "failed on a batch"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(project, run, flags, words):
    (project / "more.py").write_text(
        "from data import tensors\n"
        "def labels():\n    x, y = tensors()\n    return x, y + 3 * (y == 2)\n"
        "def whole():\n    x, y = tensors()\n    return x.to(int), y\n"
    )
    code, out, err = run("analyze", "ckpt.pt", *OURS, *flags)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert not out
    assert not list(project.glob("curvature/*.json"))


def test_a_file_may_import_packages_of_the_folder_that_the_command_runs_in(project, run):
    (project / "scripts").mkdir()
    (project / "scripts" / "factory.py").write_text("from training.nets import net\n")
    code, _, err = run("analyze", "ckpt.pt", "--model", "scripts/factory.py:net", "--data", "data.py:tensors", "--eta", "10")
    assert code == 0, err


def test_a_slice_uses_the_result_that_is_there_and_leaves_it(project, run):
    assert run("analyze", "ckpt.pt", *OURS, "--starts", "3")[0] == 0
    path = project / "curvature" / "ckpt.head-tail.json"
    before = path.read_bytes()
    code, _, err = run("slice", "ckpt.pt", "tail-min")
    assert code == 2
    assert "training.nets:net" in err  # what a stored result names is not run unasked
    code, _, err = run("slice", "ckpt.pt", "tail-min", "--trust-checkpoint")  # knows from the result what the checkpoint is
    assert code == 0, err
    assert path.read_bytes() == before
    assert run("analyze", "ckpt.pt", *OURS, "--params", "0.*,4.*")[0] == 0
    code, _, err = run("slice", "ckpt.pt", "tail-max", *OURS[:-2], "--set", "params='0.*,4.*'", "--set", "steps=40")
    assert code == 0, err


def test_a_convexity_map_of_somebody_elses_checkpoint_with_its_figures(project, run):
    assert run("analyze", "ckpt.pt", *OURS)[0] == 0
    flags = (*OURS[:4], "--convexity", "--figures", "pictures", "--set", "plane_points=3", "--set", "convexity_groups=['tail']")
    code, out, err = run("slice", "ckpt.pt", "tail-plane", *flags)
    assert code == 0, err
    assert "9/9" in err
    piece = load(Slice, project / "slices" / "ckpt.tail-plane.json")
    whole = load(CurvatureResult, project / "curvature" / "ckpt.head-tail.json")
    assert list(piece.lambda_min) == ["tail"]
    assert piece.lambda_min["tail"][1][1] == pytest.approx(whole.groups["tail"].lambda_min.value, rel=1e-2)
    assert len(list((project / "pictures").glob("convexity*.png"))) == 2
    assert "figures in pictures" in out
    for flags, words in (
        (("ckpt.pt", "tail-min", *OURS[:4], "--convexity"), "needs a plane"),
        (("ckpt.pt", "tail-plane", *OURS[:4], "--convexity", "--set", "convexity_groups=['few']"), "no group few"),
    ):
        code, _, err = run("slice", *flags)
        assert code == 2
        assert words in err


def test_verify_sees_code_that_was_edited_and_vectors_that_were_damaged(project, run):
    assert run("analyze", "ckpt.pt", *OURS, "--loss", "losses.py:smooth")[0] == 0
    path = project / "curvature" / "ckpt.head-tail.json"
    code, out, _ = run("verify", path, *OURS[:4], "--loss", "losses.py:smooth")
    assert code == 0
    assert "holds" in out
    text = (project / "losses.py").read_text()
    (project / "losses.py").write_text(text.replace("def smooth", "def sharp") + "def smooth(*a):\n    return sharp(*a) / 2\n")
    for name in [name for name in sys.modules if name.startswith("_user_losses")]:
        del sys.modules[name]
    code, out, _ = run("verify", path, *OURS[:4], "--loss", "losses.py:smooth")
    assert code == 1
    assert "FAILS" in out
    vectors = path.with_suffix(".vectors.safetensors")
    vectors.write_bytes(vectors.read_bytes()[:-100])
    code, _, err = run("verify", path, *OURS[:4], "--loss", "losses.py:smooth")
    assert code == 2
    assert "damaged" in err


def test_layers_of_a_model_without_parts(project, run):
    (project / "one.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(6, 3)\n")
    torch.save(nn.Linear(6, 3).state_dict(), project / "one.pt")
    code, _, err = run("analyze", "one.pt", "--model", "one.py:net", "--data", "data.py:tensors", "--layers")
    assert code == 2
    assert "leave out --layers" in err


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
