"""Which part of what a model returned the logits are: told, or decided by shape; never the first one that comes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class OutputError(ValueError):
    """The logits cannot be told among the parts of a model's output; the message lists the parts."""


@dataclass(frozen=True)
class Logits:
    """The logits, and how they were found.

    Attributes:
        tensor: ``[n, K]``.
        part: where they lay, such as ``1``, ``logits`` or ``heads/0``; None where the model returned nothing else.
        why: how the part was decided on, in words; empty without parts.
    """

    tensor: Tensor
    part: str | None = None
    why: str = ""


def find_logits(outputs: Any, num_classes: int | None = None, which: int | str | None = None) -> Logits:
    """The logits in what a model returned.

    A tensor is taken as it is. Of a tuple, list, dictionary, named tuple or dataclass (Hugging Face's ``ModelOutput``) it is
    the one part of shape ``[n, num_classes]``; where none has that many columns, the only matrix with more of them (labels
    need not show every class).

    Args:
        outputs: of one batch.
        num_classes: C, None where it is not known: then there may be one matrix only.
        which: the part, where the caller knows: its index or name, ``outer/inner`` for nested ones.

    Raises:
        OutputError: no such part, nothing fits, or two parts do.
    """
    if isinstance(outputs, Tensor):
        if which is not None:
            raise OutputError(f"the model returned one tensor {_shape(outputs)}, without parts: leave --logits {which} out")
        return Logits(outputs)
    parts = dict(_parts(outputs))
    if which is not None:
        if str(which) not in parts:
            raise OutputError(f"the model's output has no part '{which}' (--logits); {_listed(outputs, parts)}")
        return Logits(parts[str(which)], str(which), "as told")
    matrices = {name: part for name, part in parts.items() if part.dim() == 2 and part.is_floating_point()}
    if num_classes is not None:
        fits = {name: part for name, part in matrices.items() if part.shape[1] == num_classes}
        why = f"the only part with {num_classes} columns, one a class"
        if not fits and len(matrices) == 1 and next(iter(matrices.values())).shape[1] > num_classes:
            fits, why = matrices, f"the only matrix, with more columns than the {num_classes} classes of the labels"
    else:
        fits, why = matrices, "the only matrix"
    if len(fits) != 1:
        wanted = f"[n, {num_classes}]" if num_classes is not None else "[n, classes]"
        many = "no part" if not fits else f"{len(fits)} parts ({', '.join(fits)})"
        raise OutputError(
            f"{many} of the model's output can be the logits {wanted}: say which with --logits PART (an index or a key), or "
            f"give a loss(model, batch); {_listed(outputs, parts)}"
        )
    ((name, tensor),) = fits.items()
    return Logits(tensor, name, why)


def _parts(outputs: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a structure with its name; one that lies there twice, under its first."""
    seen: set[int] = set()
    for name, value in _entries(outputs):
        found = [(name, value)] if isinstance(value, Tensor) else [(f"{name}/{n}", t) for n, t in _parts(value)]
        for label, tensor in found:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield prefix + label, tensor


def _entries(outputs: Any) -> list[tuple[str, Any]]:
    if isinstance(outputs, Mapping):
        return [(str(name), value) for name, value in outputs.items()]
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return list(zip(outputs._fields, outputs, strict=True))
    if isinstance(outputs, tuple | list):
        return [(str(place), value) for place, value in enumerate(outputs)]
    if dataclasses.is_dataclass(outputs):
        return [(field.name, getattr(outputs, field.name)) for field in dataclasses.fields(outputs)]
    found = getattr(outputs, "logits", None)  # an object of somebody's own
    return [("logits", found)] if isinstance(found, Tensor) else []


def _listed(outputs: Any, parts: Mapping[str, Tensor]) -> str:
    names = ", ".join(f"{name} {_shape(part)}" for name, part in list(parts.items())[:12])
    return f"the {type(outputs).__name__} holds {names or 'no tensors'}{' ...' if len(parts) > 12 else ''}"


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"
