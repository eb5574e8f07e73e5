"""From a model and its samples to a stored result: one function for the library, the command line and the studies."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..hessian.distributed import World
from ..hessian.losses import BatchLoss, logits_choice, loss_of, with_logits
from ..hessian.modules import copied
from ..hessian.sharded_models import is_dtensor, is_sharded, local, whole
from ..hessian.subject import Subject
from ..krylov.guards import RandomOperatorError
from ..krylov.linear_operator import OperatorError
from ..krylov.sliced_files import save_index, save_slices
from ..krylov.tensor_files import save_tensors
from ..records.results import CurvatureResult, GroupResult, Provenance, Scheme
from ..records.settings import AnalysisSettings, SettingsError
from ..records.steps import StepResult
from ..samples.groups import scheme_of
from ..samples.provenance import Source, describe, tensors_sha256, weights_sha256
from ..samples.samples import Samples
from .critical_step import measure_steps
from .measure_group import measure_group
from .measurement import Kept, Measurement, Progress
from .plausibility import doubts


@torch.inference_mode(False)
def analyze(
    model: nn.Module,
    samples: Samples,
    *,
    loss: BatchLoss | None = None,
    logits: int | str | None = None,
    settings: AnalysisSettings | None = None,
    scheme: Scheme | None = None,
    source: Source | None = None,
    vectors: Path | None = None,
    progress: Progress | None = None,
    world: World | None = None,
    cache: Path | None = None,
    parts: Mapping[str, Sequence[np.ndarray]] | None = None,
    warm: MutableMapping[str, Tensor] | None = None,
) -> CurvatureResult:
    """Measures every class group of one model.

    Modes that record no gradients (``no_grad``, ``inference_mode``) are left inside.

    Args:
        model: any module; it is copied, and the copy is analysed in eval mode. The weights of one that is sharded with
            ``fully_shard`` are gathered for that; but with ``products = "differences"`` a sharded model is measured as it lies,
            in its own precision, and no process ever holds all of weights or of a vector.
        samples: the clean training samples, in a fixed order.
        loss: ``loss(model, batch) -> [n]``; default: cross-entropy.
        logits: which part of a tuple, dictionary or dataclass that the model returns the logits are, by index or name; default:
            the one whose shape fits the number of classes, and the result says which (``provenance.choices``).
        settings: what to measure and how far; default: both ends, density and verdict for head and tail.
        scheme: the class groups; default: made from ``settings`` and the class counts. Only these are measured; of the samples
            outside them loss and accuracy are looked at, in one forward pass (is the model trained at all?).
        source: names for the provenance.
        vectors: file (safetensors) that gets the unit eigenvectors; without it a certificate cannot be verified later.
        progress: called after each step.
        world: the processes that share the work; every one of them makes this call and gets the result.
        cache: folder where Lanczos runs are kept: an interrupted analysis continues there, and one with more starts adds to
            them, with any number of processes that see it. Entries are named by everything that they depend on. Goals ends and
            verdict have nothing to add to: what they leave there is for the same analysis alone.
        parts: indices of the samples that stand for each group of ``scheme``, whose sizes are then those of the whole groups;
            where there are several such parts of a group, disjoint and of one size, the first is measured and the others say
            what looking at a part costs (as ``settings.subsample`` does).
        warm: unit eigenvectors ``[n]`` that a measurement of weights near these left (``tail/min``, ``tail/max`` ...): goals
            ends and verdict start from them, with another ``settings.seed`` than theirs. Those of this one take their place.

    Raises:
        GroupError: a group is empty, or ``settings.only`` names none of the scheme.
        OperatorError: of no group can anything be said: weights, loss or products are not finite, products are not those of the
            loss's Hessian, or nothing matches ``settings.params``. Where other groups were measured, ``refused`` says it.
        RandomOperatorError: likewise, data or model change between two products.
        SettingsError: there is no such device.
        OutputError: the logits cannot be told among the parts of the model's output.
    """
    began = time.monotonic()
    spread = is_sharded(model) and settings is not None and settings.products == "differences"
    used = model if spread else whole(model)
    subject = Subject(used, samples, loss_of(with_logits(loss, logits), samples), source or Source())
    work = _begin(subject, settings, scheme, world, parts, Kept(vectors, cache, warm), progress)
    groups: dict[str, GroupResult] = {}
    refused: dict[str, str] = {}
    for name in work.names:
        try:
            groups[name] = measure_group(work, name)
        except (OperatorError, RandomOperatorError) as error:
            # Processes that share a group must not part: one would wait for the others. Nor is there a result without groups.
            # What model or loss themselves raised is about them, not about a group.
            if work.world.size > 1 or error.__cause__ is not None or (name == work.names[-1] and not groups):
                raise
            refused[name] = str(error)
    net_rates = work.net_rates(groups)
    stored = _store_vectors(work) if vectors is not None else None
    if warm is not None:
        warm.update(work.ends)
    return CurvatureResult(
        scheme=work.scheme,
        groups=groups,
        additivity=work.additivity(),
        net_rates=net_rates,
        vectors_file=stored,
        warnings=[*doubts(work.known, samples, work.subject.loss, work.subject.source.choices), *work.warnings],
        refused=refused,
        provenance=_provenance(work, subject.model, began),
    )


def _store_vectors(work: Measurement) -> str | None:
    """Stores the eigenvectors, of slices each process its own; returns the name of the file that the result names."""
    world, path = work.world, work.kept.vectors
    assert path is not None
    if work.sharded:
        ranges = world.owned(work.space.ranges)
        owned, sizes = set(ranges[world.rank]), [to - begin for begin, to in work.space.ranges]
        mine = [one in owned for one in work.space.ranges]
        parts = {name: itertools.compress(vector.split(sizes), mine) for name, vector in work.vectors.items()}
        empty = {name: vector[:0] for name, vector in work.vectors.items()}
        save_slices({name: torch.cat([empty[name], *part]) for name, part in parts.items()}, path, ranges, world.rank)
    elif world.slices == 1:
        if world.first:
            save_tensors(work.vectors, path)
        return work.vectors_file
    else:
        ranges = world.ranges(work.parameters)
        if world.keeps:
            save_slices(work.vectors, path, ranges, world.slice)
    world.wait()
    itemsize = max((vector.element_size() for vector in work.vectors.values()), default=0)
    if world.first:
        save_index(list(work.vectors), path, ranges, itemsize)
    return work.vectors_file


def critical_steps(
    model: nn.Module,
    samples: Samples,
    *,
    loss: BatchLoss | None = None,
    settings: AnalysisSettings | None = None,
    scheme: Scheme | None = None,
    source: Source | None = None,
    world: World | None = None,
) -> StepResult:
    """Measures from which learning rate on a step hurts each class group.

    See :mod:`~saddlescope.analysis.measures.critical_step`.

    Args:
        model: as in :func:`analyze`.
        samples: likewise.
        loss: likewise.
        settings: likewise; ``rho`` and ``weight_decay`` are of the updates.
        scheme: likewise.
        source: likewise; where it tells ``eta``, the updates know head and tail.
        world: likewise.

    Raises:
        As :func:`analyze`.
    """
    began = time.monotonic()
    subject = Subject(whole(model), samples, loss_of(loss, samples), source or Source())
    work = _begin(subject, settings, scheme, world)
    groups = measure_steps(work)
    return StepResult(
        scheme=work.scheme,
        groups=groups,
        weight_decay=work.objective.weight_decay,
        provenance=_provenance(work, subject.model, began),
    )


def _begin(
    subject: Subject,
    settings: AnalysisSettings | None,
    scheme: Scheme | None,
    world: World | None,
    parts: Mapping[str, Sequence[np.ndarray]] | None = None,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """What both kinds of analyses begin with: a copy of the model where and as precise as it is to be, and its groups."""
    settings, world, kept = settings or AnalysisSettings(), world or World(), kept or Kept()
    samples, source, model = subject.samples, subject.source, _uncompiled(subject.model)
    device, dtype = _place(settings, world)
    if settings.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    if odd := [name for name, p in model.named_parameters() if p.is_complex()]:
        raise OperatorError(f"parameter '{odd[0]}' is complex: the Hessian here is that of a function of real parameters")
    scheme = scheme or scheme_of(settings, samples)
    sharded = is_sharded(model)
    if sharded and (settings.mesh is not None or settings.engine != "saddlescope"):
        what = "leave out --mesh" if settings.mesh is not None else f"engine '{settings.engine}' needs whole vectors"
        raise SettingsError(f"the model is spread over the processes, and vectors lie as its weights do: {what}")
    world = replace(world, mesh=None) if sharded else world
    own = model if sharded else copied(model).to(device, dtype)
    chosen = logits_choice(subject.loss, own, samples)
    source = replace(source, choices=(*source.choices, *([chosen] if chosen else [])))
    if sharded and source.checkpoint_sha256 is None:
        mine = tensors_sha256({name: local(tensor) for name, tensor in model.state_dict().items()})
        source = replace(source, checkpoint_sha256=hashlib.sha256("".join(world.everyone(mine)).encode()).hexdigest())
    # What earlier vectors know is in no name, and the monitor's runs are short.
    continued = kept.cache is not None and kept.warm is None and settings.engine == "saddlescope"
    cache = kept.cache / cache_key(model, samples, settings, source) if kept.cache is not None and continued else None
    subject = replace(subject, model=own, source=source)
    if world.size > 1:
        plain = {name: tensor for name, tensor in own.state_dict().items() if not is_dtensor(tensor)}
        world.require_same("buffers" if sharded else "weights", tensors_sha256(plain))
        world.require_same("samples", samples.sha256())
    return Measurement(subject, settings, scheme, world, parts, replace(kept, cache=cache), progress)


def _uncompiled(model: nn.Module) -> nn.Module:
    """The module within ``torch.compile``'s wrapper: compiled graphs have no second derivatives."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner


