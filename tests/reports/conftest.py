"""A study on disk, as training and analysis would leave it, with numbers chosen by hand (no torch, no training).

Above 300 lines: one study with all its files, which must agree with each other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saddlescope.analysis.records.results import CurvatureResult

COUNTS = [102, 73, 52, 37, 26, 19, 13, 9, 7, 5]
SCHEMES = {
    "head-tail": {"all": list(range(10)), "head": [0, 1, 2], "tail": [3, 4, 5, 6, 7, 8, 9]},
    "per-class": {"all": list(range(10)), **{str(label): [label] for label in range(10)}},
}

#: optimizer -> seed -> how far the seed is from the base, in units of 1 of lambda_max, 0.01 of every accuracy, and STEP of
#: lambda_min (where that is below -0.05)
SHIFT = {"sgd": (0, 1, 2), "sam": (0, 2, 1), "imbsam": (1, 0, 2), "ssesam": (2, 1, 0)}
STEP = {"all": 0.05, "head": 0.1, "tail": 0.4}
#: optimizer -> group -> (lambda_min, lambda_max, gradient norm)
CURVATURE = {
    "sgd": {"all": (-1.0, 14.0, 0.02), "head": (-1.7, 24.0, 0.05), "tail": (-20.0, 23.0, 0.30)},
    "sam": {"all": (-0.4, 8.0, 0.02), "head": (-0.8, 9.0, 0.04), "tail": (-6.0, 14.0, 0.25)},
    "imbsam": {"all": (-0.5, 9.0, 0.03), "head": (-1.5, 16.0, 0.06), "tail": (-1.2, 8.0, 0.20)},
    "ssesam": {"all": (-0.2, 7.0, 0.03), "head": (-0.004, 8.0, 0.05), "tail": (-0.003, 7.0, 0.15)},
}
#: optimizer -> (head, tail) accuracy
ACCURACY = {"sgd": (0.95, 0.60), "sam": (0.96, 0.63), "imbsam": (0.92, 0.70), "ssesam": (0.94, 0.73)}
QUESTION = "Does SSE-SAM escape the saddles of head and tail classes where SGD, SAM and ImbSAM do not?"
WEIGHT_NORM, RELATIVE_TAU = 20.0, 1e-3
EPOCHS = (4, 8, 12)


def sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def extreme(value: float, width: float, *, low_end: bool) -> dict[str, Any]:
    inside = value - width if low_end else value
    return {
        "value": value,
        "residual": width / 10,
        "interval": [inside, value if low_end else value + width],
        "confidence": 0.999,
        "residual_interval": [value - width / 10, value + width / 10],
        "converged": True,
        "noise": 1e-6,
    }


def group(classes: list[int], low: float, high: float, gradient: float, seed: int) -> dict[str, Any]:
    """One group's record; the verdict follows from the numbers as ``mathematics.md`` defines it."""
    tau = RELATIVE_TAU * high
    negative = low < -tau
    displacement = 2 * gradient / abs(low) if negative else None
    ratio = displacement / WEIGHT_NORM if displacement is not None else None
    stationary = ratio <= 0.1 if ratio is not None else None
    label = "no negative curvature above tau"
    if negative:
        label = "saddle" if stationary else "negative curvature, not stationary"
    share = max(0.0, -low) / 1000
    return {
        "classes": classes,
        "size": sum(COUNTS[label] for label in classes),
        "loss": 0.05,
        "accuracy": 0.99,
        "gradient_norm": gradient,
        "weight_norm": WEIGHT_NORM,
        "lambda_min": extreme(low, 0.05, low_end=True),
        "lambda_max": extreme(high, 0.05, low_end=False),
        "negative_ratio": {
            "value": max(-low, 0) / high,
            "interval": [max(-low, 0) / (high + 0.05), max(-low + 0.05, 0) / high],
            "confidence": 0.998,
        },
        "negative_mass": [
            {
                "relative": c,
                "tau": c * high,
                "value": share * (1 - c),
                "interval": [0.0, share + 0.01],
                "confidence": 0.95,
                "bracket": [0.0, share + 0.005],
            }
            for c in (1e-4, 1e-3, 1e-2, 1e-1)
        ],
        "saddle_index": [{"relative": c, "tau": c * high, "at_least": int(negative) * (3 + seed)} for c in (1e-3, 1e-1)],
        "trace": {"value": 5 * high, "interval": [4 * high, 6 * high], "confidence": 0.95, "standard_error": 0.5, "count": 4},
        "noise": {"repeat": 0.0, "symmetry": 1e-7, "absolute": 1e-6},
        "certificate": {
            "vector": "tail",
            "vectors_file": "checkpoint.head-tail.vectors.safetensors",
            "vector_sha256": sha("v", low),
            "rayleigh_quotient": low,
            "dtype": "float64",
            "noise": 1e-6,
            "holds": True,
        }
        if negative
        else None,
        "verdict": {
            "curvature": "negative curvature" if negative else "none above tau",
            "stationary": stationary,
            "label": label,
            "tau": tau,
            "displacement": displacement,
            "displacement_ratio": ratio,
            "sentence": f"{label}.",
        },
        "steps": [60],
        "matvecs": 62,
    }


