"""Damaged and hostile files: every reader answers or says in one sentence what is wrong; nothing runs, and nothing is lost.

``SADDLESCOPE_FUZZ=10000`` tries so many files of each kind instead of 200. Above 300 lines: the strategies, the readers and
what 10,000 have shown belong together.
"""

import argparse
import json
import os
import pickle
import random
import shutil
import tomllib
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saddlescope.analysis.checkpoints.analysis_inputs import open_checkpoint
from saddlescope.analysis.checkpoints.checkpoint_flags import Given, given_again
from saddlescope.analysis.checkpoints.formats.errors import CheckpointError
from saddlescope.analysis.checkpoints.weights import fit_weights, load_weights
from saddlescope.analysis.records.base import load
from saddlescope.analysis.records.load_study import load_study
from saddlescope.analysis.records.results import CurvatureResult
from saddlescope.analysis.records.setting_flags import read_overrides, settings_from_flags
from saddlescope.analysis.records.settings import AnalysisSettings, SettingsError, SliceSettings, parse_settings
from saddlescope.analysis.records.slices import Slice
from saddlescope.analysis.records.study import read_manifest, read_metrics
from saddlescope.analysis.records.study_plan import SliceItem, StudyAnalysis, curvature_item, run_folders
from saddlescope.analysis.studies.analyses import do_curvature
from saddlescope.analysis.studies.analyze_command import recipe_of
from saddlescope.analysis.studies.slices import SlicesOfCheckpoint, do_slices
from saddlescope.analysis.studies.verify import verify
from saddlescope.reports.check.baseline import BaselineError
from saddlescope.reports.check.baseline_file import load_baseline
from saddlescope.reports.testing import store_baseline
from saddlescope.training.data.image_lists import read_list
from saddlescope.training.networks.models import ModelError, build_model
from saddlescope.training.runs.recipe import RECIPES, RecipeError, load_recipe
from safetensors.torch import save_file

from saddlescope import Permission, TrustError

PRESCRIBED = Path(__file__).parent / "prescribed"
COUNT = int(os.environ.get("SADDLESCOPE_FUZZ", "200"))
#: what takes the place of a value: other types, ends of ranges, paths, code (10**30 is more than any memory, so it is refused)
ODD = (
    None, True, False, 0, -1, 3, 0.5, -1e308, 10**30, float("nan"), float("inf"), "", "x", "0", "../x", "/etc/passwd", "a\0b",
    "[/b]", "os:system", "nets.py:net", "saddlescope:build_model", [], [0], [[]], ["os:system"], {},
    {"command": "x"}, {"name": "os:system"}, {"os:system": 1},
)  # fmt: skip


