"""Steps through torch.compile: the same training to rounding, continued to the same digits, a clear word where it cannot be."""

import json
import shutil

import pytest
import torch
from saddlescope.training.data.datasets import load_data
from saddlescope.training.runs.loop import TrainingError, train_run
from saddlescope.training.runs.recipe import parse_recipe
from saddlescope.training.runs.run import runs
from saddlescope.training.runs.session import Session
from torch import nn

# torch's own, on the way of its compiler
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
DATA = {"name": "synthetic", "imbalance_factor": 10, "n_max": 40}
SIZE = 8 * 8  # of its images
RULES = {"imbsam": {"rho": 0.1}}


def net(num_classes=5):
    """Batch statistics, and few kernels: each takes a compiler seconds."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, num_classes))


def one_run(**training):
    tables = {"epochs": 3, "batch_size": 16, "lr": 0.05, "augment": "crop-flip", **training}
    recipe = {
        "name": "compiled",
        "question": "?",
        "seeds": [3],
        "data": DATA,
        # with this seed the first batches have no tail sample: one gradient, later ones several
        "groups": {"eta": 5, "many": 30, "few": 8},
        "model": {"name": f"{__file__}:net"},
        "training": tables,
        "optimizers": RULES,
    }
    return runs(parse_recipe(recipe))[0]


def end(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.load(folder / "checkpoint.pt", weights_only=True), [row["train_loss"] for row in rows]


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_compiled_steps_train_as_plain_ones_and_a_stopped_run_goes_on_to_the_same_digits(tmp_path, monkeypatch):
    data = load_data(**DATA)
    assert len(data.train) % 16, "the last batch must be a ragged one"
    train_run(one_run(), tmp_path / "plain", data)
    train_run(one_run(compile=True), tmp_path / "compiled", data)
    (plain, losses), (compiled, compiled_losses) = end(tmp_path / "plain"), end(tmp_path / "compiled")
    assert compiled_losses == pytest.approx(losses, rel=1e-5)
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():  # running statistics among them: they move once a step
        assert torch.allclose(compiled[name], value, rtol=1e-4, atol=1e-6), name

    steps = Session.steps

    def stopped(self):
        for _ in steps(self):
            yield
            if (self.epoch, self.step) == (1, 2) and not stops:
                stops.append(1)
                raise KeyboardInterrupt

    stops = []
    monkeypatch.setattr(Session, "steps", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_run(one_run(compile=True), tmp_path / "again", data, state_seconds=0.0)
    train_run(one_run(compile=True), tmp_path / "again", data, state_seconds=0.0)
    again, again_losses = end(tmp_path / "again")
    assert again_losses == compiled_losses
    assert all(torch.equal(again[name], value) for name, value in compiled.items())


def test_a_machine_without_a_compiler_is_told_so_and_nothing_is_stored(tmp_path, monkeypatch):
    from torch._inductor import config

    torch._dynamo.reset()  # what was compiled before needs no compiler
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    absent = config.patch({"cpp.cxx": (None, "/no/such/compiler")})
    with absent, pytest.raises(TrainingError, match=r"C\+\+ compiler .* is needed"):
        train_run(one_run(compile=True), tmp_path / "run", load_data(**DATA))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["run.json"]


def test_compiling_makes_another_run_and_leaving_it_out_none():
    plain, said, compiled = one_run(), one_run(compile=False), one_run(compile=True)
    assert plain.folder == said.folder != compiled.folder
