"""Commands that begin with a stored result: its proofs again, and slices through its checkpoint."""

import itertools
import json
import sys
import weakref

import pytest
from saddlescope.analysis.krylov.sliced_files import StoredVectors, files_of, save_index, save_slices
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.slices import Slice
from safetensors.torch import load_file

OURS = ("--model", "training.nets:net", "--data", "data.py:tensors", "--eta", "10", "--steps", "40")


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


SAVED = """

class SavedDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.saved = x.detach()
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2 * ctx.saved


def smooth(*a):
    return SavedDerivative.apply(sharp(*a).sqrt())
"""


def test_verify_looks_whether_products_are_derivatives_of_the_loss(project, run):
    """Value and gradient of the loss stay; a symmetric part of its Hessian goes."""
    assert run("analyze", "ckpt.pt", *OURS, "--loss", "losses.py:smooth", "--goal", "verdict")[0] == 0
    text = (project / "losses.py").read_text()
    (project / "losses.py").write_text("import torch\n" + text.replace("def smooth", "def sharp") + SAVED)
    for name in [name for name in sys.modules if name.startswith("_user_losses")]:
        del sys.modules[name]
    path = project / "curvature" / "ckpt.head-tail.json"
    code, _, err = run("verify", path, *OURS[:4], "--loss", "losses.py:smooth")
    assert code == 2
    assert "group all" in err
    assert "'SavedDerivative'" in err


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


def test_verify_reads_vectors_that_were_stored_in_slices(project, run, monkeypatch):
    """As three processes would have stored them; one reads them, one by one."""
    assert run("analyze", "ckpt.pt", *OURS, "--loss", "losses.py:smooth")[0] == 0
    path = project / "curvature" / "ckpt.head-tail.json"
    whole = path.with_suffix(".vectors.safetensors")
    vectors = load_file(whole)
    size = len(next(iter(vectors.values())))
    cuts = [0, size // 3, size // 2, size]
    ranges = [[cut] for cut in itertools.pairwise(cuts)]
    for rank, ((begin, to),) in enumerate(ranges):
        save_slices({name: vector[begin:to] for name, vector in vectors.items()}, whole, ranges, rank)
    index = save_index(list(vectors), whole, ranges, 4)
    whole.unlink()
    path.write_text(path.read_text().replace(f'"{whole.name}"', f'"{index.name}"'))
    read, getitem = [], StoredVectors.__getitem__

    def alone(self, name):
        """One vector is what there is room for."""
        assert not [v for v in read if v() is not None]
        vector = getitem(self, name)
        read.append(weakref.ref(vector))
        return vector

    monkeypatch.setattr(StoredVectors, "__getitem__", alone)
    code, out, _ = run("verify", path, *OURS[:4], "--loss", "losses.py:smooth")
    assert code == 0
    assert out.count("holds") == len(read) - len(vectors) > 0  # all are looked at, and some are proofs
    files_of(index)[1].unlink()
    code, _, err = run("verify", path, *OURS[:4], "--loss", "losses.py:smooth")
    assert code == 2
    assert "-00002-of-00003.safetensors is missing" in err
