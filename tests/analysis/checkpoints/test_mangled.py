"""Files that are incomplete, mixed or of another kind, through the command line: exit code 2, and a sentence that names it."""

import json
import os
import pickle
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed.checkpoint as dcp
from saddlescope.analysis.checkpoints.discovery import find_checkpoints
from saddlescope.analysis.checkpoints.weights import CheckpointError, fit_weights, load_weights
from saddlescope.analysis.samples.batches import SamplesError
from saddlescope.analysis.samples.columns import ColumnError, column_of
from saddlescope.analysis.samples.given import as_samples
from safetensors.torch import save_file
from torch import nn

import saddlescope

CODE = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

def wider():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

def data():
    return torch.eye(3).repeat(4, 1), torch.arange(12) % 2
"""


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


STATE = net().state_dict()


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs ``saddlescope analyze`` as a person does; the one line that it ends with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text(CODE)

    def run(target, *arguments, model="net", data="code.py:data"):
        given = ["analyze", str(target), "--model", f"code.py:{model}", "--data", data, "--goal", "verdict", "--groups", "all"]
        monkeypatch.setattr(sys, "argv", ["saddlescope", *given, *arguments])
        with pytest.raises(SystemExit) as end:
            saddlescope.main()
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (end.value.code, len(lines)) == (2, 1)
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture
def distributed(tmp_path):
    with pytest.warns(UserWarning, match="torch.distributed"):  # one process
        dcp.save({"model": STATE}, checkpoint_id=tmp_path / "dcp")
    (part,) = (tmp_path / "dcp").glob("*.distcp")
    return part


def test_folders_of_torch_distributed(distributed, refused):
    folder, part = distributed.parent.name, distributed.read_bytes()
    assert "0.weight (file [4, 3], model [5, 3])" in refused(folder, model="wider")
    table = (distributed.parent / ".metadata").read_bytes()
    for path in ((), ("model", "0.weight", "inner")):  # no name at all, and one below a tensor
        known = pickle.loads(table)
        known.planner_data["model.2.bias"] = path
        (distributed.parent / ".metadata").write_bytes(pickle.dumps(known))
        assert "cannot be read as a distributed checkpoint" in refused(folder)
    (distributed.parent / ".metadata").write_bytes(table)
    distributed.write_bytes(part[: len(part) // 2])
    assert "is the folder complete?" in refused(folder)
    distributed.unlink()
    assert refused(folder) == f"{folder}: its file {distributed.name} is missing"
    distributed.write_bytes(part)
    (distributed.parent / ".metadata").write_bytes(table[: len(table) // 2])
    assert "cannot be read as a distributed checkpoint" in refused(folder)
    (distributed.parent / ".metadata").unlink()
    assert "parts of a distributed checkpoint, whose table of contents, .metadata, is missing" in refused(folder)
    assert "in which its table of contents, .metadata, is missing" in refused(distributed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.to(torch.complex64), r"is complex \(torch.complex64\)"),
        (lambda w: (8 * w).to(torch.int8), r"holds whole numbers \(torch.int8; quantised\?\)"),
        (lambda w: w > 0, "holds whole numbers"),
        (lambda w: w.to_sparse(), "is sparse"),
        (lambda w: w.to("meta"), "has no values"),
    ],
    ids=["complex", "int8", "bool", "sparse", "meta"],
)
def test_a_tensor_of_another_kind_is_not_copied_into_a_weight(change, said, tmp_path):
    torch.save({**STATE, "0.weight": change(STATE["0.weight"])}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=rf"c\.pt: 0\.weight {said}"):
        fit_weights(net(), load_weights(tmp_path / "c.pt"), tmp_path / "c.pt")


def test_half_precision_and_whole_numbers_in_buffers_are_taken():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    state = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    state["1.running_mean"] = torch.zeros(4, dtype=torch.int64)
    fit_weights(model, state)


def test_folders_and_links_that_are_nothing(refused, tmp_path):
    (tmp_path / "nothing").mkdir()
    assert "nothing: no checkpoint there" in refused("nothing")
    (tmp_path / "loop").mkdir()
    os.symlink("../loop", tmp_path / "loop" / "again")
    assert "no checkpoint there" in refused("loop")
    os.symlink("self.pt", tmp_path / "self.pt")
    assert "self.pt: no such checkpoint" in refused("self.pt")
    save_file({}, tmp_path / "none.safetensors")
    assert "no state dict found; it is empty" in refused("none.safetensors")
    np.savez(tmp_path / "w.npz", **{name: value.numpy() for name, value in STATE.items()})
    assert "an archive of another kind, which holds 0.weight.npy" in refused("w.npz")


def test_shards_of_which_one_is_missing(refused, tmp_path):
    names = list(STATE)
    for number, some in enumerate((names[:2], names[2:]), start=1):
        save_file({name: STATE[name] for name in some}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    table = {name: f"model-0000{1 if name in names[:2] else 2}-of-00002.safetensors" for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "its shard model-00002-of-00002.safetensors is missing" in refused(tmp_path)


def test_parts_that_do_not_fit_together(refused, tmp_path):
    torch.save({"feat": STATE, "cls": {"0.weight": STATE["0.weight"]}}, tmp_path / "c.pt")
    assert "0.weight is in two of the parts" in refused("c.pt", "--key", "feat", "--key", "cls")
    assert "has no key 'student'; there are: feat (OrderedDict), cls (dict)" in refused("c.pt", "--key", "student")
    assert "no file gone.pth lies beside it" in refused("c.pt", "--key", "feat", "--key", "gone.pth=fc")


TABLE = pd.DataFrame(np.eye(3), columns=list("abc"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (TABLE, "which column is the class? Say it with --labels; the columns are a, b, c"),
        (TABLE.assign(label=[0, 1, 0]).iloc[:0], "t.csv: no rows"),
        (TABLE.assign(label=[0, 1.5, 0]), "t.csv: the class of row 1 is 1.5"),
        (TABLE.assign(label=[0, None, 0]), "t.csv: the class of row 1 is missing"),
        (TABLE.assign(label=[0, 1, 0], d=list("xyz")), "t.csv: column d holds no numbers"),
        (pd.DataFrame({"label": [0, 1]}), "t.csv: no columns beside the class"),
    ],
)
def test_tables(table, said, refused, tmp_path):
    torch.save(STATE, tmp_path / "c.pt")
    table.to_csv(tmp_path / "t.csv", index=False)
    assert said in refused("c.pt", data="t.csv")


def test_a_damaged_parquet_file_or_no_pyarrow(refused, tmp_path):
    torch.save(STATE, tmp_path / "c.pt")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    line = refused("c.pt", data="t.parquet")
    assert "t.parquet: cannot be read as a table" in line or "pip install pyarrow" in line


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([float("nan"), 1.0, 1.0], "sample 0 has no value there"),
        ([None, "a", "a"], "sample 0 has no value there"),
        ([0.5, 1.5, 2.5], "numbers that are not whole .* say where to cut them, column:domain:1.5"),
        (["a", 1, "a"], "holds int, str: give words, or whole numbers"),
        ([["a", ["b"]], ["a"], []], "holds lists of list: give lists of words or whole numbers"),
        ([[None], ["a"], []], "holds lists of NoneType"),
        ([[], [], []], "no sample has a value there"),
        ([{"a": 1}] * 3, "holds dict"),
        (torch.rand(3, 2), r"of shape \(3, 2\)"),
    ],
)
def test_columns_that_make_no_groups(values, said):
    with pytest.raises(ColumnError, match=f"column domain:? .*{said}"):
        column_of("domain", values)


def test_texts_that_nobody_tokenised():
    with pytest.raises(SamplesError, match=r"holds 'a b' \(str\): .*a tokeniser in the data set, or in the collate_fn"):
        as_samples([{"text": "a b", "label": 0}, {"text": "c", "label": 1}])


def test_a_copy_of_a_folder_is_the_same_checkpoint(distributed, tmp_path):
    shutil.copytree(distributed.parent, tmp_path / "other")
    assert find_checkpoints([str(tmp_path)]) == [tmp_path / "dcp", tmp_path / "other"]
