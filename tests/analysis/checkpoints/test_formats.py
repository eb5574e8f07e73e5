"""Files that training codes leave behind, beside plain state dicts: what stands beside the weights is data, and never made."""

import argparse
import collections
import enum
import json
import os
import pathlib
import pickle
import types
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from saddlescope.analysis.checkpoints.discovery import find_checkpoints
from saddlescope.analysis.checkpoints.formats import objects
from saddlescope.analysis.checkpoints.formats.folders import checkpoint_sha256
from saddlescope.analysis.checkpoints.weights import CheckpointError, fit_weights, load_state, load_weights, weights_digest
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


STATE = net().state_dict()


def same(state, other=STATE):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in other)


class Phase(enum.Enum):
    FIRST = 1


class Config:
    made = 0

    def __init__(self, rate):
        type(self).made += 1
        self.rate = rate

    def __setstate__(self, state):
        type(self).made += 1


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, gpus=[0, 1]),
    "simple namespace": types.SimpleNamespace(lr=0.1),
    "ordered": collections.OrderedDict(a=1),
    "default table": collections.defaultdict(list, {"loss": [1.0, 0.5]}),
    "numpy": {"best": np.float64(0.9), "counts": np.arange(3), "type": np.dtype("int64")},
    "path": pathlib.Path("runs/here"),
    "enum": {Phase.FIRST: "key and value", "phase": Phase.FIRST},
    "class of one's own": Config(0.1),
    "function": net,
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_stands_beside_the_weights_is_read_as_data(kind, tmp_path):
    torch.save({"state_dict": STATE, "args": BESIDE[kind]}, tmp_path / "c.pth")
    before = Config.made, len(torch.serialization.get_safe_globals())
    state = load_state(tmp_path / "c.pth")
    assert same(state.tensors)
    assert state.key == "state_dict"
    assert (Config.made, len(torch.serialization.get_safe_globals())) == before


