"""Re-checks the claims of a stored result from the checkpoint and the stored vectors, by two independent formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..checkpoints.analysis_inputs import open_checkpoint
from ..checkpoints.checkpoint_flags import Given, given_again
from ..hessian.difference_products import DifferenceOperator
from ..hessian.differences import AnotherFunctionError, Look
from ..hessian.distributed import World
from ..hessian.elsewhere import shifted
from ..hessian.modules import copied
from ..hessian.operator import HessianOperator
from ..hessian.sharded_differences import ShardedDifferenceOperator
from ..hessian.sharded_models import is_sharded, shares_samples
from ..hessian.subject import Subject
from ..krylov.guards import RandomOperatorError
from ..krylov.sliced_files import StoredVectors
from ..krylov.space import space_of
from ..records.base import ResultError, load
from ..records.results import CurvatureResult
from ..samples.groups import group_indices
from ..samples.samples import Samples


class VerificationError(ValueError):
    """A result cannot be verified: something that it rests on is missing or has changed."""


@dataclass(frozen=True)
class Check:
    """One certificate, recomputed.

    Attributes:
        group: name.
        stored: Rayleigh quotient in the result.
        product: ``v^T H v`` by a Hessian-vector product in float64, taken as the result's are (``GroupResult.products``).
        difference: the same by central differences of the gradient in float64, which takes no second derivative.
        threshold: ``-tau - noise``, which both must be below.
        holds: they are, and the product is what is stored.
    """

    group: str
    stored: float
    product: float
    difference: float
    threshold: float
    holds: bool


def verify(
    result_path: Path, *, checkpoint: Path | None = None, given: Given | None = None, world: World | None = None
) -> list[Check]:
    """Recomputes every certificate of a result, and holds the products with all its vectors against differences.

    Args:
        result_path: ``curvature/<stem>.<scheme>.json``.
        checkpoint: where the weights are; default: found beside the result.
        given: what the command line says; what it leaves open is taken from the result, if that may name it.
        world: the processes that share the samples, as many as there are now; every one of them makes this call.

    Returns:
        One check per certificate; empty where the result claims no negative curvature.

    Raises:
        VerificationError: other weights, data or vectors than the result was measured on, or products with its vectors that
            are not derivatives of the loss.
        TrustError: the result names code, or a file, that ``given`` does not.
    """
    result = load(CurvatureResult, result_path)
    source = result.provenance
    where = checkpoint or _find_checkpoint(result_path, source.checkpoint)
    subject = open_checkpoint(where, given_again(source.subject, given or Given(), result_path))
    if subject.source.checkpoint_sha256 != source.checkpoint_sha256:
        raise VerificationError(f"{where}: not the weights that {result_path.name} was measured on (SHA-256 differs)")
    if subject.samples.sha256() != source.data_sha256:
        raise VerificationError(f"{result_path}: the data are not the ones it was measured on (SHA-256 differs)")
    claims = {name: group.certificate for name, group in result.groups.items() if group.certificate is not None}
    if result.vectors_file is None and not claims:
        return []
    vectors_path = result_path.parent / (result.vectors_file or "")
    if not vectors_path.is_file():
        raise VerificationError(
            f"{result_path}: its eigenvectors {vectors_path.name} are missing; analyze the checkpoint again"
        )
    try:
        vectors = StoredVectors(vectors_path)
    except SafetensorError as error:
        raise VerificationError(f"{vectors_path}: damaged ({error}); analyze the checkpoint again") from None
    indices, world = group_indices(result.scheme, subject.samples), world or World()
    spread = is_sharded(subject.model) and all(group.products == "differences" for group in result.groups.values())
    for name in () if spread else result.groups:  # an operator of a spread model holds its gradient against the loss itself
        part, group = subject.samples.subset(indices[name]), result.groups[name]
        # Differences may be those of a kernel that knows no float64.
        precise = "float64" if group.products == "exact" else group.dtype or source.dtype
        kind = partial(_KINDS[group.products], copied(subject.model).to(getattr(torch, precise)))
        _look(kind, subject, part, vectors, name, source.params_pattern, f"{result_path}: group {name}")
    checks = []
    for name, claim in claims.items():
        if claim.vector not in vectors or vectors.sha256(claim.vector) != claim.vector_sha256:
            raise VerificationError(
                f"{vectors_path}: '{claim.vector}' is not the vector that the result names (SHA-256 differs)"
            )
        rows = indices[name]
        own = not spread or shares_samples(subject.model)
        part = subject.samples.subset(world.share(rows) if own else rows)
        if result.groups[name].sampling is not None:
            raise VerificationError(f"{result_path}: group {name} was subsampled; analyze it whole for a certificate")
        dtype = getattr(torch, claim.dtype)
        reduce = world.reduce if world.shares(rows) and own else None
        operator: HessianOperator
        if spread:
            operator = ShardedDifferenceOperator(subject.model, part, subject.loss, params=source.params_pattern, reduce=reduce)
            product, difference = _quotients(operator, vectors.part(claim.vector, space_of(operator).ranges))
        else:
            kind = partial(_KINDS[result.groups[name].products], params=source.params_pattern, reduce=reduce)
            model = copied(subject.model).to(dtype)
            operator = kind(model, part, subject.loss, accelerate=False, memory=1)
            product, difference = _quotients(operator, vectors[claim.vector])
        # a model or loss that was edited may curve downwards, too, but that is not what the result says
        same = abs(product - claim.rayleigh_quotient) <= 1e-4 * abs(claim.rayleigh_quotient) + 10 * claim.noise
        threshold = -result.groups[name].verdict.tau - claim.noise
        checks.append(
            Check(name, claim.rayleigh_quotient, product, difference, threshold, same and max(product, difference) < threshold)
        )
    return checks


#: what the products of a result are taken with
_KINDS: Mapping[str, type[HessianOperator]] = {"exact": HessianOperator, "differences": DifferenceOperator}


def _look(
    kind: Callable[..., HessianOperator],
    subject: Subject,
    samples: Samples,
    vectors: Mapping[str, Tensor],
    group: str,
    params: str | None,
    where: str,
) -> None:
    """Holds the products with a group's vectors against differences, as an analysis does (``differences.Look``), one by one."""
    look = Look(kind(samples, subject.loss, params=params, memory=1))
    try:
        look()
        for key in vectors:
            if key.rpartition("/")[0] == group:
                look({key.rpartition("/")[2]: vectors[key]})
    except (AnotherFunctionError, RandomOperatorError) as error:
        raise VerificationError(f"{where}: {error}") from None


def _quotients(operator: HessianOperator, vector: Tensor) -> tuple[float, float]:
    space, v = space_of(operator), vector.double()
    v = v / space.norm(v)
    product = space.dot(operator.matvec(v), v)
    if operator.dtype != torch.float64:  # steps so small are below its rounding
        return product, product
    quotients = []
    # Tiny steps, so that no ReLU switches on the way: across a kink the difference measures the kink, not the Hessian. One of
    # three may still cross one; the median does not care.
    for h in (1e-7, 1e-8, 1e-9):
        slopes = []
        for side in (h, -h):
            with shifted(operator, v, side):
                slopes.append(space.dot(operator.loss_and_gradient()[1], v))
        quotients.append((slopes[0] - slopes[1]) / (2 * h))
    return product, sorted(quotients)[1]


def _find_checkpoint(result_path: Path, name: str) -> Path:
    if Path(name).name != name:
        raise ResultError(f"{result_path}: its checkpoint {name!r:.80} is no file beside it; say where with --checkpoint")
    run = result_path.resolve().parent.parent
    for place in (run / name, run / "checkpoints" / name, result_path.parent / name):
        if place.exists():
            return place
    raise ResultError(f"{result_path}: its checkpoint {name} is not beside it; say where with --checkpoint")
