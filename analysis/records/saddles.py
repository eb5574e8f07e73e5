"""What is stored of a saddle: the proof of negative curvature, the verdict, and how one leaves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Interval, Record

CurvatureAnswer = Literal["negative curvature", "none above tau", "undetermined"]


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
