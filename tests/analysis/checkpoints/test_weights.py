"""Checkpoints as other people's training codes leave them."""

import os
import pickle
import zipfile

import pytest
import torch
from saddlescope.analysis.checkpoints.weights import CheckpointError, fit_weights, load_weights
from safetensors.torch import save_file
from torch import nn


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def wrapped(prefix, state):
    return {prefix + name: value for name, value in state.items()}


STATE = net().state_dict()
LAYOUTS = {
    "bare": STATE,
    "ldam": {"epoch": 3, "arch": "resnet32", "state_dict": wrapped("module.", STATE), "best_acc1": torch.tensor(71.5)},
    "lightning": {
        "pytorch-lightning_version": "2.2",
        "epoch": 3,
        "state_dict": {**wrapped("model.", STATE), "criterion.weight": torch.ones(2)},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(1)}}}],
        "loops": {},
    },
    "compiled": {"model_state_dict": wrapped("_orig_mod.", STATE), "optimizer_state_dict": {}},
    "ddp of compiled": {"net": wrapped("module._orig_mod.", STATE), "acc": 0.9},
    "nested": {"model": {"state_dict": STATE}, "step": 7},
    "with ema": {"model": STATE, "ema": {name: value + 1 for name, value in STATE.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_usual_layout_is_read_to_the_bit(layout, tmp_path):
    torch.save(LAYOUTS[layout], tmp_path / "c.pt")
    model = net()
    notes = fit_weights(model, load_weights(tmp_path / "c.pt"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, STATE[name]), name
    assert bool(notes) == (layout not in ("bare", "nested", "with ema"))


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "c.safetensors")
    fit_weights(net(), load_weights(tmp_path / "c.safetensors"))


def test_a_key_chooses_among_several_states(tmp_path):
    torch.save(LAYOUTS["with ema"], tmp_path / "c.pt")
    assert torch.equal(load_weights(tmp_path / "c.pt", key="ema")["0.bias"], STATE["0.bias"] + 1)
    with pytest.raises(CheckpointError, match=r"no key 'swa'; there are: model \(OrderedDict\), ema \(dict\)"):
        load_weights(tmp_path / "c.pt", key="swa")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_malicious_pickle_never_runs(save, tmp_path):
    save({"state_dict": STATE, "x": Bomb(tmp_path / "owned")}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError):
        load_weights(tmp_path / "c.pt")
    assert not (tmp_path / "owned").exists()


def test_a_pickled_model_needs_trust(tmp_path):
    torch.save(net(), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="--trust-checkpoint"):
        load_weights(tmp_path / "c.pt")
    assert set(load_weights(tmp_path / "c.pt", trust=True)) == set(STATE)


def test_a_truncated_file_says_so(tmp_path):
    torch.save(STATE, tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_weights(tmp_path / "c.pt")


def test_a_wrong_architecture_lists_what_differs(tmp_path):
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2), nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"missing in the file: 4.weight, 4.bias; other shape: 0.weight \(file \[4, 3\]"):
        fit_weights(other, STATE)


def test_batch_norm_counters_of_old_files_may_be_missing():
    fit_weights(net(), {name: value for name, value in STATE.items() if "num_batches" not in name})


def test_extra_keys_are_refused_unless_they_are_allowed_by_name():
    state = {**STATE, "embeddings.position_ids": torch.arange(4), "similarity_weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"'embeddings\.position_ids' --allow-extra-keys 'similarity_weight'"):
        fit_weights(net(), state)
    with pytest.raises(CheckpointError, match=r"not in the model: similarity_weight\. If"):
        fit_weights(net(), state, extra_keys=["*.position_ids"])
    model = net()
    notes = fit_weights(model, wrapped("module.", state), extra_keys=["*.position_ids", "similarity_*"])
    assert notes[-1] == "left out, as allowed: embeddings.position_ids, similarity_weight"
    assert all(torch.equal(value, STATE[name]) for name, value in model.state_dict().items())
    del state["0.weight"]
    with pytest.raises(CheckpointError, match=r"missing in the file: 0\.weight\. Is it the right architecture"):
        fit_weights(net(), state, extra_keys=["*"])


def test_a_pattern_takes_nothing_from_the_model():
    model = net()
    fit_weights(model, STATE, extra_keys=["*"])
    assert all(torch.equal(value, STATE[name]) for name, value in model.state_dict().items())


def test_a_dictionary_that_holds_itself_is_no_state(tmp_path):
    content = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="no state dict found"):
        load_weights(tmp_path / "c.pt")


def test_an_archive_with_names_in_no_encoding(tmp_path):
    """Names flagged as UTF-8 that are not: zipfile says UnicodeDecodeError where it looks for TorchScript."""
    torch.save(STATE, tmp_path / "c.pt")
    content = (tmp_path / "c.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        name = archive.namelist()[0].encode()
    (tmp_path / "c.pt").write_bytes(content.replace(name, b"\xff" * len(name)))
    flagged = bytearray((tmp_path / "c.pt").read_bytes())
    at = flagged.index(b"PK\x01\x02")
    flagged[at + 9] |= 0x08
    (tmp_path / "c.pt").write_bytes(flagged)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(tmp_path / "c.pt")


def test_an_optimizer_state_is_no_checkpoint(tmp_path):
    torch.save({"optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"no state dict found; its keys are optimizer \(dict\), epoch \(int\)"):
        load_weights(tmp_path / "c.pt")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.decoder.weight = self.embedding.weight


@pytest.mark.parametrize("kept", ["embedding.weight", "decoder.weight"])
def test_tied_weights_may_be_stored_once(kept):
    value = torch.randn(5, 3)
    model = Tied()
    fit_weights(model, {kept: value})
    assert torch.equal(model.embedding.weight, value)
    assert model.embedding.weight is model.decoder.weight


def test_tied_weights_with_two_values_are_refused():
    state = {"embedding.weight": torch.ones(5, 3), "decoder.weight": torch.zeros(5, 3)}
    with pytest.raises(CheckpointError, match=r"are one tensor in Tied and differ in the file"):
        fit_weights(Tied(), state)


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_lazy_layers_take_the_shapes_of_the_file(tmp_path):
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    torch.save(model.state_dict(), tmp_path / "never.pt")
    for trust in (False, True):
        with pytest.raises(CheckpointError, match=r"holds layers without weights.*one batch"):
            load_weights(tmp_path / "never.pt", trust=trust)
    model(torch.randn(6, 3))
    fresh = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    fit_weights(fresh, model.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # the same from torch 2.14 on
def test_torchscript_is_read_only_when_trusted(tmp_path):
    model = net()
    torch.jit.script(model).save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match=r"a TorchScript program.*--trust-checkpoint"):
        load_weights(tmp_path / "script.pt")
    state = load_weights(tmp_path / "script.pt", trust=True)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_buffers_that_differ_are_named():
    model = nn.Linear(2, 2)
    model.register_buffer("scale", torch.ones(2))
    state = model.state_dict()
    for name, other, said in (("scale", None, "missing in the file: scale"), ("scale", torch.ones(3), r"scale \(file \[3\]")):
        changed = {key: value for key, value in {**state, name: other}.items() if value is not None}
        with pytest.raises(CheckpointError, match=said):
            fit_weights(model, changed)