def accuracy(optimizer: str, seed: int, later: float = 0.0) -> dict[str, Any]:
    head, tail = (value + 0.01 * SHIFT[optimizer][seed % 3] + later for value in ACCURACY[optimizer])
    return {
        "all": round((3 * head + 7 * tail) / 10, 6),
        "head": head,
        "tail": tail,
        "many": head,
        "medium": tail,
        "few": None,
        "per_class": [head] * 3 + [tail] * 7,
    }


def curvature(optimizer: str, seed: int, scheme: str, epoch: int, stem: str, study: str, data: str) -> dict[str, Any]:
    groups = {}
    fade = 1 + 0.5 * (EPOCHS[-1] - epoch) / EPOCHS[-1]
    for name, classes in SCHEMES[scheme].items():
        source = name if name in ("all", "head", "tail") else ("head" if int(name) < 3 else "tail")
        low, high, gradient = CURVATURE[optimizer][source]
        shift = SHIFT[optimizer][seed % 3]
        groups[name] = group(classes, fade * low + STEP[source] * shift * (low < -0.05), fade * high + shift, gradient, seed)
    return {
        "kind": "curvature",
        "schema_version": 1,
        "scheme": {
            "name": scheme,
            "eta": 40 if scheme == "head-tail" else None,
            "groups": SCHEMES[scheme],
            "sizes": {name: entry["size"] for name, entry in groups.items()},
        },
        "groups": groups,
        "additivity": 1e-7,
        "provenance": {
            "saddlescope": "0.1.0",
            "git_commit": None,
            "python": "3.12.0",
            "torch": "2.13.0",
            "numpy": "2.4.0",
            "platform": "Linux x86_64",
            "processor": "AMD EPYC, AVX2",
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "seed": 0,
            "checkpoint": f"{stem}.pt",
            "checkpoint_sha256": sha(optimizer, seed, stem),
            "model": "resnet8",
            "parameters": 78042,
            "data": "digits-lt IF 20 (ldam)",
            "data_sha256": data,
            "index_sha256": sha("index"),
            "class_counts": COUNTS,
            "loss": "cross-entropy",
            "training": {"study": study, "optimizer": optimizer, "seed": seed, "epoch": epoch, "stage_switch_epoch": 8},
            "settings": {"tau": RELATIVE_TAU, "delta": 1e-3, "stationarity": 0.1, "steps": 100, "starts": 1, "seed": 0},
            "created": "2027-01-01T00:00:00+00:00",
        },
    }


def write(path: Path, raw: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw, indent=1), encoding="utf-8")


def build(
    folder: Path,
    *,
    optimizers: tuple[str, ...] = tuple(CURVATURE),
    seeds: tuple[int, ...] = (0, 1, 2),
    schemes: tuple[str, ...] = ("head-tail",),
    unfinished: tuple[tuple[str, int], ...] = (),
    unlisted: tuple[tuple[str, int], ...] = (),
    name: str = "digits-lt",
) -> Path:
    """Writes a study folder; ``unfinished`` runs have no checkpoint, ``unlisted`` ones are not in study.json."""
    runs = []
    for optimizer in optimizers:
        for seed in seeds:
            if (optimizer, seed) in unlisted:
                continue
            run = folder / f"{optimizer}-seed{seed}"
            runs.append({"optimizer": optimizer, "seed": seed, "folder": run.name})
            run.mkdir(parents=True)
            if (optimizer, seed) in unfinished:
                continue
            _build_run(run, optimizer, seed, schemes, name)
    write(folder / "study.json", {"name": name, "recipe_sha256": sha("recipe"), "runs": runs})
    (folder / "recipe.toml").write_text(f'name = "{name}"\nquestion = "{QUESTION}"\n', encoding="utf-8")
    return folder


