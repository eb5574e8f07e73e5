"""The command line in several processes: the numbers of one, a process that dies, and what does not fit together.

Above 300 lines: one file of a user's, whose factories most of these tests need.
"""

import itertools
import json
import warnings

import pytest
import torch
import torch.distributed.checkpoint
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from torch import nn

MINE = """
import os, signal
from pathlib import Path
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from saddlescope.analysis.hessian import turns
from saddlescope.analysis.krylov import sliced_files, space, start_store
from saddlescope.analysis.measures import saddle

RANK = int(os.environ.get("RANK", 0))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Sine(nn.Module):
    def forward(self, x):
        return Once.apply(x)


def net(middle=nn.Tanh):
    return nn.Sequential(nn.Linear(4, 5), middle(), nn.Linear(5, 3))


def sines():
    return net(Sine)


class Largest(TorchDispatchMode):
    # Of a tensor of numbers that a process ever makes: its largest dimension. Bytes are what exchanges of words are.
    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for t in tree_leaves(made):
            if isinstance(t, torch.Tensor) and t.dtype != torch.uint8 and max(t.shape, default=0) > self.size:
                self.size = max(t.shape)
                Path(f"largest-{RANK}").write_text(str(self.size))
        return made


def sharded(*, counted=False):
    if counted:  # a process draws, reads and hashes a few numbers at once, of which there are millions otherwise
        space.BLOCK = saddle._AT_ONCE = sliced_files._AT_ONCE = 16
        space.ONE_STREAM = 1
        Largest().__enter__()
    layers = [nn.Sequential(nn.Linear(k, 8), nn.Tanh()) for k in (4, 8, 8, 8)]
    model = nn.Sequential(*layers, nn.Linear(8, 3)).double()
    if "WORLD_SIZE" in os.environ and os.environ["WORLD_SIZE"] != "1":
        for layer in layers:
            fully_shard(layer)
        fully_shard(model)
    return model


def tiny():
    return nn.Sequential(nn.Linear(4, 1, bias=False), nn.Tanh(), nn.Linear(1, 3, bias=False))


def data(by=0.0):
    y = torch.cat([torch.full((n,), c) for c, n in enumerate((20, 9, 2))])
    return torch.randn(31, 4, generator=torch.Generator().manual_seed(0)) + y[:, None] + by, y


def other_data():
    return data(float(RANK))


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def dies(model, batch):
    start_store.STORE_EVERY = start_store.STORE_RARELY = 0.0
    if str(RANK) == os.environ.get("DYING") and list(Path("many").glob(os.environ["STORED"])):
        os.kill(os.getpid(), signal.SIGKILL)
    with open(f"calls-{os.environ['COUNTED']}-{RANK}", "a") as file:
        file.write(".")
    return loss(model, batch)


def in_turn(model, batch):
    turns.CHECK_BYTES = 10**12
    if batch[0].dtype == torch.float64:
        with open("float64", "a") as file:
            file.write(str(RANK))
    return loss(model, batch)


def one_is_nan(model, batch):
    return loss(model, batch) * (float("nan") if RANK == 1 else 1.0)


def one_fails(model, batch):
    if RANK == 1:
        raise RuntimeError("no such kernel")
    return loss(model, batch)
"""
GROUPS = ["--group", "all=0,1,2", "--group", "many=0,1", "--group", "two=2"]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    torch.manual_seed(1)
    weights = {name: 0.7 * w for name, w in nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).state_dict().items()}
    torch.save(weights, tmp_path / "c.pt")
    return tmp_path


@pytest.fixture
def run(processes, place):
    """``run(2, "analyze", ...)``: exit codes and words of so many processes."""

    def run(size, command, *more, model="net", data="data", target="c.pt", env=None):
        named = ["--model", f"mine.py:{model}", "--data", f"mine.py:{data}"]
        argv = [command, *([target] if command == "analyze" else []), *more, *named]
        return processes(argv=argv, size=size, cwd=str(place), env=env or {})

    return run


