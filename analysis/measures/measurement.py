"""What the groups of one analysis share: the subject, the question, the processes, and what is kept from group to group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..hessian.difference_products import DifferenceOperator
from ..hessian.differences import AnotherHessianError, Look
from ..hessian.distributed import World
from ..hessian.evaluation import PerSample, per_sample
from ..hessian.operator import HessianOperator, Reduce
from ..hessian.sharded_differences import ShardedDifferenceOperator
from ..hessian.sharded_models import is_sharded, reshard, shares_samples
from ..hessian.sliced import SlicedOperator
from ..hessian.subject import Subject
from ..hessian.turns import turn
from ..hessian.working_memory import fit_budget
from ..krylov.guards import RandomOperatorError
from ..krylov.lanczos import random_start
from ..krylov.linear_operator import LinearOperator, NoSecondDerivativeError, OperatorError
from ..krylov.sliced_files import INDEX
from ..krylov.space import Space, space_of
from ..records.results import GroupResult, Scheme
from ..records.saddles import NetRate
from ..records.settings import AnalysisSettings
from ..samples.groups import asked_for, group_indices, is_partition
from ..samples.samples import Samples
from .objective import Objective
from .subsampling import disjoint_subsets

#: Called with (group, Lanczos steps or products done since the last call).
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Kept:
    """What an analysis finds from earlier ones and leaves for later ones, besides its result; fields as in ``analyze``.

    Attributes:
        cache: folder of this very question, in which Lanczos starts are kept.
    """

    vectors: Path | None = None
    cache: Path | None = None
    warm: MutableMapping[str, Tensor] | None = None


class Measurement:
    """The parts that the groups of one analysis share.

    Args:
        subject: its model is this analysis' own, where and as precise as it is to be.
        settings: what is asked.
        scheme: of which groups.
        world: the processes that share the work.
        parts: as in ``analyze``.
        kept: files and vectors.
        progress: called after each step.

    Attributes:
        indices: samples of each group, or those that stand for it.
        names: the groups that are measured.
        vectors: eigenvectors to be stored, by ``group/end``, or slices of them.
        by_differences: products are differences of the gradient; once a group needs them, so do all after it.
        warnings: about all groups.
        ends: both ends' for a later analysis, on the CPU, where one is to begin with them.
        parameters: of the Hessian, once one was made.
        space: of its vectors, likewise.
    """

    def __init__(
        self,
        subject: Subject,
        settings: AnalysisSettings,
        scheme: Scheme,
        world: World,
        parts: Mapping[str, Sequence[np.ndarray]] | None,
        kept: Kept,
        progress: Progress | None,
    ) -> None:
        self.subject, self.settings, self.scheme, self.world = subject, settings, scheme, world
        self.parts, self.kept, self.progress = parts, kept, progress
        samples = subject.samples
        self.indices = group_indices(scheme, samples) if parts is None else {name: parts[name][0] for name in parts}
        self.names = asked_for(scheme, settings.only)
        self.vectors: dict[str, Tensor] = {}
        self.ends: dict[str, Tensor] = {}
        self.warnings: list[str] = []
        self.parameters, self.space = 0, Space(0)
        self.objective = Objective(samples, settings, subject.source, self.shared, self.names)
        # One common vector through every group, for additivity, where the groups that are measured add up to the whole.
        self._parts = [name for name in scheme.groups if name != "all"]
        self._adds_up = is_partition(scheme, samples) and set(self._parts) <= set(self.names)
        self._products: dict[str, tuple[int, Tensor, str]] = {}
        self.by_differences = settings.products == "differences"
        self._spaces: dict[str, Space] = {}

    def operator(self, indices: np.ndarray, memory: int | None = None) -> HessianOperator:
        """The Hessian over some of the samples; ``memory``: for its graphs, where the settings' budget is not its alone."""
        settings = self.settings
        samples, reduce = self.shared(indices)
        kind: type[HessianOperator] = DifferenceOperator if self.by_differences else HessianOperator
        kind = ShardedDifferenceOperator if self.sharded else kind
        operator = kind(
            self.subject.model,
            samples,
            self.subject.loss,
            params=settings.params,
            micro_batch=settings.micro_batch,
            memory=memory if memory is not None else settings.memory,
            # Of a vector that is spread, a part is here; those of a sharded model are parts already.
            vectors=-(-(settings.steps + 1) // (1 if self.sharded else self.world.slices)),
            reduce=reduce,
        )
        # By differences no graph is kept, and that of one gradient is half as large.
        chosen = memory is not None or settings.micro_batch is not None or self.by_differences or self.sharded
        if settings.memory is not None and not chosen:
            fit_budget(operator, settings.memory)
        return operator

    def shared(self, indices: np.ndarray) -> tuple[Samples, Reduce | None]:
        """This process' share of some samples, and how it adds up with the others'."""
        if self.sharded and not shares_samples(self.subject.model):
            return self.subject.samples.subset(indices), None
        mine = self.subject.samples.subset(self.world.share(indices))
        return mine, self.world.reduce if self.world.shares(indices) else None

    def subsets(self, name: str) -> tuple[list[np.ndarray], int]:
        """The samples that a group is measured on, further sets of as many for the sampling error, and the whole group's size.

        The first set is the group itself where it is measured whole.
        """
        indices, size = self.indices[name], self.settings.subsample
        if self.parts is not None:
            return list(self.parts[name]), self.scheme.sizes[name]
        if size is not None and size < len(indices):
            return disjoint_subsets(indices, size, self.settings.seed), len(indices)
        return [indices], len(indices)

    def add_product(self, name: str, operator: HessianOperator) -> None:
        """Takes the common vector through a group that was measured whole, where the groups add up."""
        if self._adds_up:
            self._products[name], self._spaces[name] = self._common_product(operator), space_of(operator)

    @cached_property
    def sharded(self) -> bool:
        """Whether the model is spread over the processes, and measured as it lies."""
        return is_sharded(self.subject.model)

    @property
    def vectors_file(self) -> str | None:
        """Name of the file that a result names for its eigenvectors."""
        path = self.kept.vectors
        if path is None:
            return None
        return path.name if self.world.slices == 1 and not self.sharded else path.name + INDEX

    def spread(self, operator: HessianOperator) -> LinearOperator:
        """The operator with its vectors as they are spread over the processes."""
        return operator if self.world.slices == 1 else SlicedOperator(operator, self.world)

    def slice_of(self, vector: Tensor) -> Tensor:
        """What this process keeps of a whole vector."""
        return vector if self.world.slices == 1 else self.world.slice_of(vector)

    def turn(self, judge: HessianOperator) -> AbstractContextManager[None]:
        """As :func:`~saddlescope.analysis.hessian.turns.turn`; a model that is spread has parts of everything, and no turns."""
        return nullcontext() if self.world.size == 1 or self.sharded else turn(self.world, judge)

    def looked_at(self, look: Look, judge: HessianOperator, vectors: Mapping[str, Tensor] | None = None) -> list[str]:
        """Holds derivatives against differences, in each process on samples of its own; none goes on where one cannot."""
        if self.world.size == 1:
            return look(vectors)
        said, trouble = list[str](), None
        with self.turn(judge):
            try:
                said = look(vectors)
            except (OperatorError, RandomOperatorError) as error:
                trouble = isinstance(error, NoSecondDerivativeError | AnotherHessianError), str(error)
        troubles = [one for one in self.world.everyone(trouble) if one is not None]
        if troubles:
            kind = AnotherHessianError if all(products for products, _ in troubles) else OperatorError
            raise kind(troubles[0][1])
        return said

    def additivity(self) -> float | None:
        """Relative error of ``N H v = sum_g n_g H_g v`` for one v; None without a partition whose groups were all measured.

        Where the whole was not measured as a group, this is its only product.
        """
        if not self._adds_up or any(name not in self._products for name in self._parts):
            return None
        if "all" not in self._products:
            if "all" in self.names:  # refused, or its subset alone was looked at
                return None
            operator = self.operator(np.arange(self.subject.samples.num_samples), memory=1)
            self.add_product("all", operator)
        space = self._spaces["all"]
        total, whole, kind = self._products["all"]
        mine = [self._products[name] for name in self._parts]
        if any(other != kind for _, _, other in mine):
            return None  # exact products and differences are not added up
        parts = sum((size * product for size, product, _ in mine), torch.zeros_like(whole))
        scale = space.norm(total * whole)
        return space.norm(parts - total * whole) / scale if scale > 0 else 0.0

    def _common_product(self, operator: HessianOperator) -> tuple[int, Tensor, str]:
        product = operator.matvec(random_start(operator, self.settings.seed + 303)).double()
        return operator.num_samples, product, operator.products

    @cached_property
    def known(self) -> PerSample:
        """Loss and hit of every sample of all."""
        subject = self.subject
        tensor = next(subject.model.parameters())
        found = per_sample(subject.model, subject.samples, subject.loss, device=tensor.device, dtype=tensor.dtype)
        if self.sharded:
            reshard(subject.model)
        return found

    def net_rates(self, groups: Mapping[str, GroupResult]) -> list[NetRate]:
        """Of the optimizers' whole fields, see :class:`~saddlescope.analysis.measures.objective.Objective`."""
        if self.by_differences and self.objective.wants_net != "none":
            self.warnings.append("no net rates: they need exact products")
            return []
        whole = groups.get("all")
        # Not of a part of the samples: neither a subset nor a part that was given.
        measured = whole is not None and whole.sampling is None and whole.size == self.subject.samples.num_samples
        known = whole.lambda_min if whole is not None and measured else None
        return self.objective.net_rates(self.operator, known)
