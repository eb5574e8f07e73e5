"""The stored result of one checkpoint: everything measured for each class group, and where it comes from."""

from __future__ import annotations

import tempfile
from html import escape
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from .base import SCHEMA_VERSION, Estimate, FileName, Record, save
from .rounding import end_words
from .saddles import Certificate, Escape, NetRate, Verdict
from .spectra import Density, Extreme, GaussNewton, IndexBound, MassAtThreshold, OperatorNoise, SamplingError
from .training_record import TrainingTable


class GroupResult(Record):
    """Everything measured for one class group."""

    classes: list[int]
    size: int = Field(gt=0, description="samples the loss is averaged over")
    loss: float
    accuracy: float | None = None
    gradient_norm: float = Field(ge=0)
    objective_gradient_norm: float | None = Field(
        None,
        ge=0,
        description="of the training objective, with its weight decay; of the group of all samples only",
    )
    weight_norm: float = Field(ge=0)
    lambda_min: Extreme
    lambda_max: Extreme
    lowest: list[Extreme] = Field([], description="k smallest, ascending, where k > 1 was asked for")
    highest: list[Extreme] = Field([], description="k largest, descending, where k > 1 was asked for")
    negative_ratio: Estimate
    negative_mass: list[MassAtThreshold] = []
    negative_energy: Estimate | None = None
    saddle_index: list[IndexBound] = []
    trace: Estimate | None = None
    density: Density | None = None
    noise: OperatorNoise
    certificate: Certificate | None = None
    escape: Escape | None = None
    gauss_newton: GaussNewton | None = None
    sampling: SamplingError | None = None
    verdict: Verdict
    steps: list[int] = Field(description="Lanczos steps of each start")
    matvecs: int
    products: Literal["exact", "differences"] = Field(
        "exact", description="what all numbers rest on: exact Hessian-vector products, or differences of the gradient"
    )
    dtype: str | None = Field(None, description="of the products, where float32 was asked for and did not do for this group")
    warnings: list[str] = []


class Scheme(Record):
    """The family of class groups: name, how it was made, and its members."""

    name: FileName
    eta: int | None = None
    column: str | None = Field(None, description="the groups are values of this column, not classes")
    groups: dict[str, list[int]]
    sizes: dict[str, int]


class Choice(Record):
    """Something that changes the numbers and that the files do not settle: what was taken, and how to take something else."""

    name: str = Field(description="normalisation, weights, logits ...")
    value: str = Field(description="what was taken, in words")
    flag: str = Field(description="what sets it")
    guessed: bool = Field(True, description="taken without being told")

    def __str__(self) -> str:
        return f"{self.name}: {self.value} ({'guessed; ' if self.guessed else ''}{self.flag})"


class Provenance(Record):
    """Where a result comes from. Comparisons across different ``data_sha256`` are refused."""

    saddlescope: str
    git_commit: str | None = None
    python: str
    torch: str
    numpy: str
    platform: str
    processor: str | None = Field(None, description="its name and the instructions that torch uses; None in older results")
    device: str
    dtype: str
    threads: int
    seed: int
    engine: str = "saddlescope"
    deterministic: bool = False
    checkpoint: str
    checkpoint_sha256: str
    model: str
    parameters: int = Field(description="number of parameters the Hessian is taken over")
    params_pattern: str | None = None
    data: str
    data_sha256: str = Field(description="of the inputs and labels analysed, in order")
    index_sha256: str | None = Field(None, description="of the long-tail index array, where the side-car gives it")
    class_counts: list[int]
    loss: str
    training: TrainingTable = Field({}, description="the side-car's training record: study, run, optimizer, seed, epoch ...")
    settings: dict[str, Any] = {}
    subject: dict[str, Any] = Field({}, description="what the command line said of model, data and loss")
    choices: list[Choice] = Field([], description="what was guessed or told of all that changes the numbers")
    command: str | None = None
    created: str
    seconds: float | None = None


class CurvatureResult(Record):
    """One checkpoint, one scheme: ``curvature/<checkpoint stem>.<scheme>.json``."""

    kind: Literal["curvature"] = "curvature"
    schema_version: int = SCHEMA_VERSION
    scheme: Scheme
    groups: dict[str, GroupResult]
    additivity: float | None = Field(None, description="relative error of N H v = sum_g n_g H_g v, measured once")
    net_rates: list[NetRate] = Field([], description="of whole fields: does an optimizer leave here along any direction?")
    vectors_file: FileName | None = None
    warnings: list[str] = Field([], description="about all groups: loss or accuracy no better than guessing on training data")
    refused: dict[str, str] = Field({}, description="groups that were asked for and not measured -> why")
    provenance: Provenance

    def draw(self, folder: str | Path) -> list[Path]:
        """Draws the density, both ends and what else the result holds into ``folder`` (SVG and PNG); returns the pictures."""
        from saddlescope import load_factory

        with tempfile.TemporaryDirectory() as place:
            path = save(self, Path(place) / f"{Path(self.provenance.checkpoint).stem}.{self.scheme.name}.json")
            drawn: list[Path] = load_factory("saddlescope.figures.draw:draw_results")([path], Path(folder))
        return drawn

    def _repr_html_(self) -> str:
        """What a notebook shows: a row for each group."""
        rows = [("group", "samples", "lambda_min", "lambda_max", "verdict")]
        for name, group in self.groups.items():
            low, high = (_in_interval(end) for end in (group.lambda_min, group.lambda_max))
            rows.append((name, str(group.size), low, high, group.verdict.sentence))
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def _in_interval(end: Extreme) -> str:
    return f"{end.value:.4g} in [{', '.join(end_words(end.value, end.interval))}]"