def _place(settings: AnalysisSettings, world: World) -> tuple[torch.device, torch.dtype]:
    """Where the model is measured, and how precise it is there."""
    exact = settings.engine == "exact"
    return usable(world.device or settings.device), torch.float64 if exact else getattr(torch, settings.dtype)


def _provenance(work: Measurement, model: nn.Module, began: float) -> Provenance:
    """Names the weights of ``model``, which was given: those of the measurement's own may be of another precision."""
    device, dtype = _place(work.settings, work.world)
    return describe(
        work.subject.source,
        _uncompiled(model),
        work.subject.samples,
        parameters=work.parameters,
        settings=work.settings.model_dump(mode="json"),
        device=device,
        dtype=dtype,
        seconds=time.monotonic() - began,
    )


def usable(name: str) -> torch.device:
    """The device of that name.

    Raises:
        SettingsError: it cannot be used here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from None
    return device


#: settings that a Lanczos start does not depend on (its seed is in its name)
_NOT_OF_A_START = {
    "scheme", "eta", "many", "few", "groups", "only", "goal", "starts", "mass_width", "max_starts", "thresholds",
    "stationarity", "seed", "gauss_newton", "escape", "rates", "net_rates", "rho", "weight_decay",
    "memory", "basis", "mesh", "subsample", "escape_test", "keep_vectors",
}  # fmt: skip


def cache_key(model: nn.Module, samples: Samples, settings: AnalysisSettings, source: Source) -> str:
    """Names everything that a Lanczos start depends on but its samples' indices and its seed."""
    of_ends = {"goal", "stationarity"} if settings.goal != "spectrum" else set()
    choices = settings.model_dump(mode="json", exclude=_NOT_OF_A_START - of_ends)
    weights = source.checkpoint_sha256 if is_sharded(model) else weights_sha256(model)
    content = [weights, samples.sha256(), choices, source.loss, source.subject]
    content += [choice.value for choice in source.choices]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
