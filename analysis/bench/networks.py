"""Transformers of the bench that the suite itself has no use for: plain torch, copied beside a whole case's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """A transformer block, norm first, whose perceptron is ``wider`` times as wide."""

    def __init__(self, width: int, heads: int, wider: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, wider * width), nn.Linear(wider * width, width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """``[n, length, width]`` -> the same shape; ``seen [n, 1, 1, length]`` is true where attention may look."""
        n, length, width = x.shape
        parts = self.qkv(self.before(x)).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        wide: Tensor = self.narrow(functional.gelu(self.wide(self.after(x))))
        return x + wide


class Vit(nn.Module):
    """ViT-tiny (Touvron et al. 2021: width 192, 12 blocks, 3 heads) for images of 32 px in patches of 4: 5.4 M parameters.

    With a linear classifier of the mean over patches.
    """

    def __init__(
        self,
        classes: int = 10,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        *,
        wider: int = 4,
        image: tuple[int, int] = (3, 32),
        patch: int = 4,
    ) -> None:
        super().__init__()
        channels, side = image
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, wider) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, channels, side, side]`` -> logits ``[n, C]``."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


def digits_vit(num_classes: int = 10) -> Vit:
    """One of two blocks for digits ``[n, 1, 8, 8]``: 16 patches of 2 x 2."""
    return Vit(num_classes, 48, depth=2, heads=4, wider=2, image=(1, 8), patch=2)


class Bert(nn.Module):
    """A small BERT (width 256, 4 blocks, 4 heads; Turc et al. 2019) on padded tokens, 0 is padding: 5.2 M parameters."""

    def __init__(self, classes: int = 4, words: int = 8000, length: int = 64, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width, padding_idx=0), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``[n, length]`` -> logits ``[n, C]`` of the first one."""
        seen = (tokens != 0)[:, None, None, :]
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, seen)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits
