"""Which column or array of a file the labels are, of whatever type, through to the loss that is measured."""

import numpy as np
import pandas as pd
import pytest
import torch
from saddlescope.analysis.checkpoints.user_code import SubjectError, load_samples
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.samples.labels import LabelError
from torch import nn
from torch.nn.functional import cross_entropy

X = torch.randn(18, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(18) % 3


def written(kind, path):
    """A file that holds two kinds of classes, and what tells the wanted ones."""
    if kind == "csv":
        pd.DataFrame({**{f"x{i}": X[:, i] for i in range(3)}, "kind": Y}).to_csv(path / "data.csv", index=False)
        return "data.csv", "kind"
    if kind == "npz":
        np.savez(path / "data.npz", inputs=X.numpy(), labels=Y.numpy() // 2, kind=Y.numpy().astype(np.int32))
        return "data.npz", "kind"
    torch.save((Y.short(), X), path / "data.pt")
    return "data.pt", "0"


@pytest.mark.parametrize("kind", ["csv", "npz", "pt"])
def test_labels_that_are_named_are_those_of_groups_and_loss(kind, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(3, 3)\n")
    model = nn.Linear(3, 3)
    torch.save(model.state_dict(), tmp_path / "c.pt")
    data, labels = written(kind, tmp_path)
    given = ("--model", "nets.py:net", "--data", f"./{data}", "--labels", labels, "--groups", "per-class", "--steps", "5")
    code, _, err = run("analyze", "c.pt", *given)
    assert code == 0, err
    groups = load(CurvatureResult, tmp_path / "curvature" / "c.per-class.json").groups
    with torch.no_grad():
        losses = cross_entropy(model(X), Y, reduction="none")
    for c in range(3):
        assert groups[f"class {c}"].loss == pytest.approx(float(losses[c == Y].mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("save", "sentence"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read: "),
        (lambda path: torch.save({"inputs": X, "labels": None}, path), "labels is no array of numbers"),
        (lambda path: torch.save({"inputs": [[1.0], "a"], "labels": Y}, path), "inputs is no array of numbers"),
    ],
)
def test_a_file_that_will_not_do_is_refused_in_a_sentence(save, sentence, tmp_path):
    save(tmp_path / "data.pt")
    with pytest.raises(SubjectError, match=sentence) as caught:
        load_samples(str(tmp_path / "data.pt"), {})
    assert "\n" not in str(caught.value)


def test_words_in_an_archive_and_a_place_that_is_not_there(tmp_path):
    np.savez(tmp_path / "data.npz", inputs=X.numpy(), labels=np.array(["a", "b", "c"] * 6))
    with pytest.raises(SubjectError, match="labels is no array of numbers"):
        load_samples(str(tmp_path / "data.npz"), {})
    torch.save((X, Y), tmp_path / "data.pt")
    with pytest.raises(LabelError, match="--labels kind: the batches have 2 parts"):
        load_samples(str(tmp_path / "data.pt"), {}, labels="kind")