class Call:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("call", [Call(os.mkdir, "owned"), Call(eval, "open('owned', 'w')"), Call(pathlib.Path.touch, "owned")])
def test_what_a_file_would_call_is_not_called(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": STATE, "x": call}, tmp_path / "c.pt")
    try:
        assert same(load_weights(tmp_path / "c.pt"))
    except CheckpointError as error:
        assert "--trust-checkpoint" in str(error)  # noqa: PT017
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("content", [net(), {"model": net(), "epoch": 3}, {"net": {"model": net()}}])
def test_a_whole_pickled_model_needs_trust_and_is_named(content, tmp_path):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(
        CheckpointError, match=r"whole pickled model, torch.nn.modules.container.Sequential.*--trust-checkpoint"
    ):
        load_weights(tmp_path / "c.pt")
    assert set(load_weights(tmp_path / "c.pt", trust=True)) == set(STATE)


def test_an_object_in_the_place_of_a_tensor_is_a_missing_tensor(tmp_path):
    torch.save({**STATE, "0.bias": Config(1)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"missing in the file: 0\.bias"):
        fit_weights(net(), load_weights(tmp_path / "c.pt"))


class Decoupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(3, 4), nn.Linear(4, 2)


def test_state_dicts_of_one_file_are_joined(tmp_path):
    model = Decoupled()
    parts = {"feat_model": {}, "classifier": {}}
    for name, value in model.state_dict().items():
        parts["classifier" if name.startswith("fc") else "feat_model"][f"module.{name}"] = value
    torch.save({"state_dict_best": parts, "args": argparse.Namespace(lr=1)}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"state_dict_best/feat_model, state_dict_best/classifier.*--key state_dict"):
        load_weights(tmp_path / "c.pth")
    other = Decoupled()
    fit_weights(other, load_weights(tmp_path / "c.pth", key="feat_model,classifier"))
    assert same(other.state_dict(), model.state_dict())
    parts["classifier"] = {"module.weight": model.fc.weight.data, "module.bias": model.fc.bias.data}
    torch.save({"state_dict_best": parts}, tmp_path / "c.pth")
    other = Decoupled()
    fit_weights(other, load_weights(tmp_path / "c.pth", key="feat_model,state_dict_best/classifier=fc"))
    assert same(other.state_dict(), model.state_dict())
    with pytest.raises(CheckpointError, match=r"module\.body\.weight is in two of the parts.*put a prefix"):
        load_weights(tmp_path / "c.pth", key="feat_model,feat_model")
    with pytest.raises(
        CheckpointError, match=r"has no key 'swa'; there are: state_dict_best \(dict\); state dicts: state_dict_best/feat"
    ):
        load_weights(tmp_path / "c.pth", key="feat_model,swa")


def test_state_dicts_of_two_files_are_joined_and_both_are_in_the_hash(tmp_path):
    model = Decoupled()
    torch.save({f"body.{name}": value for name, value in model.body.state_dict().items()}, tmp_path / "feat.pth")
    torch.save({"model": model.fc.state_dict()}, tmp_path / "head.pth")
    for key in ("head.pth=fc", ".,head.pth:model=fc"):
        other = Decoupled()
        fit_weights(other, load_weights(tmp_path / "feat.pth", key=key))
        assert same(other.state_dict(), model.state_dict())
    before = weights_digest(tmp_path / "feat.pth", "head.pth=fc")
    assert before != weights_digest(tmp_path / "feat.pth") == checkpoint_sha256(tmp_path / "feat.pth")
    torch.save({"model": nn.Linear(4, 2).state_dict()}, tmp_path / "head.pth")
    assert weights_digest(tmp_path / "feat.pth", "head.pth=fc") != before
    (tmp_path / "in").mkdir()
    (tmp_path / "feat.pth").rename(tmp_path / "in" / "feat.pth")
    with pytest.raises(CheckpointError, match="has no key"):  # names in a stored result stay beside the checkpoint
        load_weights(tmp_path / "in" / "feat.pth", key="../head.pth=fc")


def sharded(folder, state=STATE):
    names = sorted(state)
    halves = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, own in halves.items():
        save_file({name: state[name].contiguous() for name in own}, folder / file)
    table = {name: file for file, own in halves.items() for name in own}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return index


def test_shards_are_one_checkpoint_with_their_index(tmp_path):
    index = sharded(tmp_path)
    assert find_checkpoints([str(tmp_path)]) == [index]
    assert same(load_weights(index))
    digest = checkpoint_sha256(index)
    save_file(
        {name: value + 1 for name, value in STATE.items() if name in sorted(STATE)[1::2]}, tmp_path / "model-2-of-2.safetensors"
    )
    assert checkpoint_sha256(index) != digest
    save_file({"other": torch.ones(1)}, tmp_path / "model-2-of-2.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks .*, which model.safetensors.index.json says it holds"):
        load_weights(index)
    (tmp_path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"its shard model-2-of-2.safetensors is missing"):
        load_weights(index)
    for text in (
        "{",
        "[]",
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
        '{"weight_map": {"a": ""}}',
        '{"weight_map": {}}',
    ):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
            load_weights(index)


def trainer_folder(folder, state=STATE):
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    torch.save({"state": {}}, folder / "optimizer.pt")
    torch.save({"last_epoch": 3}, folder / "scheduler.pt")
    torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    torch.save(argparse.Namespace(lr=1), folder / "training_args.bin")
    (folder / "trainer_state.json").write_text("{}")


def test_folders_of_a_trainer_are_one_checkpoint_each(tmp_path):
    for step in (1000, 500):
        trainer_folder(tmp_path / f"checkpoint-{step}")
    assert [file.name for file in find_checkpoints([str(tmp_path)])] == ["model.safetensors"] * 2  # a model of one's own
    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    folders = [tmp_path / "checkpoint-500", tmp_path / "checkpoint-1000"]
    assert find_checkpoints([str(tmp_path)]) == folders
    assert find_checkpoints([str(folders[0])]) == folders[:1]
    assert same(load_weights(folders[0]))
    (folders[0] / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"a folder without model.safetensors.*it holds config.json, optimizer.pt"):
        load_weights(folders[0])


def test_a_folder_of_torch_distributed_checkpoint(tmp_path):
    state = {"model": STATE, "optimizer": {"lr": 0.1, "exp": torch.ones(3)}, "step": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        dcp.save(state, checkpoint_id=tmp_path / "step-7")
    assert find_checkpoints([str(tmp_path)]) == [tmp_path / "step-7"]
    assert same(load_weights(tmp_path / "step-7"))
    (part,) = (tmp_path / "step-7").glob("*.distcp")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(CheckpointError, match="ends before a chunk of model"):
        load_weights(tmp_path / "step-7")


def test_the_table_of_a_distributed_checkpoint_runs_nothing(tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "owned"))))
    with pytest.raises(CheckpointError, match=r"it names (posix|nt)\.mkdir"):
        load_weights(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_part_of_a_series_is_no_shard(tmp_path):
    torch.save(STATE, tmp_path / "fold-2-of-5.pt")
    assert same(load_weights(tmp_path / "fold-2-of-5.pt"))
    torch.save(STATE, tmp_path / "model-00002-of-00005.bin")
    with pytest.raises(CheckpointError, match="one of 5 shards; the index that says which belong together"):
        load_weights(tmp_path / "model-00002-of-00005.bin")


def test_digits_that_are_no_numbers_stand_in_names(tmp_path):
    for name in ("1²3.pt", "1²10.pt"):
        (tmp_path / name).touch()
    assert {file.name for file in find_checkpoints([str(tmp_path)])} == {"1²3.pt", "1²10.pt"}


def test_averaged_weights_say_so(tmp_path):
    model = net()
    average = AveragedModel(model)
    average.update_parameters(model)
    torch.save({"model": STATE, "swa": average.state_dict()}, tmp_path / "c.pt")
    other = net()
    notes = fit_weights(other, load_weights(tmp_path / "c.pt", key="swa"))
    assert notes == ["weights averaged 1 times (AveragedModel)", "prefix 'module.' taken off"]
    assert same(other.state_dict(), model.state_dict())


def test_a_model_that_is_an_attribute_of_a_lightning_module(tmp_path):
    content = {f"backbone.{name}": value for name, value in STATE.items()} | {"criterion.weight": torch.ones(2)}
    torch.save({"state_dict": content, "pytorch-lightning_version": "2.6"}, tmp_path / "c.ckpt")
    model = net()
    notes = fit_weights(model, load_weights(tmp_path / "c.ckpt"))
    assert notes == ["prefix 'backbone.' taken off, 1 other tensors of the file left out"]
    assert same(model.state_dict())
    content |= {f"teacher.{name}": value + 1 for name, value in STATE.items()}
    torch.save({"state_dict": content}, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match=r"the model can be backbone\. or teacher\. of its tensors.*--key backbone"):
        fit_weights(net(), load_weights(tmp_path / "c.ckpt"), "c.ckpt")
    fit_weights(model, load_weights(tmp_path / "c.ckpt", key="teacher"))
    assert torch.equal(model[0].bias, STATE["0.bias"] + 1)


def test_a_stand_in_makes_nothing():
    stand_in = type("Foreign", (objects.Foreign,), {"kind": "a.B"})(1, 2)
    stand_in["x"] = 1
    assert (stand_in.arguments, stand_in.table, stand_in.kind) == ((1, 2), {"x": 1}, "a.B")
    assert not stand_in.is_module
