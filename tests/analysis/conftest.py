"""Operators, networks and dense truths for the tests of the numerical core; somebody's repository for those of commands."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from saddlescope.analysis.krylov.linear_operator import LinearOperator
from saddlescope.analysis.samples.samples import Samples
from torch import nn
from torch.nn import functional

import saddlescope


class DiagonalOperator(LinearOperator):
    """``diag(values)``, optionally turned by a Householder reflection so that no coordinate is special."""

    def __init__(self, values, dtype=torch.float64, reflect=None):
        self.values = torch.as_tensor(np.asarray(values, dtype=np.float64)).to(dtype)
        self.size, self.dtype, self.device = len(self.values), dtype, torch.device("cpu")
        self.num_samples, self.matvecs = 1, 0
        self._u = None
        if reflect is not None:
            u = torch.randn(self.size, dtype=torch.float64, generator=torch.Generator().manual_seed(reflect))
            self._u = (u / u.norm()).to(dtype)

    def _turn(self, v):
        return v if self._u is None else v - 2 * self._u * (self._u @ v)

    def matvec(self, v):
        self.matvecs += 1
        return self._turn(self.values * self._turn(v))


class Residual(nn.Module):
    """Convolutions, BatchNorm with statistics of its own, a residual, a linear head: 4 classes of 1x6x6 images, n = 175."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = functional.silu(self.stem_bn(self.stem(x)))
        x = x + functional.silu(self.bn(self.conv(x)))
        return self.fc(functional.adaptive_avg_pool2d(x, 2).flatten(1))


def make_network(dtype=torch.float64, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Residual().to(dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 2)
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.3)
    return model


def make_samples(count=37, seed=1, counts=None, shape=(1, 6, 6)):
    """Images and labels of 4 classes, long-tailed: 20, 10, 5, 2 of 37."""
    generator = torch.Generator().manual_seed(seed)
    counts = counts or (20, 10, 5, 2)
    labels = torch.cat([torch.full((c,), i) for i, c in enumerate(counts)])[:count]
    labels = labels[torch.randperm(len(labels), generator=generator)]
    inputs = torch.randn(len(labels), *shape, generator=generator, dtype=torch.float64)
    return Samples.from_tensors(inputs, labels, num_classes=4)


def truth(model, samples, parameters=None, per_sample=None):
    """Mean loss, gradient and Hessian by plain double backward, entry by entry, in the model's dtype and eval mode."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    parameters = list(model.parameters()) if parameters is None else parameters
    inputs, targets = samples.batch
    outputs = model(inputs.to(parameters[0].dtype))
    per_sample = per_sample or (lambda o, t: functional.cross_entropy(o, t, reduction="none"))
    loss = per_sample(outputs, targets).mean()
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True, allow_unused=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = []
    for entry in flat:
        row = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([r.reshape(-1) for r in row]))
    for module, flag in flags:
        module.training = flag
    return SimpleNamespace(loss=float(loss.detach()), gradient=flat.detach(), hessian=torch.stack(rows).detach())


@pytest.fixture(scope="session")
def diagonal():
    return DiagonalOperator


@pytest.fixture(scope="session")
def network():
    return make_network


@pytest.fixture(scope="session")
def long_tail():
    return make_samples


@pytest.fixture(scope="session")
def dense():
    return truth


@pytest.fixture(scope="session")
def reference():
    """One float64 network, its samples and its dense truth; read-only."""
    model, samples = make_network(), make_samples()
    return SimpleNamespace(model=model, samples=samples, truth=truth(model, samples))


#: a repository of somebody else's
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


@pytest.fixture(scope="session")
def architecture():
    """Of that repository's checkpoint, as a function."""
    return make_architecture


def make_architecture():
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Somebody's repository with a checkpoint as LDAM-style code leaves it."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in make_architecture().state_dict().items()}
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


@pytest.fixture(scope="session")
def processes():
    """Runs a command or a script in several processes, see ``ranks.py``; they are forked from one that imports torch once."""
    started = []

    def run(**request):
        if not started:
            asked = [sys.executable, str(Path(__file__).with_name("ranks.py"))]
            started.append(subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        (server,) = started
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return SimpleNamespace(**json.loads(server.stdout.readline()))

    yield run
    for server in started:
        with server:  # waits for it, and closes what it says
            server.stdin.close()
