"""Curvature along training from the vectors of the measurement before: what it saves, and how often it is wrong.

``python tests/benchmarks/warm.py [EVERY]``: small networks are trained on long-tailed digits with SGD, and measured every so
many steps (default 20) from a warm and from a cold start. The truth is a run of 150 steps to a residual of 1e-6.
"""

import sys

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from saddlescope import AnalysisSettings, Samples, analyze

ENDS = ("lambda_min", "lambda_max")


def data():
    digits = load_digits()
    counts = [170, 120, 85, 60, 42, 30, 21, 15, 11, 8]
    rows = np.concatenate([np.flatnonzero(digits.target == c)[:n] for c, n in enumerate(counts)])
    images = torch.from_numpy(digits.images[rows] / 16).float().unsqueeze(1)
    return images, torch.from_numpy(digits.target[rows])


def network(seed):
    torch.manual_seed(seed)
    if seed % 2:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    convolutions = [nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 10))


def main(every):
    x, y = data()
    samples = Samples.from_tensors(x, y)
    base = {"eta": 40, "escape": False, "rough": False}
    quick, exact = (
        {"goal": "ends", "rtol": 1e-2, "confirm": False, **base},
        {"steps": 150, "min_steps": 150, "rtol": 1e-6, **base},
    )
    counted = {
        kind: {"products": 0, "ends": 0, "wrong": 0, "worst": 0.0, "open": 0, "converged": 0} for kind in ("cold", "warm")
    }
    for seed in range(6):
        model, warm = network(seed), {}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        generator = torch.Generator().manual_seed(seed)
        for step in range(every * 12 + 1):
            if step % every == 0:
                truth = analyze(model, samples, settings=AnalysisSettings(**exact, seed=7))
                for kind, known in (("cold", None), ("warm", warm)):
                    found = analyze(model, samples, settings=AnalysisSettings(**quick, seed=1000 * step), warm=known)
                    if step == 0:
                        continue  # both cold
                    for name, group in found.groups.items():
                        counted[kind]["products"] += group.matvecs
                        for end in ENDS:
                            one, right = getattr(group, end), getattr(truth.groups[name], end).value
                            shown = one.converged or one.settled  # as the monitor shows it
                            counted[kind]["ends" if shown else "open"] += 1
                            counted[kind]["converged"] += one.converged
                            off = abs(one.value - right) / abs(right)
                            if shown:
                                counted[kind]["wrong"] += off > 0.02
                                counted[kind]["worst"] = max(counted[kind]["worst"], off)
            rows = torch.randint(len(y), (64,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    for kind, numbers in counted.items():
        print(kind, {name: round(float(value), 4) for name, value in numbers.items()})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
