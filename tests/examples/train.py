"""Trains both models the way anybody would, and saves them the way three kinds of training code do.

python tests/examples/train.py FOLDER
"""

import sys
from pathlib import Path

import torch
from data import sentences, train_set
from nets import resnet, text_classifier
from torch.nn import functional


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    dataset = train_set()
    images = torch.stack([image for image, _ in dataset])
    labels = torch.tensor([label for _, label in dataset])
    model = resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(1, 31):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        if epoch % 10 == 0:  # as LDAM-DRW's code saves: DataParallel's prefix, and counters beside the weights
            state = {f"module.{name}": value for name, value in model.state_dict().items()}
            torch.save(
                {"epoch": epoch, "arch": "resnet", "state_dict": state, "best_acc1": 90.0}, folder / f"epoch-{epoch}.pth.tar"
            )
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    lightning = {"pytorch-lightning_version": "2.2.0", "epoch": 30, "state_dict": state, "hyper_parameters": {"lr": 0.1}}
    torch.save(lightning, folder / "last.ckpt")

    text = text_classifier()
    optimizer = torch.optim.Adam(text.parameters(), lr=3e-3)
    for _ in range(20):
        for batch in sentences():
            optimizer.zero_grad()
            outputs = text(batch["input_ids"], batch["attention_mask"])
            functional.cross_entropy(outputs["logits"], batch["labels"]).backward()
            optimizer.step()
    torch.save(text.state_dict(), folder / "text.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
