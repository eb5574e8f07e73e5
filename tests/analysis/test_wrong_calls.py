"""Calls of the command line that cannot work: one sentence, exit code 2, and nothing is left behind."""

import pytest
import torch
from torch import nn

OURS = ("--model", "training.nets:net", "--data", "data.py:tensors", "--eta", "10", "--steps", "40")


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
        (("--params", "0.*,"), "write patterns of parameter names"),
        (("--params", "0.[wb"), "write patterns of parameter names"),
        (("--params", ""), "write patterns of parameter names"),
        (("--params", "conv9.*", "--num-classes", "3"), "no parameter with requires_grad matches 'conv9.*'"),
        (("--params", "0.*,conv9.*", "--model", "own.py:net"), "no parameter with requires_grad matches 'conv9.*'"),
        (
            ("--params", "0.*,conv9.*", "--model", "own.py:net", "--dry-run"),
            "no parameter with requires_grad matches 'conv9.*'",
        ),
        (("--params", "0.*", "--layers"), "leave out --params, or --layers"),
        (("--loss", "missing.py:loss"), "factory file missing.py does not exist"),
        (("--loss", "slow.py:loss"), "slow.py has no 'loss'"),
        (("--model", "slow.py:net"), "slow.py has no 'net'"),
    ],
)
def test_a_wrong_call_is_refused_before_data_and_model_are_loaded(project, run, flags, said):
    (project / "own.py").write_text("from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Linear(3, 2))\n")
    (project / "slow.py").write_text("def data():\n    open('loaded', 'w').close()\n    raise KeyError('loaded')\n")
    code, _, errors = run("analyze", "ckpt.pt", *OURS, "--data", "slow.py:data", *flags)
    assert code == 2
    assert said in errors
    assert not (project / "loaded").exists()


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
        (("ckpt.pt", *OURS, "--params", "0.*, conv9.*"), "no parameter with requires_grad matches 'conv9.*'"),
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


def test_weights_of_a_run_that_diverged_are_named(project, run, architecture):
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


def test_layers_of_a_model_without_parts(project, run):
    (project / "one.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(6, 3)\n")
    torch.save(nn.Linear(6, 3).state_dict(), project / "one.pt")
    code, _, err = run("analyze", "one.pt", "--model", "one.py:net", "--data", "data.py:tensors", "--layers")
    assert code == 2
    assert "leave out --layers" in err