def fine(done):
    assert set(done.codes) == {0}, done.err
    assert all(not out for out in done.out[1:])  # one process speaks
    return done


def stored(place, out):
    (path,) = (path for path in (place / out).glob("c.*.json") if "vectors" not in path.name)
    return load(CurvatureResult, path)


def same(found, wanted):
    for name, one in wanted.groups.items():
        other = found.groups[name]
        allowed = 2 * (one.noise.absolute + other.noise.absolute)
        assert (other.size, other.verdict.label, other.products) == (one.size, one.verdict.label, one.products), name
        for number in ("lambda_min", "lambda_max"):
            assert getattr(other, number).value == pytest.approx(getattr(one, number).value, abs=allowed), (name, number)
            for low, high in zip(getattr(other, number).interval, getattr(one, number).interval, strict=True):
                assert (low is None) == (high is None), (name, number)
                assert low is None or low == pytest.approx(high, abs=1e3 * allowed), (name, number)
        if one.trace is not None:
            assert other.trace.value == pytest.approx(one.trace.value, abs=40 * allowed), name
        for probe, twin in zip(*(g.density.probes if g.density else [] for g in (other, one)), strict=True):
            assert probe.nodes == pytest.approx(twin.nodes, abs=1e3 * allowed), name
        assert (other.certificate is None) == (one.certificate is None)


@pytest.mark.parametrize(("size", "mesh"), [(2, "1x2"), (3, "1x3"), (4, "2x2"), (3, None)])
def test_the_numbers_of_one_process_and_a_certificate_that_one_process_checks(run, place, size, mesh):
    asked = [*GROUPS, "--steps", "12", "--starts", "2", "--set", "rates=false"]
    fine(run(1, "analyze", *asked, "--out", "one"))
    fine(run(size, "analyze", *asked, "--out", "many", *(["--mesh", mesh] if mesh else [])))
    same(stored(place, "many"), stored(place, "one"))
    assert stored(place, "one").groups["two"].certificate is not None
    checked = fine(run(1, "verify", "many/c.custom.json", "--checkpoint", "c.pt"))
    assert checked.out[0].count("holds") == sum(g.certificate is not None for g in stored(place, "one").groups.values())


def test_products_by_differences_where_one_process_has_no_others(run, place):
    asked = ["--groups", "all", "--steps", "12", "--set", "min_steps=12"]
    fine(run(1, "analyze", *asked, "--out", "one", model="sines"))
    fine(run(2, "analyze", *asked, "--out", "many", "--mesh", "1x2", model="sines"))
    one, many = stored(place, "one"), stored(place, "many")
    assert one.groups["all"].products == "differences"
    same(many, one)


def test_fewer_numbers_and_samples_than_processes(run, place):
    torch.save({"0.weight": torch.tensor([[0.3, -0.2, 0.1, 0.4]]), "2.weight": torch.ones(3, 1)}, place / "c.pt")
    asked = [*GROUPS, "--steps", "12", "--params", "2.weight", "--set", "rates=false"]
    fine(run(1, "analyze", *asked, "--out", "one", model="tiny"))
    fine(run(5, "analyze", *asked, "--out", "many", "--mesh", "1x5", model="tiny"))  # n = 3, and a group of two samples
    same(stored(place, "many"), stored(place, "one"))


