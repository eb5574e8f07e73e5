"""Whether bfloat16 pays on this processor: convolutions, and training steps plain and compiled, beside float32.

    python tests/benchmarks/bfloat16.py [--model resnet32-cifar] [--batch 128] [--rounds 7]

One thread. Convolutions of 64 images as in the ResNets for CIFAR and ImageNet: forward, gradient of the input, gradient of the
weight, each in the layout (channels last or first) that is faster; what counts is how many times as fast bfloat16 is. Steps are
SGD's on random images. Medians; forms take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from saddlescope.training.networks.models import build_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from saddlescope import processor

SHAPES = ((16, 32), (32, 16), (64, 8), (64, 32), (128, 16), (256, 8), (512, 4))
DTYPES = (torch.float32, torch.bfloat16)


def median(forms: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Processor seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for form in forms.values():
        form()
    for _ in range(rounds):
        for name, form in forms.items():
            began = time.process_time()
            form()
            times[name].append(time.process_time() - began)
    return {name: statistics.median(all_) for name, all_ in times.items()}


def convolutions(channels: int, size: int, rounds: int) -> dict[torch.dtype, list[float]]:
    """GFLOP/s forward, of the input's and of the weight's gradient."""
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    flop = 2 * 64 * channels**2 * 9 * size**2
    found: dict[torch.dtype, list[float]] = {}
    for dtype in DTYPES:
        forms: dict[str, Callable[[], object]] = {}
        for layout in (torch.channels_last, torch.contiguous_format):
            x, g = (torch.randn(64, channels, size, size).to(dtype).contiguous(memory_format=layout) for _ in range(2))
            w = torch.randn(channels, channels, 3, 3).to(dtype).contiguous(memory_format=layout)

            def backward(mask: list[bool], x: Tensor = x, g: Tensor = g, w: Tensor = w) -> object:
                return torch.ops.aten.convolution_backward(g, x, w, None, *geometry, mask)

            forms[f"forward {layout}"] = lambda x=x, w=w: torch.convolution(x, w, None, *geometry)  # type: ignore[misc]
            forms[f"input {layout}"] = lambda backward=backward: backward([True, False, False])  # type: ignore[misc]
            forms[f"weight {layout}"] = lambda backward=backward: backward([False, True, False])  # type: ignore[misc]
        seconds = median(forms, rounds)
        found[dtype] = [
            flop / 1e9 / min(seconds[name] for name in seconds if name.startswith(kind))
            for kind in ("forward", "input", "weight")
        ]
    return found


def step(name: str, batch: int, dtype: torch.dtype, compiled: bool) -> Callable[[], object]:
    """A training step."""
    model = build_model(name, 10, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (batch,))
    stepped = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def take() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = stepped(inputs)
        cross_entropy(logits.float(), targets).backward()
        optimizer.step()

    return take


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet32-cifar")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, AMX {torch.cpu._is_amx_tile_supported()}, ", end="")
    print(f"AVX512-BF16 {torch.cpu._is_avx512_bf16_supported()}, torch {torch.__version__}, {given.rounds} rounds\n")
    print("| channels, size | float32: GFLOP/s | bfloat16 | times |\n| --- | ---: | ---: | ---: |")
    for channels, size in SHAPES:
        one, two = (rates for rates in convolutions(channels, size, given.rounds).values())
        rates = (", ".join(f"{rate:.0f}" for rate in each) for each in (one, two))
        print(
            f"| {channels}, {size} | {' | '.join(rates)} | {', '.join(f'{b / a:.2f}' for a, b in zip(one, two, strict=True))} |"
        )
    names = {(dtype, compiled): f"{dtype}{', compiled' if compiled else ''}" for compiled in (False, True) for dtype in DTYPES}
    seconds = median({name: step(given.model, given.batch, *form) for form, name in names.items()}, given.rounds)
    print(f"\n| step of {given.model}, batch {given.batch} | images a second |\n| --- | ---: |")
    for name, each in seconds.items():
        print(f"| {name.replace('torch.', '')} | {given.batch / each:.0f} |")


if __name__ == "__main__":
    main()
