"""How the time of a Hessian-vector product grows, and what Lanczos adds to it.

    python tests/benchmarks/growth.py [--threads 2] [--repeats 5]

Samples: ResNet-8 on 64 to 1024 random images of CIFAR's size. Parameters: the same with 16 to 64 channels at the start (time
follows their number times the image positions that each is used at, so widths are compared, not models). A power law is fitted
to the medians; linear growth is the exponent 1. Then 100 Lanczos steps on ResNet-32 with 272 images, the size of CIFAR-10-LT's
tail: the share of time that is not products, and the largest memory in use.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time

import numpy as np
import torch
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.lanczos import Lanczos
from saddlescope.analysis.samples.samples import Samples
from saddlescope.training.networks.models import build_model
from torch import Tensor, nn


def images(count: int) -> Samples:
    """Random images, balanced labels."""
    generator = torch.Generator().manual_seed(0)
    return Samples.from_tensors(torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 10)


def seconds_a_product(operator: HessianOperator, repeats: int) -> float:
    """Median, after a first product that builds the graphs."""
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(1))
    operator.matvec(v)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        operator.matvec(v)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def fitted(sizes: list[int], times: list[float]) -> str:
    """The power law through the points, and how far they are from it."""
    x, y = np.log(sizes), np.log(times)
    slope, offset = np.polyfit(x, y, 1)
    off = float(np.abs(y - slope * x - offset).max())
    return f"time ~ size^{slope:.2f}, points within {100 * np.expm1(off):.0f} % of it"


class Timed:
    """An operator that adds up the time of its products."""

    def __init__(self, operator: HessianOperator) -> None:
        self.operator, self.seconds = operator, 0.0
        self.size, self.dtype, self.device, self.num_samples = (
            operator.size,
            operator.dtype,
            operator.device,
            operator.num_samples,
        )

    @property
    def matvecs(self) -> int:
        """Products so far."""
        return self.operator.matvecs

    def matvec(self, v: Tensor) -> Tensor:
        """``H v``."""
        began = time.perf_counter()
        result = self.operator.matvec(v)
        self.seconds += time.perf_counter() - began
        return result


def wide(channels: int) -> nn.Module:
    """Three stages of two convolutions, each with BatchNorm; ``channels``, twice and four times as many."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 3
    for stage in range(3):
        after = channels << stage
        for stride in (1 if stage == 0 else 2, 1):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)).eval()


def main() -> None:
    """Prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{platform.machine()}, {given.threads} threads, torch {torch.__version__}\n")

    model = build_model("resnet8-cifar", 10, seed=0).eval()
    counts = [64, 128, 256, 512, 1024]
    times = [seconds_a_product(HessianOperator(model, images(count)), given.repeats) for count in counts]
    print(
        "samples     ", "  ".join(f"{n}: {t:.3f} s" for n, t in zip(counts, times, strict=True)), "\n  ", fitted(counts, times)
    )

    sizes, times = [], []
    for channels in (16, 24, 32, 48, 64):
        operator = HessianOperator(wide(channels), images(128))
        sizes.append(operator.size)
        times.append(seconds_a_product(operator, given.repeats))
    print("parameters  ", "  ".join(f"{n}: {t:.3f} s" for n, t in zip(sizes, times, strict=True)), "\n  ", fitted(sizes, times))

    operator = HessianOperator(build_model("resnet32-cifar", 10, seed=0).eval(), images(272))
    timed = Timed(operator)
    began = time.perf_counter()
    Lanczos(timed, seed=0).run(100)
    total = time.perf_counter() - began
    rest = total - timed.seconds
    print(
        f"100 Lanczos steps on ResNet-32 ({operator.size} parameters, 272 images): {total:.0f} s, of which {rest:.1f} s ",
        end="",
    )
    print(f"({100 * rest / total:.1f} %) are not products; graphs kept: {operator.kept_bytes / 2**20:.0f} MiB; ", end="")
    print(f"largest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


if __name__ == "__main__":
    main()
