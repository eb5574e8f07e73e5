"""Files are known by what they are, not by their names; and what is not understood is named."""

import argparse
import collections
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from saddlescope.analysis.checkpoints.formats import objects
from saddlescope.analysis.checkpoints.weights import CheckpointError, load_state, load_weights
from safetensors.torch import save_file
from torch import nn

STATE = nn.Linear(3, 2).state_dict()


class Table(dict):
    """As the configurations of many training codes."""


class Row(list):
    """A list of one's own."""


def same(state):
    return state.keys() == STATE.keys() and all(torch.equal(state[name], STATE[name]) for name in STATE)


CONTENT = {
    "state_dict": STATE,
    "args": argparse.Namespace(lr=0.1),
    "queue": collections.deque([1.0]),
    "table": Table(a=Table(b=1)),
    "row": Row([1, 2]),
    "array": np.arange(3),
}


@pytest.mark.parametrize("options", [{"pickle_protocol": number} for number in (2, 3, 4, 5)])
@pytest.mark.parametrize("archive", [True, False])
def test_objects_beside_the_weights_in_every_kind_of_pickle(options, archive, tmp_path):
    torch.save(CONTENT, tmp_path / "c.pth", _use_new_zipfile_serialization=archive, **options)
    assert same(load_weights(tmp_path / "c.pth"))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (argparse.Namespace(state_dict=STATE, epoch=1), None),
        (Table(model=STATE, epoch=1), None),
        ((STATE, {"lr": 0.1}), "0"),
        ({"ema": {"online.weight": STATE["weight"], "online.bias": STATE["bias"], "step": torch.ones(1)}}, "ema/online"),
    ],
)
def test_the_weights_lie_in_an_object_a_list_or_a_part(content, key, tmp_path):
    torch.save(content, tmp_path / "c.pth")
    assert same(load_weights(tmp_path / "c.pth", key=key))


def test_weights_under_two_names_are_called_as_asked(tmp_path):
    torch.save({"ema": STATE, "swa": STATE}, tmp_path / "c.pth")
    assert load_state(tmp_path / "c.pth", key="swa").key == "swa"


def test_names_of_files_decide_nothing(tmp_path):
    save_file(STATE, tmp_path / "a.pth")
    torch.save(STATE, tmp_path / "b.safetensors")
    torch.save(STATE, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    for file in tmp_path.iterdir():
        assert same(load_weights(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE html"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (pickle.dumps(STATE), "a pickle of another kind"),
    ],
)
@pytest.mark.parametrize("trust", [True, False])
def test_what_is_no_torch_file_is_named_and_trust_is_not_asked_for(content, said, trust, tmp_path):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as error:
        load_weights(tmp_path / "c.pth", trust=trust)
    assert "--trust-checkpoint" not in str(error.value)


def test_an_archive_of_another_kind_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "c.npz", weight=np.ones(2))
    with pytest.raises(CheckpointError, match=r"holds weight\.npy"):
        load_weights(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weight": np.ones(2), "args": argparse.Namespace()}, r"weight \(numpy.ndarray\), args \(argparse.Namespace\)"),
        (argparse.Namespace(lr=0.1), r"its keys are lr \(float\)"),
        ({"best": nn.Linear(2, 2)}, r"best \(a whole model, torch.nn.modules.linear.Linear\)"),
        ({}, "it is empty"),
    ],
)
def test_what_is_not_understood_lists_what_was_found(content, said, tmp_path):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=said):
        load_weights(tmp_path / "c.pth")


def test_a_whole_model_of_an_old_file_needs_trust(tmp_path):
    torch.save(nn.Linear(3, 2), tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"a whole pickled model.*--trust-checkpoint"):
        load_weights(tmp_path / "c.pth")


def test_a_part_alone_names_the_whole(tmp_path):
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, key in zip(names, STATE, strict=True):
        save_file({key: STATE[key]}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"one of 2 shards; the index .* is missing"):
        load_weights(tmp_path / names[0])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(STATE, names, strict=True))}))
    assert same(load_weights(index))
    with pytest.raises(CheckpointError, match="one of 2 shards; name their index"):
        load_weights(tmp_path / names[0])
    (tmp_path / "dcp").mkdir()
    shutil.copy(tmp_path / names[0], tmp_path / "dcp" / "__0_0.distcp")
    (tmp_path / "dcp" / ".metadata").touch()
    with pytest.raises(CheckpointError, match="a part of a distributed checkpoint; name the folder"):
        load_weights(tmp_path / "dcp" / "__0_0.distcp")


def test_a_file_of_a_key_that_is_not_there_is_said(tmp_path):
    torch.save({"model": STATE}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"no file haed\.pth lies beside it"):
        load_weights(tmp_path / "c.pth", key="haed.pth=fc")


@pytest.mark.parametrize(
    "call", [b"ctorch\nTensor\n}X\x01\x00\x00\x00xK\x01sb.", b"cos\nsystem\n.", b"cbuiltins\ngetattr\n)R)R."]
)
def test_a_pickle_changes_and_calls_nothing(call, tmp_path):
    with (tmp_path / "c.pkl").open("wb+") as stream:
        stream.write(call)
        stream.seek(0)
        with pytest.raises(objects.Refused):
            objects.load(stream)
    assert not hasattr(torch.Tensor, "x")