@pytest.mark.parametrize(
    ("goal", "dying", "stored_at"),
    [
        ("spectrum", 0, ".c.all.starts/*/*/0.safetensors*"),  # the first start is done
        ("spectrum", 1, ".c.all.starts/*/*/0.running-5-*"),  # its fifth step
        ("ends", 0, ".c.all.ends/*/*/0/exact.running-6-*"),
        ("verdict", 1, ".c.all.ends/*/*/0/ends.safetensors*"),  # found, and no result yet
        ("sharded ends", 0, ".c.all.ends/*/*/0/exact.running-6-*"),
    ],
)
def test_a_process_that_dies_ends_the_others_and_the_next_call_goes_on(run, place, request, goal, dying, stored_at):
    model, goal = ("sharded", "ends") if goal == "sharded ends" else ("net", goal)
    if model == "sharded":
        request.getfixturevalue("in_parts")
    # By differences: a product is two gradients, so the loss is called at every step.
    asked = ["--groups", "all", "--steps", "8", "--goal", goal, "--products", "differences", "--loss", "mine.py:dies"]
    asked += ["--set", "min_steps=8", "--starts", "2"] if goal == "spectrum" else []
    fine(run(1, "analyze", *asked, "--out", "one", env={"COUNTED": "one"}, model=model))
    two, three = ([] if model == "sharded" else ["--mesh", mesh] for mesh in ("1x2", "1x3"))
    dies = {"COUNTED": "died", "DYING": str(dying), "STORED": stored_at}
    died = run(2, "analyze", *asked, "--out", "many", *two, env=dies, model=model)
    assert (died.codes[dying], died.codes[1 - dying]) == (-9, 2)
    assert died.err[1 - dying].count("error: ") == 1
    assert "another process of this analysis has ended or cannot be reached" in died.err[1 - dying]
    assert "Traceback" not in died.err[1 - dying]
    assert not [path for path in (place / "many").glob("*") if not path.name.startswith(".")]
    fine(run(3, "analyze", *asked, "--out", "many", *three, env={"COUNTED": "again"}, model=model))
    calls = {name: (place / f"calls-{name}-0").stat().st_size for name in ("one", "again")}
    assert calls["again"] <= calls["one"] - 2 * 3  # at least three steps, of two gradients each, were not taken again
    one, other = stored(place, "one"), stored(place, "many")
    same(other, one)
    assert (other.groups["all"].matvecs, other.groups["all"].steps) == (one.groups["all"].matvecs, one.groups["all"].steps)
    if goal != "spectrum":  # there is nothing to add to
        assert not list((place / "many").glob(".*"))


