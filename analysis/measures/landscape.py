"""Group losses on lines and planes through a checkpoint.

The model stays in eval mode, so BatchNorm uses the statistics of the centre everywhere: the slices show the loss whose Hessian
is analysed. All groups are evaluated in one pass over the samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..hessian.differences import AnotherFunctionError, Look
from ..hessian.elsewhere import shifted
from ..hessian.evaluation import group_means
from ..hessian.losses import BatchLoss, loss_of
from ..hessian.modules import copied, select_parameters
from ..hessian.operator import HessianOperator
from ..krylov.linear_operator import OperatorError
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
    """One slice of a :class:`Landscape`; arguments and errors as there."""
    around = Landscape(model, samples, scheme, loss=loss, source=source, device=device, dtype=dtype, params=params)
    return around.slice(axes, grids, path=path, convexity=convexity, settings=settings, progress=progress)


class Landscape:
    """The group losses around one model. What its slices have in common is done once, when the first of them needs it.

    Args:
        model: copied; the copy's weights are moved.
        samples: as for the curvature.
        scheme: the groups.
        loss: as in :func:`~saddlescope.analysis.measures.analyze.analyze`.
        source: names for the provenance.
        device: where.
        dtype: precision of the weights.
        params: glob pattern of the parameters that the axes run over.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        scheme: Scheme,
        *,
        loss: BatchLoss | None = None,
        source: Source | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        params: str | None = None,
    ) -> None:
        self._model, self._samples, self._scheme = model, samples, scheme
        self._source, self._params = source or Source(), params
        self._loss = loss_of(loss, samples)
        self._indices = group_indices(scheme, samples)
        moved = copied(model).to(torch.device(device), dtype)
        self._operator = HessianOperator(moved, samples, self._loss, params=params, accelerate=False)

    def slice(
        self,
        axes: Sequence[Axis],
        grids: Sequence[Sequence[float]],
        *,
        path: tuple[list[list[float]], list[float], list[int]] | None = None,
        convexity: Convexity | None = None,
        settings: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Slice:
        """Losses and accuracies of every group at ``w + x d`` (or ``w + x d1 + y d2``), with slope and curvature at the centre.

        Args:
            axes: one or two directions ``[n]``.
            grids: for each axis the positions, in units of its vector.
            path: training path to store: coordinates, distances from the plane, epochs.
            convexity: on a plane, also measure both ends of each group's Hessian at every cell.
            settings: choices of the caller, for the provenance.
            progress: called after each point.

        Raises:
            LandscapeError: axes that do not fit the parameters, or more than two; a convexity map on a line.
            GroupError: a convexity map of a group that is not there.
            OperatorError: gradients or products at the centre are not derivatives of the loss.
        """
        began = time.monotonic()
        operator, indices, samples = self._operator, self._indices, self._samples
        if len(axes) not in (1, 2) or len(axes) != len(grids):
            raise LandscapeError(
                f"a slice has one or two axes, each with its grid; got {len(axes)} axes and {len(grids)} grids"
            )
        if convexity is not None and len(axes) != 2:
            raise LandscapeError("a convexity map needs a plane, such as tail-plane; this slice is a line")
        wrong = [len(axis.vector) for axis in axes if len(axis.vector) != operator.size]
        if wrong:
            raise LandscapeError(f"the axis has {wrong[0]} entries, the parameters {operator.size}: another model or --params")
        directions = self._directions(axes)  # refuses before the points are paid
        spectra = None
        if convexity is not None:
            spectra = EndsOfGroups(operator.model, samples, indices, self._loss, convexity, params=self._params)
        positions = [(x,) for x in grids[0]] if len(grids) == 1 else [(x, y) for x in grids[0] for y in grids[1]]
        vectors = [axis.vector.double() for axis in axes]
        table: list[tuple[dict[str, float | None], dict[str, float | None]]] = []
        ends: list[dict[str, Ends]] = []
        for position in positions:
            direction = position[0] * vectors[0]
            for x, vector in zip(position[1:], vectors[1:], strict=True):
                direction.add_(x * vector)
            with shifted(operator, direction, 1.0):
                table.append(
                    group_means(operator.model, samples, indices, self._loss, device=operator.device, dtype=operator.dtype)
                )
                if spectra is not None:
                    ends.append(spectra.measure())
            if progress is not None:
                progress(1)
        shape, mapped = [len(grid) for grid in grids], spectra.operators if spectra else ()
        return Slice(
            directions=directions,
            axes=[list(grid) for grid in grids],
            loss={name: _shaped([row[0][name] for row in table], shape) for name in indices},
            accuracy={
                name: _shaped([row[1][name] for row in table], shape) for name in indices if table[0][1][name] is not None
            },
            lambda_min={name: _map([row[name][0] for row in ends], shape) for name in mapped},
            lambda_max={name: _map([row[name][1] for row in ends], shape) for name in mapped},
            path=path[0] if path else [],
            path_distance=path[1] if path else [],
            path_epochs=path[2] if path else [],
            scheme=self._scheme,
            provenance=describe(
                self._source,
                self._model,
                samples,
                parameters=operator.size,
                settings={
                    "params": self._params,
                    **({"convexity": asdict(convexity)} if convexity else {}),
                    **(settings or {}),
                },
                device=operator.device,
                dtype=operator.dtype,
                seconds=time.monotonic() - began,
            ),
        )

    @cached_property
    def _centre(self) -> dict[str, tuple[HessianOperator, Look]]:
        """Each group in float64, looked at; no graph is kept, and no vector, since there may be many groups."""
        precise = copied(self._model).to(self._operator.device)
        whole = HessianOperator(precise, self._samples, self._loss, params=self._params, memory=1).in_float64()
        found = {}
        for name in self._scheme.groups:
            operator = whole.over(self._samples.subset(self._indices[name]))
            found[name] = operator, Look(operator)
            _held(found[name][1])
        return found

    def _directions(self, axes: Sequence[Axis]) -> list[Direction]:
        """The axes with every group's slope ``<d, g>`` and curvature ``d^T H d`` at the centre, in float64."""
        vectors = torch.stack([axis.vector.double() for axis in axes], dim=1).to(self._operator.device)
        slopes, curvatures = {}, {}
        for name, (operator, look) in self._centre.items():
            _held(look, {str(axis): vector for axis, vector in enumerate(vectors.T)})
            slopes[name] = (operator.loss_and_gradient()[1] @ vectors).tolist()
            curvatures[name] = (operator.matmat(vectors) * vectors).sum(0).tolist()
        return [
            Direction(
                kind=axis.kind,
                normalisation="filter" if axis.normalisation == "filter" else "none",
                group=axis.group,
                eigenvalue=curvatures[axis.group][i]
                if axis.group in curvatures and axis.kind.endswith("eigenvector")
                else None,
                slope={name: values[i] for name, values in slopes.items()},
                curvature={name: values[i] for name, values in curvatures.items()},
                norm=float(axis.vector.norm()),
                seed=axis.seed,
                explained_variance=axis.explained_variance,
            )
            for i, axis in enumerate(axes)
        ]


def _held(look: Look, vectors: dict[str, Tensor] | None = None) -> None:
    """Returns if the derivatives are those of the loss, or cannot be held against differences of it."""
    try:
        look(vectors)
    except AnotherFunctionError:
        raise
    except OperatorError:  # said by whoever takes a gradient or a product at these weights
        return


def _shaped(values: list[float | None], shape: list[int]) -> list[float | None] | list[list[float | None]]:
    if len(shape) == 1:
        return values
    return _map(values, shape)


def _map(values: list[float | None], shape: list[int]) -> list[list[float | None]]:
    """Row by row ``[axis 0, axis 1]``."""
    return [values[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])]


def flat_weights(model: nn.Module, params: str | None = None) -> Tensor:
    """The chosen parameters as one float64 vector ``[n]`` on the CPU."""
    return torch.cat([p.detach().cpu().double().reshape(-1) for p in select_parameters(model, params)[1]])
