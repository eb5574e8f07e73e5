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


def scenes() -> tuple[torch.Tensor, torch.Tensor, dict[str, list[str]]]:
    """Images with a mask of three classes (255: not labelled), and where each was taken: a column for groups."""
    g = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 3, (14, 5, 6), generator=g)
    images = torch.nn.functional.one_hot(masks, 3).movedim(3, 1) + torch.randn(14, 3, 5, 6, generator=g)
    masks[:, 0, :2], masks[3, :, :5] = 255, 255
    return images, masks, {"domain": ["city"] * 9 + ["forest"] * 5}


def films() -> dict[str, torch.Tensor]:
    """Samples that have several of four labels, or none."""
    g = torch.Generator().manual_seed(0)
    labels = (torch.rand(20, 4, generator=g) < torch.tensor([0.7, 0.4, 0.2, 0.1])).float()
    return {"x": torch.randn(20, 6, generator=g) + labels @ torch.randn(4, 6, generator=g), "labels": labels}


def stories() -> list[dict[str, torch.Tensor]]:
    """Token ids, padded batch by batch with labels of -100; ``source`` says where each text is from."""
    g = torch.Generator().manual_seed(0)
    batches = []
    for width, count in ((7, 5), (4, 3), (6, 4)):
        ids = torch.randint(1, 12, (count, width), generator=g)
        mask = (torch.arange(width) < torch.randint(3, width + 1, (count, 1), generator=g)).long()
        labels = torch.where(mask == 1, ids, -100)
        source = torch.arange(count) % 2
        batches.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels, "source": source})
    return batches


def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two views of each image, and its class."""
    g = torch.Generator().manual_seed(0)
    one = torch.randn(12, 3, 5, 6, generator=g)
    return one, one + 0.1 * torch.randn(12, 3, 5, 6, generator=g), torch.arange(12) % 2
