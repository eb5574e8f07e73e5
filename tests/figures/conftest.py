"""The reports' study on disk, with the densities and slices that figures need; numbers chosen by hand."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from saddlescope.analysis.records.slices import Slice


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


study_on_disk = _load("study_on_disk", Path(__file__).parents[1] / "reports" / "conftest.py")
layout_checks = _load("layout_checks", Path(__file__).with_name("layout.py"))

LOSS, SLOPE = {"all": 0.5, "head": 0.2, "tail": 1.0}, {"all": 0.1, "head": -0.2, "tail": 0.3}
CURVATURE = {"all": -1.0, "head": 2.0, "tail": -4.0}


def density(low, high, starts=2):
    """A bulk at zero with outliers at the ends; two quadratures of weights that sum to 1."""
    weights = [[0.01, 0.18, 0.6, 0.2, 0.01], [0.02, 0.28, 0.5, 0.19, 0.01]]
    nodes = [low, 0.3 * low, 1e-4 * high, 0.1 * high, high]
    return {
        "distribution": "sphere",
        "probes": [{"seed": seed, "nodes": nodes, "weights": weights[seed]} for seed in range(starts)],
    }


def line(group, kind, curvature):
    """Group losses that are exactly quadratic, so that the model drawn beside them must coincide."""
    axis = [float(x) for x in np.linspace(-1, 1, 11)]
    axis[5] = 0.0
    loss = {g: [LOSS[g] + SLOPE[g] * x + 0.5 * CURVATURE[g] * x * x for x in axis] for g in LOSS}
    return {
        "kind": "slice",
        "directions": [_direction(kind, group)],
        "axes": [axis],
        "loss": loss,
        "scheme": curvature["scheme"],
        "provenance": curvature["provenance"],
    }


def plane(kinds, curvature, path=False):
    x, y = ([float(v) for v in np.linspace(-1, 1, 5)] for _ in range(2))
    loss = {g: [[LOSS[g] + a * a + 0.5 * b * b for b in y] for a in x] for g in LOSS}
    raw = {
        "kind": "slice",
        "directions": [_direction(kind, "tail" if "eigen" in kind else None) for kind in kinds],
        "axes": [x, y],
        "loss": loss,
        "scheme": curvature["scheme"],
        "provenance": curvature["provenance"],
    }
    if path:
        raw |= {"path": [[-0.8, 0.5], [-0.2, 0.1], [0.0, 0.0]], "path_epochs": [4, 8, 12], "path_distance": [0.1, 0.05, 0.0]}
    return raw


def _direction(kind, group):
    return {
        "kind": kind,
        "normalisation": "filter" if kind == "random" else "none",
        "group": group,
        "eigenvalue": CURVATURE[group] if group else None,
        "slope": SLOPE,
        "curvature": CURVATURE,
        "norm": 3.0 if kind == "random" else 1.0,
    }


def furnish(folder):
    """Adds densities, lines and planes to a study folder; the final results take the hash of their checkpoint."""
    for run in json.loads((folder / "study.json").read_text())["runs"]:
        side_car = folder / run["folder"] / "checkpoint.json"
        if not side_car.exists():
            continue
        for path in (folder / run["folder"]).glob("curvature/*.json"):
            study_on_disk.edit_json(path, _add_density)
        final = json.loads((folder / run["folder"] / "curvature" / "checkpoint.head-tail.json").read_text())
        pieces = {
            "tail-min": line("tail", "min-eigenvector", final),
            "random": line(None, "random", final),
            "tail-plane": plane(("min-eigenvector", "max-eigenvector"), final),
            "path-plane": plane(("pca", "pca"), final, path=True),
        }
        for name, raw in pieces.items():
            Slice.model_validate(raw)
            if "plane" not in name or run["seed"] == 0:
                study_on_disk.write(folder / run["folder"] / "slices" / f"{name}.json", raw)
    return folder


def _add_density(raw):
    raw["net_rates"] = [
        {"optimizer": "sgd", "rate": 0.5, "interval": [0.5, 0.9], "confidence": 0.999, "residual": 0.0, "converged": True},
        {
            "optimizer": "sam",
            "radii": {"all": 0.05},
            "rate": -0.2,
            "interval": [None, None],
            "confidence": 0.999,
            "residual": 0.1,
            "converged": False,
        },
    ]
    for entry in raw["groups"].values():
        entry["density"] = density(entry["lambda_min"]["value"], entry["lambda_max"]["value"])
        entry["escape"] = escape(entry["loss"], entry["lambda_min"]["value"])


def escape(loss, low):
    """A loss that falls by 2 % at s = -1 (1 / 20 of the weights' norm) and by 10 % at s = 2, and rises beyond; uphill left."""
    steps = [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0]
    return {
        "gradient_along_v": -0.001,
        "correlated_negative_curvature": 1e-5 * -low if low < 0 else None,
        "rates": [rate("sgd", {}, -0.5), rate("sam", {"all": 0.05}, 0.25), rate("ssesam-2", {"tail": 0.1}, 2.0)],
        "objective_curvature": 0.5,
        "weight_decay": 5e-4,
        "test": {
            "steps": steps,
            "loss": [loss * part for part in (2.5, 1.1, 0.98, 1.0, 0.95, 0.9, 2.1)],
            "quadratic": [loss * (1 - 0.001 * s / loss + s * s * -0.01) for s in steps],
        },
    }


def rate(optimizer, radii, value):
    """A rate that halves across a step."""
    near = {"rate": value, "halved": value, "distance": 2e-7, "settled": True}
    return {"optimizer": optimizer, "radii": radii, **near, "far_rate": value / 2, "far_distance": 0.02}


@pytest.fixture
def build_study(tmp_path):
    """``build_study(...)`` writes a study below tmp_path and returns its folder; ``bare=True``: no density, no slices."""

    def make(*, bare=False, **choices):
        folder = study_on_disk.build(tmp_path / "runs" / choices.get("name", "digits-lt"), **choices)
        return folder if bare else furnish(folder)

    return make


@pytest.fixture
def build_variants(build_study):
    """As ``build_study``, a study of SGD and ImbSAM in three weightings."""
    return lambda **choices: study_on_disk.make_variants(build_study(name="weightings", **choices))


@pytest.fixture(scope="session")
def layout():
    """The checks of a finished figure: ``layout.complaints(figure)`` names what a reader would stumble over."""
    return layout_checks


@pytest.fixture(scope="session")
def edit():
    return study_on_disk.edit_json


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory):
    """Four optimizers, three seeds, two schemes; read-only for tests."""
    folder = tmp_path_factory.mktemp("runs") / "digits-lt"
    return furnish(study_on_disk.build(folder, schemes=("head-tail", "per-class")))
