"""Somebody's data sets."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset


class LongTailedDigits(Dataset):
    """Handwritten digits with 150 images of the 0 down to 10 of the 9."""

    def __init__(self) -> None:
        raw = load_digits()
        counts = [round(150 * 15 ** (-c / 9)) for c in range(10)]
        chosen = np.concatenate([np.flatnonzero(raw.target == c)[:n] for c, n in enumerate(counts)])
        self.images = torch.from_numpy(raw.images[chosen]).float()[:, None] / 16
        self.labels = raw.target[chosen].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], self.labels[index]


def train_set() -> Dataset:
    return LongTailedDigits()


def sentences() -> list[dict[str, torch.Tensor]]:
    """Batches of token ids, padded; the label is which of four words is the most frequent. Long-tailed."""
    random = np.random.default_rng(0)
    ids, masks, labels = [], [], []
    for label, count in enumerate((120, 60, 20, 8)):
        for _ in range(count):
            length = random.integers(6, 13)
            row = np.where(random.random(length) < 0.5, label + 1, random.integers(5, 64, length))
            ids.append(np.pad(row, (0, 12 - length)))
            masks.append(np.arange(12) < length)
            labels.append(label)
    batch = {
        "input_ids": torch.from_numpy(np.array(ids)),
        "attention_mask": torch.from_numpy(np.array(masks)).long(),
        "labels": torch.tensor(labels),
    }
    return [{name: value[i : i + 32] for name, value in batch.items()} for i in range(0, len(labels), 32)]
