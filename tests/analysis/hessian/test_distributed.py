"""Two gloo processes under torchrun against one, from the command line."""

import os
import subprocess
import sys

import pytest
import torch
from saddlescope.analysis.hessian.distributed import World, world_of
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from torch import nn

NETS = (
    "from torch import nn\n"
    "def net():\n"
    "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))\n"
    "def data():\n"
    "    import torch\n"
    "    g = torch.Generator().manual_seed(0)\n"
    "    y = torch.cat([torch.full((n,), c) for c, n in enumerate((30, 12, 1))])\n"
    "    return torch.randn(len(y), 1, 6, 6, generator=g) + y[:, None, None, None], y\n"
)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    (tmp_path / "mine.py").write_text(NETS)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    torch.save(model.state_dict(), tmp_path / "c.pt")
    asked = ["-m", "saddlescope", "analyze", "c.pt", "--model", "mine.py:net", "--data", "mine.py:data"]
    asked += ["--group", "all=0,1,2", "--group", "rest=0,1", "--group", "one=2", "--dtype", "float64", "--steps", "40"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = {}
    for name, prefix, mesh in (("one", [], []), ("two", torchrun, ["--mesh", "1x2"])):
        done = subprocess.run(
            [sys.executable, *prefix, *asked, "--out", name, *mesh], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("lambda_min in") == 3  # one process speaks
        found[name] = load(CurvatureResult, tmp_path / name / "c.custom.json")
    for group in ("all", "rest", "one"):  # the last one has fewer samples than there are processes
        one, two = found["one"].groups[group], found["two"].groups[group]
        assert two.size == one.size
        for number in ("loss", "gradient_norm", "accuracy"):
            assert getattr(two, number) == pytest.approx(getattr(one, number), rel=1e-12)
        assert two.lambda_min.value == pytest.approx(one.lambda_min.value, rel=1e-8, abs=1e-12)
        assert two.lambda_max.value == pytest.approx(one.lambda_max.value, rel=1e-8)
        assert two.trace.value == pytest.approx(one.trace.value, rel=1e-8)


def test_a_single_process_touches_no_process_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with world_of() as world:
        assert world == World()
        assert not torch.distributed.is_initialized()


END = (
    "import atexit, sys, torch.distributed, saddlescope\n"
    "class Late:\n"
    "    def __del__(self):\n"
    "        print('cleared away')\n"
    "late = Late()\n"
    "atexit.register(print, 'done at the end')\n"
    "saddlescope.main()\n"
)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("asked", "code"), [("--version", 0), ("--nothing", 2)])
def test_one_of_several_ends_while_python_is_whole(processes, asked, code):
    # While Python is cleared away a thread of gloo that torch has kept aborts the process: 134 after everything was written.
    env = {**os.environ, "WORLD_SIZE": str(processes)}
    done = subprocess.run([sys.executable, "-c", END, asked], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == code, done.stderr
    assert "done at the end" in done.stdout
    assert ("cleared away" in done.stdout) == (processes == 1)
