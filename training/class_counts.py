"""Class counts and other settings, checked once and in one wording."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def number(field: str, value: float, low: float, high: float, error: type[ValueError]) -> float:
    """``value`` as a float if it lies in ``[low, high]``.

    Raises:
        ValueError: As the given class, if it is no finite number in the range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or abs(value) == float("inf"):
        wanted = f"a finite number >= {low:g}" if high == float("inf") else f"a number in [{low:g}, {high:g}]"
        raise error(f"{field} must be {wanted}, got {value!r}")
    return float(value)


def whole_number(field: str, value: float, low: int, error: type[ValueError]) -> int:
    """``value`` as an int if it is whole and ``low`` or more.

    Raises:
        ValueError: As the given class, if it is not.
    """
    found = number(field, value, low, math.inf, error)
    if not found.is_integer():
        raise error(f"{field} must be a whole number, got {value!r}")
    return int(found)


def whole_counts(class_counts: Sequence[int], error: type[ValueError], *, least: int = 0) -> list[int]:
    """Training samples of every class as plain integers.

    Raises:
        ValueError: As the given class, if a count is no whole number or below ``least``.
    """
    counts = [int(n) for n in class_counts]
    if not counts or min(counts) < 0 or any(n != given for n, given in zip(counts, class_counts, strict=True)):
        raise error(
            f"class_counts must be the numbers of training samples per class, whole and not negative; got {list(class_counts)}"
        )
    if min(counts) < least:
        short = counts.index(min(counts))
        raise error(f"every class needs {least} training sample(s) or more, class {short} has {counts[short]}: {counts}")
    return counts


class ClassTable:
    """One value per class, looked up for labels on whatever device they live."""

    def __init__(self, values: Sequence[float] | Sequence[bool], dtype: torch.dtype, error: type[ValueError]) -> None:
        self._values = torch.tensor(values, dtype=dtype)
        self._error = error

    def __call__(self, targets: Tensor) -> Tensor:
        """Values ``[n]`` of labels ``[n]``.

        Raises:
            ValueError: As the class given at construction, for a label out of range (checked where that costs nothing, on the
                CPU; CUDA reports a device assertion).
        """
        if self._values.device != targets.device:
            self._values = self._values.to(targets.device)
        if targets.device.type == "cpu":
            low, high, classes = int(targets.min()), int(targets.max()), len(self._values)
            if low < 0 or high >= classes:
                raise self._error(
                    f"labels must lie in 0 .. {classes - 1}, one for each class count, but run from {low} to {high}"
                )
        return self._values[targets]
