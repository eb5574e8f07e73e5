"""The stored schema: what an analysis writes and figures, tables and baselines read.

Every number is named as in the mathematics page of ``analysis/README.md``. Records are frozen, reject unknown fields and
refuse NaN and infinity, so a result that could not be computed is ``None`` (JSON ``null``), never a silent NaN.
This module imports no torch: a result computed on a GPU is read and redrawn on a laptop.
"""

from __future__ import annotations

import json
import os
import tempfile
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .rounding import end_words
from .training_record import TrainingTable

SCHEMA_VERSION = 1

#: ``(low, high)``; ``None`` means that nothing is known on that side.
Interval = tuple[float | None, float | None]
CurvatureAnswer = Literal["negative curvature", "none above tau", "undetermined"]


class ResultError(ValueError):
    """A stored file cannot be read as what it claims to be; the message names the file, the field and the fix."""


class Record(BaseModel):
    """Base of every stored record: frozen, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _inside(name: str) -> str:
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise ValueError(f"{name!r:.80} is no name of a file in this folder; it would lead elsewhere")
    return name


#: A name that becomes part of a path: of one file or folder inside the folder of the file that names it, never elsewhere.
FileName = Annotated[str, AfterValidator(_inside)]


class Estimate(Record):
    """A number with what is known about it.

    ``interval`` holds with probability at least ``confidence`` (1.0: deterministic). ``standard_error`` is over
    ``count`` probes, seeds or subsets; ``None`` where that notion does not apply.
    """

    value: float
    interval: Interval = (None, None)
    confidence: float = 1.0
    standard_error: float | None = None
    count: int | None = None


class Extreme(Record):
    """One end of the spectrum (or one of k eigenpairs at an end), from Rayleigh-Ritz.

    ``interval`` is the two-sided statement of Kuczynski and Wozniakowski (1992) with matvec noise added;
    ``residual_interval`` only says that *some* eigenvalue lies in it. Without convergence the one-sided
    Rayleigh-Ritz bound (``lambda_min <= value``, ``lambda_max >= value``) still holds up to ``noise``.
    """

    value: float
    residual: float = Field(ge=0)
    interval: Interval
    confidence: float
    residual_interval: tuple[float, float]
    converged: bool
    noise: float = Field(ge=0, description="measured matvec noise, in units of an eigenvalue")
    rayleigh_quotient: float | None = Field(None, description="v^T H v re-evaluated by a fresh matvec, float64 where asked")


class MassAtThreshold(Record):
    """Negative mass M(tau): the fraction of eigenvalues below ``-tau``; ``tau = relative * lambda_max``."""

    relative: float
    tau: float
    value: float = Field(ge=0, le=1)
    interval: tuple[float, float]
    confidence: float
    bracket: tuple[float, float] = Field(description="mean Chebyshev-Markov-Stieltjes bracket of the quadratures")
    standard_error: float | None = None


class IndexBound(Record):
    """At least ``at_least`` eigenvalues lie below ``-tau`` (Cauchy interlacing; needs no convergence)."""

    relative: float
    tau: float
    at_least: int = Field(ge=0)


class Probe(Record):
    """One Gauss quadrature of the spectral measure: ``weights`` are >= 0 and sum to 1."""

    seed: int
    nodes: list[float]
    weights: list[float]
    counted: list[float] | None = Field(
        None, description="weights in the density: every settled eigenvalue 1/n, the rest sampled; default: weights"
    )

    @property
    def density_weights(self) -> list[float]:
        """Weights of the nodes in the density of the eigenvalues: counted where they were, else sampled."""
        return self.weights if self.counted is None else self.counted


class Density(Record):
    """The spectral density as stored quadratures; broadening is a matter of the picture."""

    distribution: Literal["sphere", "rademacher", "exact"]
    probes: list[Probe]


class OperatorNoise(Record):
    """Measured, not assumed: how far the operator is from a fixed symmetric one (relative numbers)."""

    repeat: float = Field(description="||H u - H u|| / ||H u|| of two products of one vector")
    symmetry: float = Field(description="|u^T H v - v^T H u| / (||H u|| + ||H v||) * sqrt(n) for unit u, v")
    absolute: float = Field(description="floor of any claim of sign, in units of an eigenvalue")


class Certificate(Record):
    """A unit vector with a negative Rayleigh quotient: the proof that a group has negative curvature."""

    vector: str = Field(description="key in the vectors file beside the result")
    vectors_file: str
    vector_sha256: str
    rayleigh_quotient: float
    dtype: str = Field(description="precision of the re-evaluation")
    noise: float
    holds: bool = Field(description="rayleigh_quotient < -tau - noise")


class Multiplier(Record):
    """Quotient ``<v, perturbed gradient> / <v, g>``, as results of before there were escape rates hold it: read, never made.

    Its denominator vanishes where it matters, near a saddle: see :class:`EscapeRate`.
    """

    optimizer: str
    rho: float
    value: float | None
    measured: float | None = None


class EscapeRate(Record):
    """``-v^T DG(w) v`` of an optimizer's own field G: a displacement along v grows by ``lr`` times this a step.

    Above 0 the optimizer leaves along v, below 0 it comes back. By central differences over ``distance`` (in units of the
    weights); ``halved`` is the same over half of it. ``far_rate`` is the mean rate across ``far_distance``, about a step of
    training: where a network has kinks the two differ, and either holds for its distance only.
    """

    optimizer: str = Field(description="sgd, sam, imbsam, ssesam-1 (stage 1) or ssesam-2")
    radii: dict[str, float] = Field({}, description="part (all, head, tail) -> radius of its perturbation")
    rate: float
    halved: float
    distance: float = Field(gt=0)
    settled: bool = Field(description="rate and halved agree to 5 %")
    far_rate: float
    far_distance: float = Field(gt=0)


class NetRate(Record):
    """Minus the smallest eigenvalue of the symmetric part of ``DG(w)``: the largest escape rate along any direction.

    ``rate`` is proven as a lower bound by a unit vector (a Ritz value); ``interval`` is two-sided as an extreme's.
    """

    optimizer: str
    radii: dict[str, float] = {}
    rate: float
    interval: Interval
    confidence: float
    residual: float = Field(ge=0)
    converged: bool


class EscapeTest(Record):
    """L_g(w + s v) on both sides against ``loss + s <v, g> + s^2 lambda / 2``."""

    steps: list[float]
    loss: list[float]
    quadratic: list[float]


class Escape(Record):
    """Can a descent method leave along v? (v: unit eigenvector of the most negative eigenvalue found)."""

    gradient_along_v: float
    correlated_negative_curvature: float | None = Field(description="<v, g>^2 / ||g||^2, Daneshmand et al. 2018")
    multipliers: list[Multiplier] = Field([], description="of results from before there were rates")
    rates: list[EscapeRate] = Field([], description="of each optimizer's field along v")
    objective_curvature: float | None = Field(
        None, description="v^T H v of the training objective (all groups in their shares, and weight decay)"
    )
    weight_decay: float | None = Field(None, description="in rates and objective_curvature; as trained")
    test: EscapeTest | None = None


class Verdict(Record):
    """Two questions kept apart: is there negative curvature, and is the point stationary for this group?"""

    curvature: CurvatureAnswer
    stationary: bool | None = Field(description="displacement_ratio <= stationarity threshold; None without negative curvature")
    label: Literal["saddle", "negative curvature, not stationary", "no negative curvature above tau", "undetermined"]
    tau: float
    displacement: float | None = Field(description="s* = 2 ||grad|| / |lambda_min|")
    displacement_ratio: float | None = Field(description="s* / ||w||")
    threshold: float = 0.1
    more_steps: int | None = Field(None, description="Lanczos steps after which an undetermined answer would be decided")
    sentence: str


class GaussNewton(Record):
    """H = G + E: G is positive semidefinite, so negative curvature comes from E alone."""

    lambda_max: Extreme
    quotient_along_v: float | None = Field(description="v^T G v for the certificate's v; v^T E v = lambda_min - this")
    trace: Estimate | None = None


class SamplingError(Record):
    """What subsampling a group costs, from disjoint subsets of the size used."""

    population: int
    subset_size: int
    subsets: int
    lambda_min: Estimate
    lambda_max: Estimate
    negative_mass: list[Estimate] = []


class GroupResult(Record):
    """Everything measured for one class group."""

    classes: list[int]
    size: int = Field(gt=0, description="samples the loss is averaged over")
    loss: float
    accuracy: float | None = None
    gradient_norm: float = Field(ge=0)
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
    dtype: str | None = Field(None, description="of the products, where float32 was asked for and did not do for this group")
    warnings: list[str] = []


class Scheme(Record):
    """The family of class groups: name, how it was made, and its members."""

    name: FileName
    eta: int | None = None
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


class CriticalStep(Record):
    """Smallest ``eta > 0`` with ``L_g(w - eta d) > L_g(w)`` for an update d in the units of a training step.

    0 where the loss rises to first order already (``slope < 0``); None where it is not higher anywhere up to ``longest``.
    """

    update: str = Field(description="sgd, sam, imbsam, ssesam-1, ssesam-2; head: its part of a plain step; own: the group's")
    step: float | None = Field(ge=0)
    bracket: tuple[float, float | None] = Field(description="not higher at the first, higher at the second")
    slope: float = Field(description="<d, grad L_g>")
    norm: float = Field(gt=0, description="||d||")
    longest: float = Field(ge=0, description="largest eta tried: a step of 8 times the norm of the weights; 0: none was needed")

    @property
    def sharpness(self) -> float | None:
        """``2 / step``; None where there is no step, or where it is 0."""
        return 2 / self.step if self.step else None


class GroupSteps(Record):
    """Critical steps of one class group."""

    size: int = Field(gt=0)
    loss: float
    gradient_norm: float = Field(ge=0)
    steps: list[CriticalStep]


class StepResult(Record):
    """One checkpoint, one scheme: ``steps/<checkpoint stem>.<scheme>.critical-step.json``."""

    kind: Literal["critical-steps"] = "critical-steps"
    schema_version: int = SCHEMA_VERSION
    scheme: Scheme
    groups: dict[str, GroupSteps]
    weight_decay: float
    provenance: Provenance


class StartPoint(Record):
    """What was known of a group at the checkpoint that a run started from."""

    loss: float
    weight_norm: float
    lambda_min: Extreme
    verdict: Verdict


class CoursePoint(Record):
    """Where a run is after ``step`` steps, seen from the checkpoint that it started from."""

    step: int = Field(ge=1)
    checkpoint: str
    checkpoint_sha256: str
    along: dict[str, float] = Field(description="group -> <v, w - w0>, v its most negative eigenvector at the start (no sign)")
    moved: float = Field(ge=0, description="||w - w0||")


class Course(Record):
    """``course/<scheme>.json``: the way of a run that goes on from a checkpoint of another study."""

    kind: Literal["course"] = "course"
    schema_version: int = SCHEMA_VERSION
    scheme: Scheme
    started_from: dict[str, str]
    start: dict[str, StartPoint]
    vectors: dict[str, str] = Field(description="group -> SHA-256 of the eigenvector")
    points: list[CoursePoint]


class Direction(Record):
    """One axis of a slice. ``kind``: random, min-eigenvector, max-eigenvector, difference, pca ..."""

    kind: str
    normalisation: Literal["filter", "none"] = "none"
    group: str | None = Field(None, description="the group whose eigenvector this is")
    eigenvalue: float | None = None
    slope: dict[str, float] = Field({}, description="<d, grad L_g> for each group g at the centre")
    curvature: dict[str, float] = Field({}, description="d^T H_g d for each group g at the centre")
    norm: float
    seed: int | None = None
    explained_variance: float | None = None


class Slice(Record):
    """Group losses on a line (one axis) or plane (two axes) through a checkpoint.

    ``loss[group]`` has one row per ``axes[0]`` value; on a plane each row holds one value per ``axes[1]`` value.
    """

    kind: Literal["slice"] = "slice"
    schema_version: int = SCHEMA_VERSION
    directions: list[Direction]
    axes: list[list[float]]
    loss: dict[str, list[float | None] | list[list[float | None]]]
    accuracy: dict[str, list[float | None] | list[list[float | None]]] = {}
    lambda_min: dict[str, list[list[float | None]]] = {}
    lambda_max: dict[str, list[list[float | None]]] = {}
    path: list[list[float]] = Field([], description="training path: one point per checkpoint in the plane's coordinates")
    path_epochs: list[int] = []
    path_distance: list[float] = Field([], description="distance of each path point from the plane")
    scheme: Scheme
    provenance: Provenance


ControlData = Literal["fixed", "frozen", "redrawn"]


class ControlEntry(Record):
    """Ends of one class's spectrum in the augmentation control, under one treatment of the data."""

    label: int
    samples: int
    data: ControlData = Field(description="clean; augmented once and kept; augmented anew at every product")
    lambda_min: float = Field(description="lowest Ritz value; an eigenvalue of nothing where the data are redrawn")
    lambda_max: float
    residual_min: float
    rayleigh_min: float = Field(description="v^T H v of the lowest Ritz vector, from one more product")
    noise: float = Field(description="||H u - H u|| / ||H u|| of two products of one vector")
    refusal: str | None = Field(description="what the guard of every analysis says to this operator; None: let through")
    steps: int

    @property
    def ratio(self) -> float:
        """``|min(lambda_min, 0)| / lambda_max``; 0 where lambda_max is not positive."""
        return max(-self.lambda_min, 0.0) / self.lambda_max if self.lambda_max > 0 else 0.0