def places(tree):
    """Every value in nested lists and tables, as (container, key)."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(pairs):
        yield tree, key
        yield from places(value)


def swapped(tree, chance):
    """One or two values replaced, taken away, or exchanged with each other."""
    for _ in range(chance.choice((1, 1, 2))):
        known = list(places(tree))
        if not known:
            return tree
        table, key = chance.choice(known)
        kind = chance.randrange(4)
        if kind == 0:
            del table[key]
        elif kind == 1:
            other, name = chance.choice(known)
            table[key] = json.loads(json.dumps(other[name], default=str))
        elif kind == 2 and isinstance(table, dict):
            table[chance.choice(("x", "", "../x", "name", "rule", "trust"))] = table.pop(key)
        else:
            table[key] = json.loads(json.dumps(chance.choice(ODD)))
    return tree


def damaged(content, chance):
    """Some bytes changed, cut off, taken out or put in."""
    content = bytearray(content)
    kind = chance.randrange(5)
    at = chance.randrange(len(content))
    if kind == 0:
        return bytes(content[:at])
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(content))
        if kind == 1:
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            content[at] = chance.randrange(256)
        elif kind == 3:
            del content[at : at + chance.choice((1, 4, 64))]
        else:
            content[at:at] = chance.choice(
                (b"\0", b"\xff", b"\n", b"{", b"[" * 5000, b"9" * 5000, b"../", b"e999", b'"', b" 1 ")
            )
        if not content:
            break
    return bytes(content)


def mutated(content, suffix, chance):
    """A file like ``content``, but not quite."""
    if chance.random() < 0.6:
        if suffix == ".json":
            return json.dumps(swapped(json.loads(content), chance)).encode()
        if suffix == ".jsonl":
            lines = [json.loads(line) for line in content.splitlines()]
            return b"\n".join(json.dumps(line).encode() for line in swapped(lines, chance)) + b"\n"
        if suffix == ".toml":
            try:
                return tomli_w.dumps(swapped(tomllib.loads(content.decode()), chance)).encode()
            except (TypeError, ValueError, AttributeError):
                pass  # TOML has no null
    return damaged(content, chance)


def _result(path):
    found = load(CurvatureResult, path)
    given_again(found.provenance.subject, Given(), path)


def _study(path):
    run_folders(path.parent)
    load_study(path.parent).variants  # noqa: B018
    StudyAnalysis.parse(recipe_of(path.parent, {}))


def _weights(path):
    fit_weights(build_model("digits-resnet", 10, in_channels=1), load_weights(path), path)


def _recipe(path):
    StudyAnalysis.parse(load_recipe(path).resolved())


#: kind of file -> (where it lies, what reads it)
READERS = {
    "result": ("study/run/curvature/checkpoint.head-tail.json", _result),
    "vectors": ("study/run/curvature/checkpoint.head-tail.vectors.safetensors", lambda path: verify(_beside(path))),
    "slice": ("study/run/slices/random.json", lambda path: load(Slice, path)),
    "side-car": ("study/run/checkpoint.json", lambda path: open_checkpoint(path.with_suffix(".pt"))),
    "side-car in a study": ("study/run/checkpoint.json", lambda path: load_study(path.parents[1])),
    "pt": ("loose.pt", _weights),
    "old pt": ("old.pt", _weights),
    "pt with a namespace": ("beside.pt", _weights),
    "index of shards": ("shards/model.safetensors.index.json", _weights),
    "distributed": ("distributed/.metadata", lambda path: _weights(path.parent)),
    "safetensors": ("loose.safetensors", _weights),
    "study": ("study/study.json", _study),
    "recipe of a study": ("study/recipe.toml", _study),
    "recipe": ("recipe.toml", _recipe),
    "metrics": ("study/run/metrics.jsonl", read_metrics),
    "manifest": ("study/figures/manifest.json", read_manifest),
    "image list": ("list.txt", read_list),
    "baseline": ("baseline.json", load_baseline),
}


def _beside(vectors):
    return vectors.with_name(vectors.name.replace(".vectors.safetensors", ".json"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with one good file of each kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    run = folder / "study" / "run"
    (folder / "study" / "figures").mkdir(parents=True)
    shutil.copytree(PRESCRIBED, run)
    item = curvature_item(run / "checkpoint.pt", AnalysisSettings(steps=20, eta=40))
    do_curvature(item)
    few = SliceSettings(points=3)
    line = SliceItem(run / "checkpoint.pt", "random", few, item.settings, run / "slices" / "random.json")
    do_slices(SlicesOfCheckpoint((line,)))
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({"state_dict": state, "epoch": 3}, folder / "loose.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "loose.safetensors")
    beside = {"args": argparse.Namespace(lr=0.1, out=Path("runs"), best=np.float64(0.5)), "state_dict": state}
    torch.save(beside, folder / "beside.pt")
    (folder / "shards").mkdir()
    save_file(state, folder / "shards" / "model-1.safetensors")
    index = {"weight_map": dict.fromkeys(state, "model-1.safetensors")}
    (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        dcp.save({"model": state}, checkpoint_id=folder / "distributed")
    recipe = (RECIPES / "digits-lt.toml").read_text()
    (folder / "recipe.toml").write_text(recipe)
    (folder / "study" / "recipe.toml").write_text(tomli_w.dumps(load_recipe("digits-lt").resolved()))
    runs = [{"optimizer": "sgd", "seed": 0, "folder": "run"}]
    (folder / "study" / "study.json").write_text(json.dumps({"name": "s", "recipe_sha256": "0", "runs": runs}))
    (folder / "study" / "figures" / "manifest.json").write_text(
        json.dumps({"density": {"files": ["density.svg"], "title": "t", "caption": "c", "paper": "p"}})
    )
    row = {
        "epoch": 1,
        "stage": None,
        "lr": 0.1,
        "train_loss": 2.0,
        "accuracy": {"all": 0.5, "per_class": [0.5, None]},
        "seconds": 1,
    }
    (run / "metrics.jsonl").write_text("".join(json.dumps(row | {"epoch": epoch}) + "\n" for epoch in (1, 2, 3)))
    (folder / "list.txt").write_text("".join(f"train/{index}.jpg {index % 3}\n" for index in range(6)))
    store_baseline(load(CurvatureResult, item.output), folder / "baseline.json", reason="first")
    return folder


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_not_quite_right_is_refused_in_one_sentence(kind, files, monkeypatch):
    name, read = READERS[kind]
    path = files / name
    good = path.read_bytes()
    read(path)
    called = []
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.chdir(files)

    count = COUNT // 20 if kind == "vectors" else COUNT  # each of them opens the checkpoint

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**48))
    def check(seed):
        bad = mutated(good, path.suffix, random.Random(seed))
        path.write_bytes(bad)
        try:
            read(path)
        except OSError:
            pass
        except Exception as error:
            if type(error).__module__.split(".")[0] != "saddlescope":
                raise
            assert "\n" not in str(error)  # noqa: PT017
        assert path.read_bytes() == bad
        assert not called

    there = sorted(files.rglob("*"))
    try:
        check()
    finally:
        path.write_bytes(good)
    assert sorted(files.rglob("*")) == there


def _with_a_line_break(state, folder):
    torch.save({"epoch\n\x1b[31m": torch.zeros(2), **state}, folder / "bad.pt")


def _of_several_disks(state, folder):
    torch.save(state, folder / "bad.pt")
    content = (folder / "bad.pt").read_bytes()
    locator = content.rindex(b"PK\x06\x07")  # what a 64-bit archive ends with; its last field counts the disks
    content = content[: locator + 16] + b"\x02\0\0\0" + content[locator + 20 :]
    (folder / "bad.pt").write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x03"))


@pytest.mark.parametrize("spoil", [_with_a_line_break, _of_several_disks])
def test_what_ten_thousand_damaged_weights_have_shown(spoil, tmp_path):
    spoil(torch.load(PRESCRIBED / "checkpoint.pt", weights_only=True), tmp_path)
    with pytest.raises(CheckpointError) as refused:
        _weights(tmp_path / "bad.pt")
    assert str(refused.value).isprintable()


def test_a_table_of_contents_that_promises_more_than_there_is_takes_no_memory(tmp_path):
    """Millions of objects by a number of four bytes, here: the reader in C makes room for all, of billions as well."""
    opcodes = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.LONG_BINPUT + b"\0\0\0\x02" + pickle.STOP
    (tmp_path / ".metadata").write_bytes(opcodes)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="cannot be read as a distributed checkpoint"):
        _weights(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1e8
    tracemalloc.stop()


@pytest.mark.parametrize("nested", ["x = " + "[" * 5000, "x = " + "9" * 5000])
def test_a_recipe_without_end_is_refused(nested, tmp_path):
    (tmp_path / "r.toml").write_text(nested)
    with pytest.raises(RecipeError, match="not readable as TOML"):
        load_recipe(tmp_path / "r.toml")
    with pytest.raises(RecipeError):
        load_recipe("digits-lt", overrides=[f"training.epochs={nested[4:]}"])
    with pytest.raises(SettingsError):
        parse_settings(read_overrides([f"steps={nested[4:]}"]))


def test_what_torch_adds_to_its_errors_is_left_out():
    with pytest.raises(ModelError) as refused:
        build_model("digits-resnet", 10**30, in_channels=1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a\0b", "~nobody-here/nets.py:net"])
def test_what_is_no_path_is_refused_as_a_stranger(name):
    with pytest.raises(TrustError, match="is not run or opened unasked"):
        Permission().check("x.json", {"model": (name, {})})


@pytest.mark.parametrize(
    "read",
    [load_baseline, lambda path: settings_from_flags({}, groups=str(path), group=[], memory=None, quick=False, overrides=[])],
)
def test_json_nested_without_end_is_refused(tmp_path, read):
    path = tmp_path / "nested.json"
    path.write_text('{"kind": "baseline", "x": ' + "[" * 100_000)
    with pytest.raises((BaselineError, SettingsError), match=r"nested\.json: not readable as JSON"):
        read(path)
