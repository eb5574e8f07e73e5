"""Group losses on lines and planes through a checkpoint.

The model stays in eval mode, so BatchNorm uses the statistics of the centre everywhere: the slices show the loss whose Hessian
is analysed. All groups are evaluated in one pass over the samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..hessian.elsewhere import shifted
from ..hessian.evaluation import group_means
from ..hessian.losses import BatchLoss, loss_of
from ..hessian.modules import copied, select_parameters
from ..hessian.operator import HessianOperator
from ..records.results import Scheme
from ..records.slices import Direction, Slice
from ..samples.groups import group_indices
from ..samples.provenance import Source, describe
from ..samples.samples import Samples
from .convexity import Convexity, Ends, EndsOfGroups
from .directions import Axis

#: called after each evaluated point
Progress = Callable[[int], None]


class LandscapeError(ValueError):
    """A slice cannot be computed as asked."""


def slice_loss(
    model: nn.Module,
    samples: Samples,
    scheme: Scheme,
    axes: Sequence[Axis],
    grids: Sequence[Sequence[float]],
    *,
    loss: BatchLoss | None = None,
    source: Source | None = None,
    path: tuple[list[list[float]], list[float], list[int]] | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    params: str | None = None,
    convexity: Convexity | None = None,
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Slice:
    """Losses and accuracies of every group at ``w + x d`` (or ``w + x d1 + y d2``), with slope and curvature at the centre.

    Args:
        model: copied; the copy's weights are moved.
        samples: as for the curvature.
        scheme: the groups.
        axes: one or two directions ``[n]``.
        grids: for each axis the positions, in units of its vector.
        loss: as in :func:`~saddlescope.analysis.measures.analyze.analyze`.
        source: names for the provenance.
        path: training path to store: coordinates, distances from the plane, epochs.
        device: where.
        dtype: precision of the weights.
        params: glob pattern of the parameters that the axes run over.
        convexity: on a plane, also measure both ends of each group's Hessian at every cell.
        settings: choices of the caller, for the provenance.
        progress: called after each point.

    Raises:
        LandscapeError: axes that do not fit the parameters, or more than two; a convexity map on a line.
        GroupError: a convexity map of a group that is not there.
        OperatorError: gradients or products at the centre are not derivatives of the loss.
    """
    began = time.monotonic()
    if len(axes) not in (1, 2) or len(axes) != len(grids):
        raise LandscapeError(f"a slice has one or two axes, each with its grid; got {len(axes)} axes and {len(grids)} grids")
    if convexity is not None and len(axes) != 2:
        raise LandscapeError("a convexity map needs a plane, such as tail-plane; this slice is a line")
    where = torch.device(device)
    moved = copied(model).to(where, dtype)
    output = loss_of(loss, samples)
    operator = HessianOperator(moved, samples, output, params=params, accelerate=False)
    wrong = [len(axis.vector) for axis in axes if len(axis.vector) != operator.size]
    if wrong:
        raise LandscapeError(f"the axis has {wrong[0]} entries, the parameters {operator.size}: another model or --params")
    indices = group_indices(scheme, samples)
    directions = _directions(axes, model, samples, scheme, indices, loss, where, params)  # refuses before the points are paid
    spectra = EndsOfGroups(moved, samples, indices, output, convexity, params=params) if convexity is not None else None
    positions = [(x,) for x in grids[0]] if len(grids) == 1 else [(x, y) for x in grids[0] for y in grids[1]]
    table: list[tuple[dict[str, float | None], dict[str, float | None]]] = []
    ends: list[dict[str, Ends]] = []
    for position in positions:
        direction = sum((x * axis.vector for x, axis in zip(position, axes, strict=True)), torch.zeros(operator.size))
        with shifted(operator, direction, 1.0):
            table.append(group_means(moved, samples, indices, output, device=where, dtype=dtype))
            if spectra is not None:
                ends.append(spectra.measure())
        if progress is not None:
            progress(1)
    shape = [len(grid) for grid in grids]
    return Slice(
        directions=directions,
        axes=[list(grid) for grid in grids],
        loss={name: _shaped([row[0][name] for row in table], shape) for name in indices},
        accuracy={name: _shaped([row[1][name] for row in table], shape) for name in indices if table[0][1][name] is not None},
        lambda_min={name: _map([row[name][0] for row in ends], shape) for name in (spectra.operators if spectra else ())},
        lambda_max={name: _map([row[name][1] for row in ends], shape) for name in (spectra.operators if spectra else ())},
        path=path[0] if path else [],
        path_distance=path[1] if path else [],
        path_epochs=path[2] if path else [],
        scheme=scheme,
        provenance=describe(
            source or Source(),
            model,
            samples,
            parameters=operator.size,
            settings={"params": params, **({"convexity": asdict(convexity)} if convexity else {}), **(settings or {})},
            device=where,
            dtype=dtype,
            seconds=time.monotonic() - began,
        ),
    )


def _shaped(values: list[float | None], shape: list[int]) -> list[float | None] | list[list[float | None]]:
    if len(shape) == 1:
        return values
    return _map(values, shape)


def _map(values: list[float | None], shape: list[int]) -> list[list[float | None]]:
    """Row by row ``[axis 0, axis 1]``."""
    return [values[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])]


def _directions(
    axes: Sequence[Axis],
    model: nn.Module,
    samples: Samples,
    scheme: Scheme,
    indices: dict[str, np.ndarray],
    loss: BatchLoss | None,
    device: torch.device,
    params: str | None,
) -> list[Direction]:
    """The axes with every group's slope ``<d, g>`` and curvature ``d^T H d`` at the centre, in float64."""
    precise = copied(model).to(device, torch.float64)
    vectors = torch.stack([axis.vector.double() for axis in axes], dim=1).to(device)
    slopes, curvatures = {}, {}
    for name in scheme.groups:
        operator = HessianOperator(precise, samples.subset(indices[name]), loss, params=params, memory=1)
        operator.look()
        operator.look({str(axis): vector for axis, vector in enumerate(vectors.T)})
        slopes[name] = (operator.loss_and_gradient()[1] @ vectors).tolist()
        curvatures[name] = (operator.matmat(vectors) * vectors).sum(0).tolist()
    return [
        Direction(
            kind=axis.kind,
            normalisation="filter" if axis.normalisation == "filter" else "none",
            group=axis.group,
            eigenvalue=curvatures[axis.group][i] if axis.group in curvatures and axis.kind.endswith("eigenvector") else None,
            slope={name: values[i] for name, values in slopes.items()},
            curvature={name: values[i] for name, values in curvatures.items()},
            norm=float(axis.vector.norm()),
            seed=axis.seed,
            explained_variance=axis.explained_variance,
        )
        for i, axis in enumerate(axes)
    ]


def flat_weights(model: nn.Module, params: str | None = None) -> Tensor:
    """The chosen parameters as one float64 vector ``[n]`` on the CPU."""
    return torch.cat([p.detach().cpu().double().reshape(-1) for p in select_parameters(model, params)[1]])
