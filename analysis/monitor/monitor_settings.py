"""What a monitor is told: settings (an analysis of few steps, unless they say otherwise), and the steps of a loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..records.settings import AnalysisSettings, parse_settings
from .run_folder import MonitorError

#: What differs from an analysis of a checkpoint: 1 % will do for a curve, and every run has its two-sided interval.
SETTINGS: dict[str, Any] = {"goal": "ends", "rtol": 1e-2, "rough": False, "escape": False}


def monitor_settings(eta: int | None, goal: str, seed: int, others: Mapping[str, Any]) -> AnalysisSettings:
    """Settings of a monitor.

    Args:
        eta: as of :class:`~saddlescope.analysis.monitor.monitor.Monitor`, like the others.
        goal: likewise.
        seed: likewise.
        others: fields of the settings.

    Raises:
        MonitorError: a field that a monitor decides itself.
        SettingsError: an unknown field, or one out of range.
    """
    for name in ("device", "subsample", "only"):
        if name in others:
            raise MonitorError(f"leave out '{name}': a monitor measures every group, where the model is, on `most` samples")
    named = "custom" if "groups" in others else "column" if "column" in others else None
    scheme = named or ("head-tail" if eta is not None else "all")
    asked: dict[str, Any] = {"rates": True} if others.get("escape") else {}
    table = {**SETTINGS, "scheme": scheme, "goal": goal, "seed": seed, **asked, **others}
    return parse_settings(table | ({} if eta is None else {"eta": eta}), "Monitor")


def require(every: int, most: int, at_most: float | None, optimizer: Any) -> None:
    """Returns if the arguments of a monitor are in their ranges, and the optimizer is one.

    Raises:
        MonitorError: one is not.
    """
    if every < 1 or most < 2 or (at_most is not None and not 0 < at_most <= 1):
        raise MonitorError(
            f"every = {every}, most = {most}, at_most = {at_most}: steps from 1, samples from 2, a share in (0, 1]"
        )
    if optimizer is not None and not hasattr(optimizer, "param_groups"):
        raise MonitorError(f"optimizer = {type(optimizer).__name__}: give the optimizer, which has the learning rate")


def whole_step(step: Any) -> int | None:
    """A step as a loop may count it, an array's or a tensor's number among others; None where it is no number from 0 on."""
    try:
        whole = int(step)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return whole if whole >= 0 else None