@pytest.fixture
def in_parts(place):
    """A folder of ``torch.distributed.checkpoint`` for the model that its factory spreads; how many numbers its weights are."""
    torch.manual_seed(1)
    layers = [nn.Sequential(nn.Linear(k, 8), nn.Tanh()) for k in (4, 8, 8, 8)]
    model = nn.Sequential(*layers, nn.Linear(8, 3)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.checkpoint.save({"model": model.state_dict()}, checkpoint_id=place / "parts", no_dist=True)
    torch.save(model.state_dict(), place / "c.pt")
    return sum(p.numel() for p in model.parameters())


def test_a_model_that_is_never_whole_gives_the_numbers_of_one_that_is(run, place, in_parts):
    asked = [*GROUPS[2:], "--steps", "25", "--products", "differences", "--dtype", "float64"]
    fine(run(1, "analyze", *asked, "--out", "one", model="sharded"))
    asked += ["--model-args", '{"counted": true}']
    fine(run(2, "analyze", *asked, "--out", "many", model="sharded", target="parts"))
    many, one = load(CurvatureResult, place / "many" / "parts.custom.json"), stored(place, "one")
    # Its random vectors are others, drawn in parts: ends differ by what both have left.
    for name, group in one.groups.items():
        other = many.groups[name]
        noise = group.noise.absolute + other.noise.absolute
        for end in ("lambda_min", "lambda_max"):
            true, found = getattr(group, end), getattr(other, end)
            assert found.value == pytest.approx(true.value, abs=noise + true.residual + found.residual), (name, end)
            assert found.interval[0] <= true.value <= found.interval[1]
        for number in ("loss", "gradient_norm", "weight_norm"):
            assert getattr(other, number) == pytest.approx(getattr(group, number), rel=1e-12)
        assert other.verdict.label == group.verdict.label
        assert other.certificate.holds == group.certificate.holds
        assert other.escape.gradient_along_v < 0
        assert other.escape.test.loss == pytest.approx(group.escape.test.loss, rel=1e-2)
    assert many.additivity < 1e-6
    held = []
    for size in (2, 3, 1):
        held.append(max(int((place / f"largest-{rank}").read_text()) for rank in range(2)))
        checked = fine(run(size, "verify", "many/parts.custom.json", "--checkpoint", "parts", model="sharded"))
        assert checked.out[0].count("holds") == 2
    # A slice of a vector, in analyze and in verify with as many; of three, layers of eight rows do not come out even.
    assert all(0.5 <= largest / in_parts < most for largest, most in zip(held[:2], (0.55, 0.55), strict=True)), held
    assert held[2] < 0.5 * in_parts


def test_float64_checks_are_taken_in_turn_where_there_is_no_room_for_all(run, place):
    asked = [*GROUPS[:2], "--steps", "12", "--goal", "verdict", "--loss", "mine.py:in_turn"]
    fine(run(1, "analyze", *asked, "--out", "one"))
    (place / "float64").unlink()
    fine(run(3, "analyze", *asked, "--out", "many", "--mesh", "1x3"))
    same(stored(place, "many"), stored(place, "one"))
    turns = [rank for rank, _ in itertools.groupby((place / "float64").read_text())]
    # A look before, one after, and two products; where the curvature is negative its certificate is one of these.
    assert turns == ["0", "1", "2"] * 3
    planned = json.loads(fine(run(1, "analyze", *asked, "--mesh", "1x3", "--dry-run", "--json")).out[0])
    alone = max(group["memory_bytes_at_most"] for group in planned["groups"])
    assert alone < planned["memory_bytes_together"] <= 3 * alone


def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(run, place):
    cases = [
        ("mesh 2x2 is of 2 x 2 = 4 processes, and 2 were started", ["--mesh", "2x2"], {}),
        ("process 1 has other samples than process 0", ["--mesh", "1x2"], {"data": "other_data"}),
        ("process 1 has other weights than process 0", ["--mesh", "1x2"], {"target": "c{rank}.pt"}),
        ("is not finite", ["--loss", "mine.py:one_is_nan"], {}),
        ("no such kernel", ["--loss", "mine.py:one_fails"], {}),
    ]  # fmt: skip
    torch.save(torch.load(place / "c.pt"), place / "c0.pt")
    torch.save({name: w + 1 for name, w in torch.load(place / "c.pt").items()}, place / "c1.pt")
    for sentence, flags, more in cases:
        done = run(2, "analyze", "--groups", "all", "--steps", "8", "--out", "new", *flags, **more)
        said = "".join(done.err)
        assert done.codes == [2, 2], (sentence, done.err)
        assert said.count("error: ") == 1, (sentence, done.err)
        assert sentence in said
        assert "Traceback" not in said
        assert not [path for path in (place / "new").rglob("*") if path.is_file()]


def test_a_dry_run_is_of_one_of_the_processes_that_are_planned(run):
    asked = ["--groups", "all", "--steps", "20", "--dry-run", "--json"]
    alone = json.loads(fine(run(1, "analyze", *asked)).out[0])
    planned = json.loads(fine(run(1, "analyze", *asked, "--mesh", "2x4")).out[0])
    started = json.loads(fine(run(2, "analyze", *asked, "--mesh", "1x2")).out[0])
    assert [(cost["processes"], cost["slices"]) for cost in (alone, planned, started)] == [(1, 1), (8, 4), (2, 2)]
    n = alone["parameters"]
    assert [cost["basis_bytes"] for cost in (alone, planned, started)] == [20 * 4 * -(-n // slices) for slices in (1, 4, 2)]
    # A ring sends a sum nearly twice, and a slice goes to all who have the others.
    sent = [0, int((2 * 7 / 8 + 3 / 4) * 4 * n), int(1.5 * 4 * n)]
    assert [cost["message_bytes"] for cost in (alone, planned, started)] == sent
    refused = run(2, "analyze", *asked, "--mesh", "2x2")
    assert refused.codes == [2, 2]
    assert "".join(refused.err).count("error: ") == 1
