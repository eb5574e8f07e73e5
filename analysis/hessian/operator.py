"""The group Hessian as a linear operator.

Above 300 lines: one class, whose kept graphs, weights and products must agree, so its parts are read together.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..krylov.basis import BasisChoice, Place
from ..krylov.guards import RandomOperatorError
from ..krylov.linear_operator import NoSecondDerivativeError, NotFiniteError, OperatorError
from ..samples.memory import graph_budget, saved_bytes
from ..samples.micro_batch import fitting
from ..samples.samples import Samples, batch_size
from .acceleration import AccelerationError, Accelerator
from .adding_up import require_sums
from .corrections import Corrections
from .differences import look_at
from .gradients import derivatives, slopes_of, slopes_with_graph
from .losses import BatchLoss, loss_of, summed
from .modules import copied, eager, evaluation_mode, select_parameters, without_gradients

log = logging.getLogger(__name__)

#: Adds a flat tensor over all processes; the identity in a single process.
Reduce = Callable[[Tensor], Tensor]


def finite(tensor: Tensor) -> bool:
    """Whether every number is finite; one pass where the norm is, too, and no second tensor."""
    if tensor.numel() == 0 or math.isfinite(float(torch.linalg.vector_norm(tensor))):
        return True
    return all(math.isfinite(float(end)) for end in torch.aminmax(tensor))  # squares that are too large are numbers


class HessianOperator:
    """Hessian of a group's mean loss, ``H = (1/N) sum_i grad^2 l_i``, over chosen parameters.

    Sums over samples are divided by N once, so ragged micro-batches weigh what they should. The gradient graph of as many
    micro-batches as fit the memory budget is kept between products (differentiating it again costs about half of starting
    over); the others are recomputed.

    Args:
        model: any module; products are taken in eval mode, its flags and buffers are restored after each call.
        samples: the group's samples.
        loss: ``loss(model, batch) -> [n]``; default: cross-entropy of ``model(inputs)`` on ``(inputs, targets)``.
        params: glob pattern on parameter names, several separated by commas; default: every parameter with
            ``requires_grad``.
        micro_batch: samples differentiated at once; default: chosen for the device and the memory budget.
        memory: budget in bytes for kept graphs; default: a quarter of what is free.
        vectors: flat vectors of a Krylov space that the budget must hold as well: at most half of it is set aside for them.
        reduce: sums a flat tensor over processes, for samples sharded over several devices; ``num_samples`` is then the
            number over all of them.
        accelerate: use the cheaper gradient graph of ``acceleration`` where it applies (checked against the plain one).

    Attributes:
        size: n, the number of parameters.
        parameter_names: names in the order of the flat vectors.
        matvecs: products so far.
        micro_batch: samples differentiated at once.
        kept_bytes: held by the graphs that are kept.
        graph_budget: what they may hold.
        vector_bytes: of all the vectors of the Krylov space.
        basis_bytes: set aside for them.
        accelerator: what makes products cheaper; None where nothing is accelerated.

    Raises:
        OperatorError: no parameter matches, none requires a gradient, weights are not finite, or the loss is not; or
            ``micro_batch`` is below 1.
    """

    products: Literal["exact", "differences"] = "exact"

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        loss: BatchLoss | None = None,
        *,
        params: str | None = None,
        micro_batch: int | None = None,
        memory: int | None = None,
        vectors: int = 0,
        reduce: Reduce | None = None,
        accelerate: bool = True,
    ) -> None:
        self.model, self.loss = model, loss_of(loss, samples)
        self.parameter_names, self.parameters = select_parameters(model, params)
        self.size = sum(p.numel() for p in self.parameters)
        self.dtype, self.device = self.parameters[0].dtype, self.parameters[0].device
        self._micro_batch, self._memory, self._vectors = micro_batch, memory, vectors
        self._take(samples, reduce)
        self._work = math.inf
        self.accelerator: Accelerator | None = None
        require_sums(self)
        if accelerate:
            self.accelerator = self._plan()

    @property
    def work(self) -> float:
        """Multiplications of a forward pass over all samples, in convolutions and linear maps; infinite where not counted.

        It is counted on the first samples, so processes that share a group could disagree: they do not count.
        """
        return math.inf if self.reduce is not None else self._work * self.num_samples

    def over(self, samples: Samples, reduce: Reduce | None = None, *, memory: int | None = None) -> HessianOperator:
        """The mean over other samples of the same data; what was found out about the model and its loss is taken over.

        Args:
            samples: the other ones.
            reduce: as for the operator.
            memory: budget in bytes for its graphs; default: this one's.
        """
        other = copy.copy(self)
        other._memory = self._memory if memory is None else memory
        other._take(samples, reduce)
        return other

    def _take(self, samples: Samples, reduce: Reduce | None) -> None:
        if self._micro_batch is not None and self._micro_batch < 1:
            raise OperatorError(f"micro_batch = {self._micro_batch}: at least one sample must be differentiated at once")
        self.samples, self.reduce = samples, reduce
        self.num_samples = samples.num_samples
        if reduce is not None:
            self.num_samples = int(reduce(torch.tensor([float(samples.num_samples)], dtype=torch.float64)).item())
        self.matvecs = 0
        budget = self._memory if self._memory is not None else graph_budget(self.device)
        self.vector_bytes = self._vectors * self.size * self.dtype.itemsize
        self.basis_bytes = min(self.vector_bytes, budget // 2)
        self.graph_budget = budget - self.basis_bytes
        self.micro_batch = self._micro_batch or fitting(samples, self.device, self.dtype)
        self._kept: list[tuple[Tensor | None, ...]] | None = None
        self._rest_from = 0
        self._kept_at: list[tuple[int, int]] = []  # the state of the model that the kept graphs belong to
        self.kept_bytes = 0

    def place(self, choice: BasisChoice) -> Place:
        """Where a Krylov basis over this operator goes: ``auto`` is what the budget sets aside, and the disk beyond."""
        return self.basis_bytes if choice == "auto" else choice

    def weights(self) -> Tensor:
        """The parameters as one flat vector ``[n]``."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Mean loss and its gradient ``[n]``.

        Raises:
            OperatorError: the loss or the gradient is not finite.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        gradient: Tensor | None = None
        with self.differentiable():
            for batch in self._batches():
                loss = self.batch_loss(batch)
                total += loss.detach()
                slope = self.flat(slopes_of(loss, partial(self.batch_loss, batch), self.model, self.parameters))
                gradient = slope if gradient is None else gradient.add_(slope)
        mean = float(self._sum(total.reshape(1)).item()) / self.num_samples
        gradient = self._sum(self._zeros() if gradient is None else gradient).div_(self.num_samples)
        if not math.isfinite(mean) or not finite(gradient):
            raise OperatorError(f"the loss ({mean}) or its gradient is not finite at these weights: was the run diverging?")
        return mean, gradient

    def mean_loss(self) -> float:
        """Mean loss at the current weights; may be infinite."""
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        with self.differentiable():
            for batch in self._batches():
                total += self._value(batch)
        return float(self._sum(total).item()) / self.num_samples

    def matvec(self, v: Tensor) -> Tensor:
        """``H v`` for ``v [n]``, in the parameters' dtype.

        Raises:
            OperatorError: the product is not finite.
        """
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def matmat(self, v: Tensor) -> Tensor:
        """``H V`` for ``V [n, k]``; a micro-batch whose graph is not kept is evaluated once for all columns.

        Raises:
            OperatorError: a product is not finite.
        """
        columns = [self.split(column) for column in v.to(self.device, self.dtype).T.contiguous()]
        totals: list[Tensor | None] = [None for _ in columns]

        def add(k: int, product: Tensor) -> None:
            total = totals[k]
            totals[k] = product if total is None else total.add_(product)

        if self._kept_at != self._state():
            self.release()
        with self.differentiable():
            beyond = self._keep_graphs() if self._kept is None else []
            for gradients in self._kept or ():
                for k, parts in enumerate(columns):
                    add(k, self._product(gradients, parts, retain=True))
            for batch in self._batches(self._rest_from):
                gradients = beyond.pop() if beyond else self._gradients(batch)
                for k, parts in enumerate(columns):
                    add(k, self._product(gradients, parts, retain=k + 1 < len(columns)))
        self.matvecs += len(columns)
        # Flat vectors of networks are large: one is not copied to stand alone as a column, nor looked at in two passes.
        # Of a process that has no samples of the group there is none.
        # Several lie one after another, not number by number side by side.
        sums = [self._zeros() if t is None else t for t in totals]
        result = self._sum(sums[0].unsqueeze(0) if len(sums) == 1 else torch.stack(sums)).div_(self.num_samples).T
        if not finite(result):
            raise NotFiniteError(
                "a Hessian-vector product is not finite: an operation of the model has no second derivative here"
            )
        return result

    def graph_bytes(self, rows: Sequence[int]) -> int:
        """What the graph of some samples holds, in bytes, as long as it is there."""
        few = self.over(self.samples.subset(np.asarray(rows)), memory=0)
        with few.differentiable(), saved_bytes() as saved:
            few._gradients(next(few._batches()))
        return saved.total

    def at_most(self, samples: int) -> None:
        """Passes no more than so many samples at once."""
        if samples < self.micro_batch:
            self.release()
            self.micro_batch = self._micro_batch = samples

    def release(self) -> None:
        """Frees the kept graphs; the next product builds them again (call it after a change made through ``.data``)."""
        self._kept, self._rest_from, self.kept_bytes = None, 0, 0

    def look(self, vectors: Mapping[str, Tensor] | None = None, *, seed: int = 0) -> list[str]:
        """Holds products against differences of the gradient, and the gradient against those of the loss, in float64.

        See :func:`~saddlescope.analysis.hessian.differences.look_at`. Processes that share the samples look at some of their
        own each, and what one of them refuses is refused by all.
        """
        try:
            said, trouble = look_at(self, vectors, seed=seed), None
        except (OperatorError, RandomOperatorError) as error:
            said, trouble = [], error
        troubles = float(self._sum(torch.tensor([float(trouble is not None)], dtype=torch.float64)).item())
        if trouble is not None:
            raise trouble
        if troubles:
            raise OperatorError("another process refuses what it sees on its part of the samples; its own message says why")
        return said

    def _state(self) -> list[tuple[int, int]]:
        # Graphs of other weights or statistics would give a wrong product, not an error: folding copies them.
        return [(t.data_ptr(), t._version) for t in (*self.model.parameters(), *self.model.buffers())]

    def _keep_graphs(self) -> list[tuple[Tensor | None, ...]]:
        """Records graphs for as long as they fit; returns the one that does not, which was recorded to be seen, too."""
        self._kept, self._rest_from, self.kept_bytes = [], 0, 0
        self._kept_at = self._state()
        for batch in self._batches():
            with saved_bytes() as saved:
                gradients = self._gradients(batch)
            # Rounded copies of what the convolutions saved come with the first rough product.
            both = self.accelerator is not None and self.accelerator.precision.both
            holds = saved.total * 3 // 2 if both else saved.total
            if self.kept_bytes + holds > self.graph_budget:
                return [gradients]
            self.kept_bytes += holds
            self._kept.append(gradients)
            self._rest_from += batch_size(batch)
        return []

    def _gradients(self, batch: Any) -> tuple[Tensor | None, ...]:
        """First derivatives of the summed loss of one micro-batch, with their graph; zeros for unused parameters."""
        return slopes_with_graph(self._recorded(batch), partial(self.batch_loss, batch), self.parameters)

    def _recorded(self, batch: Any) -> Tensor:
        """Summed loss of a micro-batch, with a graph that can be differentiated twice, cheaply where that is possible."""
        if self.accelerator is not None:
            try:
                with Corrections(), self.accelerator.recording():
                    return self.batch_loss(batch)
            except AccelerationError as error:  # the model took another way than with the samples it was planned on
                log.warning("plain Hessian-vector products: %s", error)
                self.accelerator = None
        with Corrections():
            return self.batch_loss(batch)

    def recorded_loss(self) -> Tensor:
        """Summed loss of the first micro-batch, with its plain graph, for who wants to look at that."""
        with self.differentiable():
            return self.batch_loss(next(self._batches()))

    def batch_loss(self, batch: Any) -> Tensor:
        """Summed loss of a micro-batch, with its plain graph.

        Raises:
            OperatorError: model or loss fail, or the loss has no gradient.
        """
        loss = summed(self._losses(batch), batch_size(batch))
        if not loss.requires_grad:
            raise OperatorError(
                "the loss does not depend on the chosen parameters: was it computed under no_grad, or detached?"
            )
        return loss

    def _value(self, batch: Any) -> Tensor:
        """Summed loss of a micro-batch, without a graph."""
        return summed(without_gradients(lambda: self._losses(batch)), batch_size(batch))

    def _losses(self, batch: Any) -> Tensor:
        try:
            return self.loss(self.model, batch)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
            if type(error).__module__.startswith("saddlescope."):
                raise  # says itself what is wrong
            raise OperatorError(f"model or loss failed on a batch: {type(error).__name__}: {error}") from error

    def _product(self, gradients: tuple[Tensor | None, ...], parts: list[Tensor], retain: bool) -> Tensor:
        pairs = [(g, v) for g, v in zip(gradients, parts, strict=True) if g is not None and g.requires_grad]
        if not pairs:  # a loss that is linear in the parameters
            return self._zeros()
        outputs, vectors = zip(*pairs, strict=True)
        return self.flat(derivatives(outputs, self.parameters, vectors, retain_graph=retain))

    def sum_and_slope(self, samples: Samples, *, slope: bool = True) -> tuple[float, Tensor]:
        """Summed loss over other samples, each shape as one batch, and its gradient ``[n]`` (empty without ``slope``)."""
        value, gradient = 0.0, None if slope else torch.zeros(0, dtype=self.dtype, device=self.device)
        with self.differentiable():
            for batch in samples.batches(samples.num_samples, self.device, self.dtype):
                if not slope:
                    value += float(self._value(batch))
                    continue
                loss = summed(self._losses(batch), batch_size(batch))
                value += float(loss.detach())
                if loss.requires_grad:  # one that does not is said where products are taken
                    again = partial(self.batch_loss, batch)
                    part = self.flat(slopes_of(loss, again, self.model, self.parameters))
                    gradient = part if gradient is None else gradient.add_(part)
        return value, self._zeros() if gradient is None else gradient

    def in_float64(self, memory: int | None = 1) -> HessianOperator:
        """The same Hessian over a float64 copy of the model.

        What was found out about the model and its loss is no other in float64; the look at the products there is at these.

        Args:
            memory: budget in bytes for kept graphs; by default it keeps none: it is asked for a few products only, beside an
                operator that keeps its own. ``None``: a quarter of what is free.
        """
        wide = copied(self.model).double()
        # Gradients of convolutions in float64 take a fifth less in this layout; no number depends on it but for rounding.
        for p in wide.parameters():
            if p.dim() == 4:
                p.data = p.data.contiguous(memory_format=torch.channels_last)
        return self.with_model(wide, memory=memory)

    def with_model(self, model: nn.Module, *, memory: int | None = 1) -> HessianOperator:
        """The same Hessian of another model of the same modules and parameters: of a copy in float64, say.

        Args:
            model: the other one.
            memory: budget in bytes for its graphs; ``None``: a quarter of what is free.
        """
        other = copy.copy(self)
        named = dict(model.named_parameters())
        other.model, other.parameters = model, [named[name] for name in self.parameter_names]
        other.dtype, other.device = other.parameters[0].dtype, other.parameters[0].device
        if self.accelerator is not None:
            other.accelerator = self.accelerator.again()
        other._memory = memory
        if self._micro_batch is not None:
            other._micro_batch = max(1, self._micro_batch * self.dtype.itemsize // other.dtype.itemsize)
        other._take(self.samples, self.reduce)
        return other

    def _plan(self) -> Accelerator | None:
        """The accelerated path, if it reproduces one plain product on a few samples; else None."""
        accelerator = Accelerator(self.device)
        probe = self.samples.subset(torch.arange(min(4, self.samples.num_samples)).numpy())
        batch = next(probe.batches(4, self.device, self.dtype))
        with self.differentiable():
            together = min(self.micro_batch, self.samples.num_samples)
            convolutions = accelerator.plan(lambda: self._losses(batch), batch_size(batch), together)
            self._work = accelerator.work or math.inf  # it may do its work in ways that are not counted
            if not convolutions:
                return None
            generator = torch.Generator().manual_seed(0)
            v = self.split(torch.randn(self.size, generator=generator, dtype=self.dtype).to(self.device))
            self.accelerator = None
            try:
                plain = self._product(self._gradients(batch), v, retain=False)
            except NoSecondDerivativeError:  # said where products are taken
                return None
            try:
                self.accelerator = accelerator
                fast = self._product(self._gradients(batch), v, retain=False)
            except (AccelerationError, OperatorError, RuntimeError) as error:
                log.warning("plain Hessian-vector products: %s", error)
                return None
        if self.accelerator is not accelerator:  # given up meanwhile
            return None
        tolerance = 1e4 * torch.finfo(self.dtype).eps  # rounding of saturated softmaxes; a wrong graph is off by far more
        if not bool((fast - plain).norm() <= tolerance * plain.norm()):
            log.warning("plain Hessian-vector products: the accelerated ones differ by more than %.0e", tolerance)
            return None
        return accelerator

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Eval mode, full precision, gradients on, and kernels that can be differentiated twice."""
        # The fused attention kernels have no second derivative; the math kernel does.
        attention, precision = sdpa_kernel(SDPBackend.MATH), torch.autocast(self.device.type, enabled=False)
        modes = (torch.inference_mode(False), evaluation_mode(self.model), eager(self.model, self.device), torch.enable_grad())
        with ExitStack() as stack:
            for mode in (*modes, attention, precision):
                stack.enter_context(mode)
            yield

    def _batches(self, start: int = 0) -> Iterator[Any]:
        if start >= self.samples.num_samples:
            return
        samples = self.samples if start == 0 else self.samples.subset(torch.arange(start, self.samples.num_samples).numpy())
        yield from samples.batches(self.micro_batch, self.device, self.dtype)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)

    def _sum(self, total: Tensor) -> Tensor:
        return total if self.reduce is None else self.reduce(total)

    def split(self, v: Tensor) -> list[Tensor]:
        """``v [n]`` in the parameters' shapes."""
        sizes = [p.numel() for p in self.parameters]
        return [part.view_as(p) for part, p in zip(v.split(sizes), self.parameters, strict=True)]

    def flat(self, parts: tuple[Tensor | None, ...]) -> Tensor:
        """Derivatives by the parameters as ``[n]``, zeros where there are none.

        Raises:
            OperatorError: one is sparse.
        """
        pairs = list(zip(parts, self.parameters, strict=True))
        if any(part is not None and part.is_sparse for part, _ in pairs):
            raise OperatorError("the gradient of a parameter is sparse and cannot be differentiated again: give sparse=False")
        return torch.cat([(torch.zeros_like(p) if part is None else part.detach()).reshape(-1) for part, p in pairs])
