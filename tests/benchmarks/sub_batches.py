"""What ``split_batches=True`` changes in SSE-SAM, measured: gradients, running statistics, accuracy, samples evaluated.

    python tests/benchmarks/sub_batches.py [--epochs 30] [--seeds 5]

Long-tailed digits (scikit-learn's 8 x 8 images, IF 20, classes below 40 training images are tail), three convolutions with
batch normalisation, batch 64. Along one ordinary run every 20th step is also taken with sub-batches on a copy; then both ways
train from the same seeds and are compared on the held-out balanced images.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch
from saddlescope.training.losses import build_loss
from saddlescope.training.optimizers.registry import SSESAM
from sklearn.datasets import load_digits
from torch import Tensor, nn

ETA = 40
COUNTS = [int(100 * 20 ** (-c / 9)) for c in range(10)]


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Long-tailed training part and balanced rest."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = [], []
    for c, n in enumerate(COUNTS):
        mine = order[labels[order] == c]
        train.append(mine[:n])
        test.append(mine[100:170])
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(labels)
    a, b = np.concatenate(train), np.concatenate(test)
    return x[a], y[a], x[b], y[b]


def network(seed: int) -> nn.Module:
    """16, 32, 32 channels, each convolution with batch normalisation."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, o in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


def optimizer_for(model: nn.Module, epochs: int, split: bool) -> SSESAM:
    """SSE-SAM with the settings of its README, on plain SGD."""
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    return SSESAM(base, COUNTS, eta=ETA, epochs=epochs, gamma=0.7, rho_head=0.05, rho_tail=0.1, split_batches=split)


def gradient(model: nn.Module, batch: tuple[Tensor, Tensor], epoch: int, epochs: int, split: bool) -> tuple[Tensor, Tensor]:
    """Final gradient and new running statistics of one step on a copy."""
    twin = copy.deepcopy(model)
    optimizer = optimizer_for(twin, epochs, split)
    optimizer.set_epoch(epoch)
    optimizer.step(twin, build_loss("ce", COUNTS), batch)
    running = torch.cat([b.flatten() for n, b in twin.named_buffers() if "running" in n])
    return torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]), running


def train(seed: int, epochs: int, split: bool, compare: bool = False) -> dict[str, float]:
    """Accuracies in percent, samples forward per sample and step, seconds; with ``compare`` the differences along the way."""
    x, y, test_x, test_y = data()
    model, loss = network(seed), build_loss("ce", COUNTS)
    optimizer = optimizer_for(model, epochs, split)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.base, epochs)
    generator = torch.Generator().manual_seed(seed)
    forwards, steps, relative, cosine, moved = 0.0, 0, [], [], []
    start = time.perf_counter()
    for epoch in range(epochs):
        optimizer.set_epoch(epoch)
        for index in torch.randperm(len(y), generator=generator).split(64):
            batch = (x[index], y[index])
            if compare and steps % 20 == 0:
                (g, r), (h, s) = (gradient(model, batch, epoch, epochs, way) for way in (False, True))
                old = torch.cat([b.flatten() for n, b in model.named_buffers() if "running" in n])
                relative.append(float((h - g).norm() / g.norm()))
                cosine.append(float(torch.nn.functional.cosine_similarity(g, h, dim=0)))
                moved.append(float((s - r).norm() / (r - old).norm()))
            forwards += optimizer.step(model, loss, batch).forwards
            steps += 1
        schedule.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        right = (model(test_x).argmax(1) == test_y).double()
    tail = torch.tensor([n < ETA for n in COUNTS])[test_y]
    result = {
        "head": 100 * float(right[~tail].mean()),
        "tail": 100 * float(right[tail].mean()),
        "all": 100 * float(right.mean()),
    }
    result |= {"forwards": forwards / steps, "seconds": seconds}
    if compare:
        result |= {
            "gradient": float(np.median(relative)),
            "cosine": float(np.median(cosine)),
            "statistics": float(np.median(moved)),
        }
    return result


def main() -> None:
    """Prints the differences and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    along = train(0, options.epochs, split=False, compare=True)
    print(f"class counts {COUNTS}, tail below {ETA}")
    print(
        f"same weights, same batch (median of every 20th step): relative difference of the gradient {along['gradient']:.3f}, "
    )
    print(f"cosine {along['cosine']:.4f}, of the running statistics' move {along['statistics']:.3f}")
    for split in (False, True):
        runs = [train(seed, options.epochs, split) for seed in range(options.seeds)]
        mean = {k: np.mean([r[k] for r in runs]) for k in runs[0]}
        spread = {k: np.std([r[k] for r in runs], ddof=1) for k in runs[0]}
        accuracy = "  ".join(f"{k} {mean[k]:.1f} +- {spread[k]:.1f}" for k in ("head", "tail", "all"))
        passes = f"forward passes a step {mean['forwards']:.2f}  seconds {mean['seconds']:.1f}"
        print(f"split_batches={split!s:5}  {accuracy}  {passes}")


if __name__ == "__main__":
    main()
