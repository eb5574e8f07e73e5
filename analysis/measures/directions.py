"""Directions to slice the loss along: filter-normalised random, eigenvectors, the plane of the training path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class DirectionError(ValueError):
    """A direction cannot be made; the message says what is missing."""


@dataclass(frozen=True)
class Axis:
    """A direction in weight space.

    Attributes:
        vector: ``[n]``, in the flat order of the parameters.
        kind: ``random``, ``min-eigenvector``, ``max-eigenvector`` or ``pca``.
        normalisation: ``filter`` or ``none``.
        group: whose eigenvector.
        seed: of a random direction.
        explained_variance: share of the training path's variance along it.
    """

    vector: Tensor
    kind: str
    normalisation: str = "none"
    group: str | None = None
    seed: int | None = None
    explained_variance: float | None = None


def random_axis(parameters: Sequence[nn.Parameter], seed: int) -> Axis:
    """A filter-normalised random direction (Li et al., NeurIPS 2018, section 4).

    Gaussian, each filter (slice along the first dimension) rescaled to the norm of the weights' filter; biases and BatchNorm
    parameters (one dimension) are left in place, as in the authors' ``ignore='biasbn'``.

    Args:
        parameters: in the flat order.
        seed: of the CPU generator, so that the direction does not depend on the device.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for p in parameters:
        draw = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if p.dim() <= 1:
            parts.append(torch.zeros(p.numel(), dtype=torch.float64))
            continue
        filters, weights = draw.reshape(len(p), -1), p.detach().cpu().double().reshape(len(p), -1)
        norms = filters.norm(dim=1, keepdim=True)
        parts.append((filters * weights.norm(dim=1, keepdim=True) / norms).reshape(-1))
    return Axis(torch.cat(parts), "random", "filter", seed=seed)


def orthogonal_to(axis: Axis, other: Axis) -> Axis:
    """``axis`` without its component along ``other``: two axes of a plane must not lean."""
    along = torch.dot(axis.vector, other.vector) / torch.dot(other.vector, other.vector)
    return Axis(axis.vector - along * other.vector, axis.kind, axis.normalisation, axis.group, axis.seed)


def eigen_axis(vectors: Mapping[str, Tensor], group: str, end: str) -> Axis:
    """The unit eigenvector that an analysis stored for a group.

    Args:
        vectors: content of the vectors file.
        group: the group.
        end: ``min`` or ``max``.

    Raises:
        DirectionError: it was not stored.
    """
    key = f"{group}/{end}"
    if key not in vectors:
        more = "; analyze with keep_vectors = 'both' (goal verdict stores lambda_min's alone)" if end == "max" else ""
        raise DirectionError(
            f"no eigenvector '{key}' beside the curvature result; stored are {', '.join(sorted(vectors))}{more}"
        )
    return Axis(vectors[key].double(), f"{end}-eigenvector", group=group)


def path_axes(centre: Tensor, points: Sequence[Tensor]) -> tuple[Axis, Axis]:
    """The two leading principal directions of the training path, seen from its end (Li et al. 2018, section 7).

    Args:
        centre: final weights ``[n]``.
        points: earlier weights, each ``[n]``; two or more.

    Returns:
        Orthonormal axes with the share of variance that each explains.

    Raises:
        DirectionError: fewer than two earlier checkpoints.
    """
    if len(points) < 2:
        raise DirectionError("the plane of the training path needs two checkpoints or more along training (checkpoint_every)")
    moves = torch.stack([point.double() - centre.double() for point in points])
    _, singular, rows = torch.linalg.svd(moves, full_matrices=False)
    shares = (singular**2 / (singular**2).sum()).tolist()
    first, second = (Axis(rows[i], "pca", explained_variance=shares[i]) for i in range(2))
    return first, second


def project(points: Sequence[Tensor], centre: Tensor, axes: Sequence[Axis]) -> tuple[list[list[float]], list[float]]:
    """Coordinates of points in the plane of orthogonal axes, and their distances from it.

    Args:
        points: each ``[n]``.
        centre: origin ``[n]``.
        axes: orthogonal; coordinates are in units of each axis' length.
    """
    coordinates, distances = [], []
    for point in points:
        move = point.double() - centre.double()
        row = [float(torch.dot(move, axis.vector) / torch.dot(axis.vector, axis.vector)) for axis in axes]
        inside = sum((x * axis.vector for x, axis in zip(row, axes, strict=True)), torch.zeros_like(move))
        coordinates.append(row)
        distances.append(float((move - inside).norm()))
    return coordinates, distances