class ControlPanel(Record):
    """All classes of one model under the three treatments; ``convex``: no Hessian of it has a negative eigenvalue."""

    title: str
    convex: bool
    augmentation: str
    entries: list[ControlEntry]
    provenance: Provenance

    def of(self, data: ControlData) -> list[ControlEntry]:
        """The entries of one treatment, the largest class first."""
        return sorted((entry for entry in self.entries if entry.data == data), key=lambda e: (-e.samples, e.label))


class AugmentationControl(Record):
    """``augmentation_control.json``: what redrawn augmentation makes of a spectrum."""

    kind: Literal["augmentation-control"] = "augmentation-control"
    schema_version: int = SCHEMA_VERSION
    panels: list[ControlPanel]


R = TypeVar("R", bound=Record)
M = TypeVar("M", bound=BaseModel)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes ``text`` so that a reader sees the old file or the whole new one, never a part of it.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a result is as readable as any file
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save(record: Record, path: Path) -> Path:
    """Stores a record as JSON at ``path``, atomically; returns ``path``."""
    write_text_atomically(path, record.model_dump_json(indent=1) + "\n")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ResultError: missing, damaged, or not an object.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # the latter: thousands of nested lists
        raise ResultError(f"{path}: not readable as JSON ({error}); the file is damaged, make it again") from None
    if not isinstance(raw, dict):
        raise ResultError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def load(kind: type[R], path: Path) -> R:
    """Reads a record of type ``kind``.

    Raises:
        ResultError: missing or truncated file, another kind of file, a newer schema, or a field out of range.
    """
    raw = read_json(path)
    version = raw.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ResultError(f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}; update saddlescope to read it")
    return validated(kind, raw, path)


def validated(kind: type[M], raw: Any, where: Path | str) -> M:
    """What was read from ``where`` as a record of type ``kind``.

    Raises:
        ResultError: a field is missing, unknown, or out of range; names it.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ResultError(f"{where}: field '{field}': {first['msg']} (not a {kind.__name__} of this version?)") from None
