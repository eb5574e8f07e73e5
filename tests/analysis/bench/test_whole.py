"""Whole commands: what is run, what is read off a process, and what is found out beforehand. Times are never tested."""

import json
import sys

import numpy as np
import pytest
import torch
from saddlescope.analysis.bench import whole
from saddlescope.analysis.bench.cases import BenchError
from saddlescope.analysis.bench.harness import BenchRunError, add
from saddlescope.analysis.bench.whole_cases import WHOLE_CASES, network_of
from saddlescope.analysis.bench.whole_child import MOST, _settled, find_out
from saddlescope.analysis.bench.whole_table import whole_table
from saddlescope.analysis.krylov.lanczos import Lanczos
from saddlescope.analysis.krylov.linear_operator import MatrixOperator
from torch import nn
from torch.nn import functional

NETWORK = """
from torch import nn


def build():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a user has: a network's file, weights and samples."""
    folder = tmp_path_factory.mktemp("case")
    (folder / "network.py").write_text(NETWORK)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(network_of(folder).state_dict(), folder / "weights.pt")
        np.savez(folder / "data.npz", x=torch.randn(30, 6).numpy(), y=(torch.arange(30) % 3).numpy())
    return folder


@pytest.fixture(scope="module")
def known(folder):
    return find_out(folder)


def test_the_reference_is_the_dense_hessians(folder, known):
    model = network_of(folder).double()
    model.load_state_dict(torch.load(folder / "weights.pt"))
    data = np.load(folder / "data.npz")
    x, y = torch.from_numpy(data["x"]).double(), torch.from_numpy(data["y"])
    names, values = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in values]

    def loss(flat):
        parts = (part.view_as(p) for part, p in zip(flat.split(sizes), values, strict=True))
        return functional.cross_entropy(torch.func.functional_call(model, dict(zip(names, parts, strict=True)), x), y)

    flat = torch.cat([p.detach().reshape(-1) for p in values])
    truth = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    assert known["lambda_min"] == pytest.approx(float(truth[0]), rel=1e-3)
    assert known["lambda_max"] == pytest.approx(float(truth[-1]), rel=1e-4)
    assert not known["eigsh"]["ends"]["missed"]
    assert find_out(folder) == json.loads(json.dumps(known))  # kept


def test_a_second_eigenvalue_is_no_reference():
    """A start with little along the outermost eigenvector leads to the next one first, with a residual as small as wanted."""
    spectrum = torch.linspace(-1.4, 20, 400, dtype=torch.float64)
    spectrum[0], spectrum[1], spectrum[-1] = -1.5126, -1.5, 50.0
    start = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start[0] = 1e-2
    run = Lanczos(MatrixOperator(torch.diag(spectrum)), start=start).run(MOST, _settled)
    assert float(run.ritz.values[0]) == pytest.approx(-1.5126, rel=1e-4)


def test_commands_are_ours_and_the_peers_at_defaults_and_at_their_best(folder, known):
    commands = whole._commands(folder, known)
    for question in ("ends", "verdict"):
        mine = [one for one in commands if one.question == question]
        assert mine[0].peer == "ours"
        assert "--set" not in mine[0].arguments  # ratios are over our defaults
        assert {one.best for one in mine if one.peer == "curvlinops"} == {False, True}
    assert [one.arguments[-2:] for one in commands if "confirm=false" in one.title] == [("--set", "confirm=false")]
    assert all((whole.SCRIPTS / name).exists() for name in {one.arguments[0] for one in commands if one.peer != "ours"})
    assert len(set(commands)) == len(commands)


def test_scripts_are_short():
    """They are what a user would write: about twenty lines, the imports among them."""
    for script in whole.SCRIPTS.glob("*.py"):
        lines = [line for line in script.read_text().splitlines() if line.strip()]
        assert len(lines) <= 30, script


def test_ours_and_a_process_are_measured(folder, known):
    said = json.dumps({"groups": {"all": {"lambda_min": {"value": -1.0}, "lambda_max": {"value": 2.0}}}})
    ran = whole._run(whole.Command("us", "ends", "ours", False, ("-c", f"print('''{said}''')")), folder)
    assert (ran.lambda_min, ran.lambda_max) == (-1, 2)
    assert ran.peak_bytes > 2**20
    assert ran.cpu_seconds > 0
    peer = whole.Command("them", "ends", "curvlinops", False, ("-c", "print('{\"lambda_min\": -2.0}')"))
    runs = {whole._commands(folder, known)[0]: [ran], peer: [whole._run(peer, folder)]}
    entry = whole._entry(peer, runs[peer], runs, {"lambda_min": -2.0, "lambda_max": 2.0})
    assert entry["errors"] == {"lambda_min": 0, "lambda_max": None}
    assert entry["ratio"] == runs[peer][0].seconds / ran.seconds
    with pytest.raises(BenchRunError, match="them: exit code 1, ValueError: no"):
        whole._run(whole.Command("them", "ends", "x", False, ("-c", "raise ValueError('no\\nfurther')")), folder)


