"""Somebody's models."""

import torch
from torch import nn


def resnet(num_classes: int = 10) -> nn.Module:
    """A residual network for 8x8 grey images, written as people write them."""
    return ResNet(num_classes)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = Block(1, 8, 1), Block(8, 16, 2)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class TextClassifier(nn.Module):
    """A small transformer in the manner of Hugging Face: keyword inputs, logits in a dictionary."""

    def __init__(self, num_labels: int = 4, vocabulary: int = 64, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.encoder(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        pooled = (hidden * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return {"logits": self.classifier(pooled)}


def text_classifier() -> nn.Module:
    return TextClassifier()


def segmenter() -> nn.Module:
    """A class for every pixel."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 3, 1))


def tagger() -> nn.Module:
    """A logit for each of four labels."""
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


class Writer(nn.Module):
    """A causal model of one recurrent layer over 12 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(12, 4), nn.Linear(4, 4), nn.Linear(4, 12)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.embedding(input_ids) * attention_mask[..., None]
        so_far = states.cumsum(1) / attention_mask.cumsum(1).clamp(min=1)[..., None]
        return self.head(torch.tanh(self.mix(so_far)) + states)


def writer() -> nn.Module:
    return Writer()