def _build_run(run: Path, optimizer: str, seed: int, schemes: tuple[str, ...], name: str) -> None:
    write(
        run / "checkpoint.json",
        {
            "format": "saddlescope-checkpoint",
            "version": 1,
            "checkpoint": "checkpoint.pt",
            "sha256": sha(optimizer, seed, "checkpoint"),
            "model": {"factory": "saddlescope:build_model", "args": {"name": "resnet8"}, "parameters": 78042},
            "data": {
                "factory": "x:y",
                "args": {},
                "name": "digits-lt IF 20 (ldam)",
                "index_sha256": sha("index"),
                "class_counts": COUNTS,
            },
            "loss": {"name": "cross-entropy", "factory": "x:y", "args": {}},
            "groups": {"eta": 40},
            "accuracy_split": "held-out balanced part",
            "training": {
                "study": name,
                "run": run.name,
                "optimizer": optimizer,
                "seed": seed,
                "epoch": EPOCHS[-1],
                "epochs": EPOCHS[-1],
                "stage": 2 if optimizer == "ssesam" else None,
                "stage_switch_epoch": 8 if optimizer == "ssesam" else None,
                "accuracy": accuracy(optimizer, seed),
            },
            "provenance": {
                "saddlescope": "0.1.0",
                "torch": "2.13.0",
                "python": "3.12.0",
                "platform": "Linux",
                "git_commit": None,
            },
        },
    )
    lines = [
        {
            "epoch": epoch,
            "stage": None,
            "lr": 0.1,
            "train_loss": math.exp(-epoch / 4),
            "accuracy": accuracy(optimizer, seed, (epoch - 12) / 50 * (1 + 0.1 * seed)),
            "seconds": 0.5,
        }
        for epoch in range(1, EPOCHS[-1] + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for scheme in schemes:
        for stem, epoch in (("checkpoint", 12), ("epoch-004", 4), ("epoch-008", 8)):
            raw = curvature(optimizer, seed, scheme, epoch, stem, name, sha("data"))
            CurvatureResult.model_validate(raw)
            write(run / "curvature" / f"{stem}.{scheme}.json", raw)


Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a stored file in place: the way a study goes wrong."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    write(path, raw)


#: three ImbSAM under names of their own, as a resolved recipe holds them; on disk they have the numbers of imbsam, sam, ssesam
VARIANTS = """
[optimizers.imbsam]
rho = 0.05
normalisation = "batch"
[optimizers.imbsam-group]
rule = "imbsam"
rho = 0.05
normalisation = "group"
[optimizers.imbsam-x2]
rule = "imbsam"
rho = 0.05
normalisation = "batch-x2"
[optimizers.sgd]
"""
_RENAMED = {"sam": "imbsam-group", "ssesam": "imbsam-x2"}


def make_variants(folder: Path) -> Path:
    """Turns SAM and SSE-SAM of a study on disk into variants of ImbSAM."""
    edit_json(
        folder / "study.json",
        lambda raw: [row.update(optimizer=_RENAMED.get(row["optimizer"], row["optimizer"])) for row in raw["runs"]],
    )
    with (folder / "recipe.toml").open("a", encoding="utf-8") as recipe:
        recipe.write(VARIANTS)
    return folder


@pytest.fixture
def build_variants(build_study: Callable[..., Path]) -> Callable[..., Path]:
    """As ``build_study``, a study of SGD and ImbSAM in three weightings."""
    return lambda **choices: make_variants(build_study(name="weightings", **choices))


@pytest.fixture
def build_study(tmp_path: Path) -> Callable[..., Path]:
    """``build_study(...)`` writes a study below tmp_path and returns its folder."""
    return lambda **choices: build(tmp_path / "runs" / choices.get("name", "digits-lt"), **choices)


@pytest.fixture(scope="session")
def edit() -> Edit:
    return edit_json


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete study of four optimizers and three seeds; read-only for tests."""
    return build(tmp_path_factory.mktemp("runs") / "digits-lt", schemes=("head-tail", "per-class"))
