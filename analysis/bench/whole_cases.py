"""What whole commands are measured on: a folder a case, with a network's file, its weights, and the samples of one group.

These are what a user has: ``network.py`` (with ``build()``), ``weights.pt`` (a state dict) and ``data.npz`` (``x`` and ``y``).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saddlescope import load_factory

from .cases import open_problem
from .cases import prepare as prepare_checkpoint

HERE = Path(__file__).resolve().parent
#: steps of training for those that need no data set: the spectrum then has outliers and negative eigenvalues
TRAINED = 12


@dataclass(frozen=True)
class WholeCase:
    """A network with one group's samples.

    Attributes:
        title: for the table.
        source: file of the network, relative to this folder.
        build: what ``build()`` returns, in that file's names.
        data: ``images`` or ``text``, with so many samples of each class; or the inner bench's case and its group.
        counts: samples of each class.
        text: whether it counts as text where targets are stated.
    """

    title: str
    source: str
    build: str
    data: str
    counts: tuple[int, ...] = ()
    text: bool = False


_RESNETS = "../../training/networks/resnets.py"
_RESNET18 = 'ImageNetResNet(BasicBlock, (2, 2, 2, 2), 10, stem="imagenet")'
WHOLE_CASES: dict[str, WholeCase] = {
    "resnet18-16": WholeCase("ResNet-18 (11.2 M), 16 images", _RESNETS, _RESNET18, "images", (0,) * 5 + (4, 3, 3, 3, 3)),
    "resnet18-300": WholeCase("ResNet-18 (11.2 M), 300 images", _RESNETS, _RESNET18, "images", (0,) * 5 + (60,) * 5),
    "vit-tiny": WholeCase("ViT-tiny (5.4 M), 64 images", "networks.py", "Vit()", "images", (0,) * 5 + (16, 14, 12, 12, 10)),
    "bert": WholeCase("small BERT (5.2 M), 64 padded texts", "networks.py", "Bert()", "text", (0, 0, 40, 24), text=True),
    "resnet8": WholeCase("ResNet-8, CIFAR-10-LT tail", _RESNETS, "CifarResNet((1, 1, 1), 10)", "resnet8/tail"),
    "resnet32": WholeCase("ResNet-32, CIFAR-10-LT tail", _RESNETS, "CifarResNet((5, 5, 5), 10)", "resnet32/tail"),
    "digits": WholeCase(
        "digits, ResNet (5 k), tail", _RESNETS, "CifarResNet((1, 1), 10, widths=(8, 16), in_channels=1)", "digits/tail"
    ),
}


def prepare_whole(name: str, out: Path, data_root: str | None) -> Path:
    """Makes a case's folder, where it is not there yet; arguments as for :func:`~saddlescope.analysis.bench.cases.prepare`.

    Raises:
        DataError: CIFAR-10 was not found.
    """
    folder, case = out / "subjects" / name, WHOLE_CASES[name]
    if (folder / "data.npz").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    source = (HERE / case.source).resolve()
    if not source.exists():  # installed: the packages lie side by side
        source = Path(sys.modules[load_factory("saddlescope.training.networks.resnets:CifarResNet").__module__].__file__ or "")
    code = source.read_text(encoding="utf-8")
    (folder / "network.py").write_text(f'{code}\n\ndef build():\n    """The network."""\n    return {case.build}\n', "utf-8")
    if case.data in ("images", "text"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = network_of(folder)
            x, y = _images(case.counts) if case.data == "images" else _texts(case.counts)
            _train(model, x, y)
            state = model.state_dict()
        tail = torch.from_numpy(np.isin(y.numpy(), np.flatnonzero(case.counts)))
        x, y = x[tail], y[tail]
    else:
        inner, group = case.data.split("/")
        problem = open_problem(inner, group, prepare_checkpoint(inner, out, data_root), data_root)
        state = problem.model.state_dict()
        ((x, y),) = problem.batches(10**6)
    torch.save(state, folder / "weights.pt")
    partial = folder / "partial.npz"
    np.savez(partial, x=x.numpy(), y=y.numpy())
    os.replace(partial, folder / "data.npz")
    return folder


def network_of(folder: Path) -> nn.Module:
    """What the case's ``build()`` returns."""
    spec = importlib.util.spec_from_file_location(f"network_{folder.name}", folder / "network.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.build()
    return model


def _labels(counts: tuple[int, ...]) -> Tensor:
    """Of the group, and of the other classes as many as make up a training set: 20 each."""
    return torch.cat([torch.full((count or 20,), label) for label, count in enumerate(counts)])


def _images(counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Patterns of the classes in noise, ``[n, 3, 32, 32]``."""
    y = _labels(counts)
    patterns = torch.nn.functional.interpolate(torch.randn(len(counts), 3, 8, 8), scale_factor=4)
    return 0.5 * patterns[y] + torch.randn(len(y), 3, 32, 32), y


def _texts(counts: tuple[int, ...], words: int = 8000, length: int = 64) -> tuple[Tensor, Tensor]:
    """Words of which some are the class's own, of 10 to 64 tokens, padded with zeros."""
    y = _labels(counts)
    tokens = torch.randint(1, words, (len(y), length))
    own = torch.rand(len(y), length) < 0.2
    tokens = torch.where(own, 1 + y[:, None] * 50 + tokens % 50, tokens)
    lengths = torch.randint(10, length + 1, (len(y), 1))
    return torch.where(torch.arange(length)[None] < lengths, tokens, 0), y


def _train(model: nn.Module, x: Tensor, y: Tensor) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # so few steps
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=3e-4)
    model.train()
    for _ in range(TRAINED):
        rows = torch.randperm(len(y))[:64]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    model.eval()
