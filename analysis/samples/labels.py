"""Where a batch keeps its class labels: told, or the one place that can be meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: where dictionary batches keep the class labels
LABEL_KEYS = ("labels", "label", "targets", "target")


class LabelError(ValueError):
    """The class labels cannot be told among the parts of a batch; the message lists the parts."""


def labels_in(batch: Any, which: int | str | None = None, beside: Sequence[str] = ()) -> Any:
    """What a batch keeps in the place of the class labels; None where it is neither a dictionary nor a tuple or list.

    Args:
        batch: of any structure.
        which: the key or place, where it is told.
        beside: entries or places that are neither inputs nor labels.

    Raises:
        LabelError: as :func:`label_key` and :func:`label_place`.
    """
    if isinstance(batch, Mapping):
        return batch[label_key(batch, which)]
    return batch[label_place(batch, which, beside)] if isinstance(batch, tuple | list) else None


def label_key(batch: Mapping[str, Any], which: int | str | None = None) -> str:
    """The key of the class labels in a dictionary batch.

    Args:
        batch: a dictionary.
        which: the key, where it is told.

    Raises:
        LabelError: none of ``labels``, ``label``, ``targets``, ``target``, or two of them.
    """
    there = ", ".join(map(str, batch))
    if which is not None:
        if which not in batch:
            raise LabelError(f"--labels {which}: no such entry in batches with {there}")
        return str(which)
    found = [key for key in LABEL_KEYS if key in batch]
    if len(found) > 1:
        raise LabelError(f"batches with both {' and '.join(found)}: say with --labels which of them are the class labels")
    if not found:
        raise LabelError(
            f"no class labels in batches with {there}: name them 'labels', or say with --labels what they are called"
        )
    return found[0]


def label_place(batch: Sequence[Any], which: int | str | None = None, beside: Sequence[str] = ()) -> int:
    """The place of the class labels in a batch that is a tuple or list: the second of a pair; of more parts it must be told.

    Args:
        batch: a tuple or list.
        which: the place, from 0 on, where it is told.
        beside: places of what is neither inputs nor labels: they do not count.

    Raises:
        LabelError: no such part, or it is not told.
    """
    if which is None:
        parts = [place for place in range(len(batch)) if str(place) not in beside]
        if len(parts) != 2:
            raise LabelError(
                f"batches of {len(batch)} parts: say with --labels which of them, 0 to {len(batch) - 1}, are the class labels"
            )
        return parts[1]
    if not str(which).isdecimal() or int(which) >= len(batch):
        raise LabelError(f"--labels {which}: the batches have {len(batch)} parts, 0 to {len(batch) - 1}")
    return int(which)
