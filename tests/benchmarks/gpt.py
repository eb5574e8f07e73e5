"""A GPT of a given size and texts for it, and what an analysis of it takes: the run at 1e8 parameters that the documents quote.

    python tests/benchmarks/gpt.py prepare FOLDER [--width 768 --layers 12 --vocab 18944 --length 64 --texts 8]
    cd FOLDER
    saddlescope analyze gpt.pt --model tests/benchmarks/gpt.py:net --data tests/benchmarks/gpt.py:texts \\
        --loss tests/benchmarks/gpt.py:loss --groups all --goal verdict --dry-run

``prepare`` takes a few Adam steps, so that the gradient is small and the weights are not those of the beginning. Sizes are
read from the environment by the factories (GPT_WIDTH ...), so that one file serves every size.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZES = {"width": 768, "layers": 12, "vocab": 18944, "length": 64, "texts": 8}


def size(name: str) -> int:
    """As the environment says, or that of 1e8 parameters."""
    return int(os.environ.get(f"GPT_{name.upper()}", SIZES[name]))


class Block(nn.Module):
    """Pre-norm attention and MLP, as of GPT-2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.project, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[b, t, width]`` to the same."""
        heads = (*x.shape[:-1], max(x.shape[-1] // 64, 1), -1)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.project(self.norm(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.mlp(x)


class GPT(nn.Module):
    """Tied embedding, learned positions."""

    def __init__(self, width: int, layers: int, vocab: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks, self.norm = nn.ModuleList(Block(width) for _ in range(layers)), nn.LayerNorm(width)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``[b, t, vocab]`` of ids ``[b, t]``."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T


def net() -> GPT:
    """The model."""
    return GPT(*(size(name) for name in ("width", "layers", "vocab", "length")))


def texts() -> tuple[Tensor, Tensor]:
    """Random walks over the vocabulary, one token more than is read: inputs and the tokens that follow."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 4, (size("texts"), size("length") + 1), generator=generator)
    starts = torch.randint(0, size("vocab"), (size("texts"), 1), generator=generator)
    ids = (starts + 17 * steps.cumsum(1)) % size("vocab")
    return ids[:, :-1], ids[:, 1:]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of each text's next tokens."""
    inputs, following = batch
    return functional.cross_entropy(model(inputs).transpose(1, 2), following, reduction="none").mean(1)


def prepare(folder: Path, steps: int = 12) -> None:
    """Trains a little and stores ``gpt.pt``."""
    torch.manual_seed(0)
    model, batch = net(), texts()
    step = torch.optim.Adam(model.parameters(), 3e-4)
    for _ in range(steps):
        step.zero_grad()
        value = loss(model, batch).mean()
        value.backward()
        step.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "gpt.pt")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, loss {value.item():.3f} after {steps} steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["prepare"])
    parser.add_argument("folder", type=Path)
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, default=size(name))
    given = parser.parse_args()
    for name in SIZES:
        os.environ[f"GPT_{name.upper()}"] = str(getattr(given, name))
    prepare(given.folder)
