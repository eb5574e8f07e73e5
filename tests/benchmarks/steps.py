"""Seconds of a training step: every optimizer against SGD, and SSE-SAM against the step of its authors' code.

    python tests/benchmarks/steps.py [--model resnet20-cifar] [--batch 128] [--rounds 7] [--threads 2]

The batches are random images of CIFAR's size with labels drawn from CIFAR-10-LT (IF 100, classes below 500 images are tail):
time does not depend on what the images show. Rounds are interleaved; a ratio is that of one round, and the table gives the
median over rounds and the range. The published SSE-SAM step is written after its description (four forward and four backward
passes over the whole batch in both stages, every graph retained, running statistics moved in each pass); the authors' own file
cannot run it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from saddlescope.training.data.longtail import long_tail_counts
from saddlescope.training.networks.models import build_model
from saddlescope.training.optimizers.registry import build_optimizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

ETA = 500
EPOCHS = 10
STAGE_1, STAGE_2 = 0, 9
Step = Callable[[Tensor, Tensor], object]


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample."""
    return cross_entropy(outputs, targets, reduction="none")


def published(model: nn.Module, base: torch.optim.Optimizer, counts: list[int], rho_head: float, rho_tail: float) -> Step:
    """4F + 4B: head and tail each with a forward pass of their own, at ``w`` and at their perturbed weights."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    is_tail = torch.tensor([n < ETA for n in counts])

    def gradient(inputs: Tensor, targets: Tensor, mask: Tensor) -> list[Tensor]:
        part = (losses(model(inputs), targets) * mask).sum() / len(targets)
        return list(torch.autograd.grad(part, parameters, retain_graph=True))

    def step(inputs: Tensor, targets: Tensor) -> None:
        tail = is_tail[targets].float()
        total = [torch.zeros_like(p) for p in parameters]
        for mask, rho in ((1 - tail, rho_head), (tail, rho_tail)):
            g = gradient(inputs, targets, mask)
            norm = torch.stack([x.norm() for x in g]).norm().clamp_min(1e-16)
            moved = [rho * x / norm for x in g]
            with torch.no_grad():
                torch._foreach_add_(parameters, moved)
            at = gradient(inputs, targets, mask)
            with torch.no_grad():
                torch._foreach_sub_(parameters, moved)
            torch._foreach_add_(total, at)
        for p, g in zip(parameters, total, strict=True):
            p.grad = g
        base.step()

    return step


def contestants(name: str, counts: list[int]) -> dict[str, Step]:
    """A step function for each row, every one with a model of its own."""

    def ours(rule: str, epoch: int, **settings: object) -> Step:
        torch.manual_seed(0)
        model = build_model(name, 10)
        base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
        optimizer = build_optimizer(rule, base, class_counts=counts, epochs=EPOCHS, eta=ETA, settings=settings)
        optimizer.set_epoch(epoch)
        return lambda inputs, targets: optimizer.step(model, losses, (inputs, targets))

    def theirs(rho_head: float) -> Step:
        torch.manual_seed(0)
        model = build_model(name, 10)
        base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
        return published(model, base, counts, rho_head, 0.1)

    sse = {"rho_head": 0.05, "rho_tail": 0.1, "gamma": 0.7}
    return {
        "SGD (1F + 1B)": ours("sgd", 0),
        "SAM (2F + 2B)": ours("sam", 0, rho=0.05),
        "ImbSAM (2F + 3B)": ours("imbsam", 0, rho=0.05),
        "CC-SAM": ours("ccsam", 0),
        "Focal-SAM (2F + 3B)": ours("focalsam", 0),
        "SSE-SAM, stage 1 (3F + 4B)": ours("ssesam", STAGE_1, **sse),
        "SSE-SAM, stage 2 (2F + 3B)": ours("ssesam", STAGE_2, **sse),
        "SSE-SAM, stage 1, split batches (2F + 2B)": ours("ssesam", STAGE_1, split_batches=True, **sse),
        "SSE-SAM, stage 2, split batches": ours("ssesam", STAGE_2, split_batches=True, **sse),
        "published SSE-SAM, stage 1 (4F + 4B)": theirs(0.05),
        "published SSE-SAM, stage 2 (4F + 4B)": theirs(0.0),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20-cifar")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    counts = long_tail_counts(5000, 10, 100)
    steps = contestants(given.model, counts)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(given.batch, 3, 32, 32, generator=generator)
    targets = torch.multinomial(torch.tensor(counts, dtype=torch.float), given.batch, True, generator=generator)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():  # first calls allocate
        step(inputs, targets)
    for _ in range(given.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step(inputs, targets)
            times[name].append(time.perf_counter() - began)
    tail = sum(counts[y] < ETA for y in targets.tolist())
    print(f"{given.model}, batch {given.batch} ({tail} of the tail), {given.threads} threads, {platform.machine()}, ", end="")
    print(f"torch {torch.__version__}, {given.rounds} rounds\n")
    print("| step | ms | times SGD |\n| --- | ---: | ---: |")
    for name, seconds in times.items():
        ratios = sorted(mine / sgd for mine, sgd in zip(seconds, times["SGD (1F + 1B)"], strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {1e3 * statistics.median(seconds):.0f} | {spread} |")
    for stage in (1, 2):
        names = [next(n for n in times if n.startswith(f"{who}SSE-SAM, stage {stage} ")) for who in ("", "published ")]
        mine, theirs = (times[name] for name in names)
        ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
        print(f"\nstage {stage}: the published step takes {statistics.median(ratios):.2f} times ours ", end="")
        print(f"({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