def test_what_is_announced_is_ours_own_dry_run(folder, known):
    """In seconds, of the command that is measured; the table holds it against what happened."""
    ours = whole._commands(folder, known)[0]
    said = whole.announce(ours, folder)
    assert 0 < said.seconds_at_least <= said.seconds <= said.seconds_at_most < 600
    assert 2**26 < said.memory_bytes <= said.memory_bytes_at_most
    entry = {"title": "us", "question": "ends", "best": False, "seconds": [3.0, 4.0, 50.0], "cpu_seconds": [3.0], "ratio": 1.0}
    entry |= {"cpu_ratio": 1.0, "errors": {"lambda_min": 0.0, "lambda_max": None}, "peak_bytes": 3 * 2**20}
    about = {"parameters": 1, "samples": 1, "steps": 1, "lambda_min": -1.0, "lambda_max": 1.0}
    announced = whole.asdict(whole.Announced(1.0, 8.0, 16.0, 2 * 2**20, 4 * 2**20, 2.5))
    case = {"title": "a case", "known": about, "entries": [entry], "announced": {"ends": announced}}
    machine = {"processor": "P", "cores": 2, "threads": 1, "system": "S", "python": "3"}
    table = whole_table({"machine": machine, "versions": {}, "date": "2026-01-01", "cases": [case]})
    assert "(in 2.5 CPU seconds): 8 s, at least 1 and at most 16; then 4, 0.50 times" in table
    assert "2 MiB, at most 4; then 3, 1.50 times as much." in table


def command(title, peer, code):
    return whole.Command(title, "ends", peer, False, ("-c", code))


def test_a_peer_that_fails_ends_neither_its_case_nor_the_rounds(folder, tmp_path):
    """It is asked once, and its row says what it said."""
    ours = command("us", "ours", 'print(\'{"groups": {"all": {"lambda_min": {"value": -1}, "lambda_max": {"value": 2}}}}\')')
    asked = tmp_path / "asked"
    bad = command("them", "curvlinops", f"open({str(asked)!r}, 'a').write('x'); raise MemoryError('a | b')")
    good = command("others", "eigenthings", "print('{\"lambda_min\": -1.0}')")
    runs, failed = whole._rounds("case", [ours, bad, good], folder, 2, lambda _: None)
    assert [len(runs[one]) for one in (ours, bad, good)] == [2, 0, 2]
    assert asked.read_text() == "x"
    known = {"lambda_min": -1.0, "lambda_max": 2.0, "parameters": 1, "samples": 1, "steps": 1}
    entries = [whole._entry(one, runs[one], runs, known, failed.get(one)) for one in (ours, bad, good)]
    case = {"case": "digits", "title": "a case", "known": known, "entries": entries}
    path = tmp_path / "whole.json"
    add(path, (whole.FORMAT, whole.VERSION), {}, "cases", case, lambda one: one["case"], whole_table)
    table = path.with_suffix(".md").read_text()
    assert "| them | failed: case, them: exit code 1, MemoryError: a / b |" in table.replace(folder.name, "case")
    assert "| others |" in table
    with pytest.raises(BenchRunError, match="MemoryError"):
        whole._rounds("case", [command("us", "ours", "raise MemoryError"), good], folder, 1, lambda _: None)


def test_two_benches_into_one_folder_keep_each_others_cases(tmp_path):
    """The second began before the first had stored anything."""
    path, heading = tmp_path / "whole.json", (whole.FORMAT, whole.VERSION)
    for case, versions in (("b", {"torch": "2"}), ("a", {"peer": "1"}), ("b", {"torch": "3"})):
        add(path, heading, versions, "cases", {"case": case, "of": versions}, lambda one: one["case"], str)
    record = json.loads(path.read_text())
    assert record["cases"] == [{"case": "a", "of": {"peer": "1"}}, {"case": "b", "of": {"torch": "3"}}]
    assert record["versions"] == {"torch": "3", "peer": "1"}


def test_the_table_names_the_best(folder, known):
    ran = whole.Ran(2.0, 3.0, 2**30, -1.0, None)
    runs = {command: [ran] for command in whole._commands(folder, known)}
    case = {
        "title": "a case",
        "known": known,
        "entries": [whole._entry(command, found, runs, known) for command, found in runs.items()],
    }
    machine = {"processor": "P", "cores": 2, "threads": 1, "system": "S", "python": sys.version.split()[0]}
    table = whole_table({"machine": machine, "versions": {"torch": "2"}, "date": "2026-01-01", "cases": [case]})
    assert "| curvlinops + eigsh, *best* | 2 | 3 | 1.00 | 1.00 |" in table
    assert "**Is there negative curvature?**" in table


def test_unknown_cases_and_peers_are_refused(tmp_path):
    with pytest.raises(BenchError, match="--case resnet: not known; there are resnet18-16"):
        whole.bench_whole(tmp_path, cases=["resnet"])
    with pytest.raises(BenchError, match="--competitor hessian: not known; there are curvlinops"):
        whole.bench_whole(tmp_path, competitors=["hessian"])


@pytest.mark.parametrize(("name", "size"), [("resnet18-16", 11.2e6), ("vit-tiny", 5.4e6), ("bert", 5.2e6)])
def test_networks_have_the_size_that_the_table_says(name, size):
    from saddlescope.analysis.bench import networks
    from saddlescope.training.networks import resnets

    with torch.device("meta"):
        model = eval(WHOLE_CASES[name].build, vars(networks) | vars(resnets))
    assert isinstance(model, nn.Module)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(size, rel=0.02)
