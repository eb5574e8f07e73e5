"""What a spectrum is stored as: ends, negative masses, index bounds, quadratures, the operator's noise.

Numbers are named as in ``analysis/README.md``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Estimate, Interval, Record


class Extreme(Record):
    """One end of the spectrum (or one of k eigenpairs at an end), from Rayleigh-Ritz.

    ``interval`` is the two-sided statement of Kuczynski and Wozniakowski (1992) with matvec noise added;
    ``residual_interval`` only says that *some* eigenvalue lies in it. Without convergence the one-sided
    Rayleigh-Ritz bound (``lambda_min <= value``, ``lambda_max >= value``) still holds up to ``noise``.

    A small residual proves that an eigenvalue is near, not that it is the outermost one. Where only the ends are measured, an
    end that is ``settled`` is ``converged`` only if ``doubt`` is small, too.
    """

    value: float
    residual: float = Field(ge=0)
    interval: Interval
    confidence: float
    residual_interval: tuple[float, float]
    converged: bool
    noise: float = Field(ge=0, description="measured matvec noise, in units of an eigenvalue")
    rayleigh_quotient: float | None = Field(None, description="v^T H v re-evaluated by a fresh matvec, float64 where asked")
    settled: bool | None = Field(None, description="an eigenvalue is within about rtol (goals ends, verdict)")
    doubt: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability of a start from which an eigenvalue more than 1 % beyond stays hidden (goals ends, verdict)",
    )

    @property
    def state(self) -> Literal["converged", "not confirmed", "bound"]:
        """What ``value`` is: this end; an eigenvalue, and perhaps not the outermost; or only a bound of this end."""
        return "converged" if self.converged else "not confirmed" if self.settled else "bound"


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
