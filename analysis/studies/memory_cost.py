"""How much memory an analysis will hold: what this process holds after a few passes, and what comes to that, counted."""

from __future__ import annotations

import math
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from ..hessian.low_precision import is_rough_faster
from ..hessian.operator import HessianOperator
from ..records.settings import AnalysisSettings

#: flat float64 vectors that a Lanczos step holds beside the basis: product, what is left of it, its parts
STEP_VECTORS = 4
#: and float32 vectors that a measurement keeps: starts, products of the guard, both ends
KEPT_VECTORS = 8

#: and whole vectors that are there while a product of spread ones is taken: gathered in parts, joined, their product, its sum
WHOLE_VECTORS = 4


def resident_bytes(*, peak: bool = False) -> int:
    """Resident size of this process, now or at its largest."""
    try:  # ru_maxrss of a child begins at its parent's
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        name = "VmHWM:" if peak else "VmRSS:"
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
    except (OSError, StopIteration):
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024


def group_memory(
    operator: HessianOperator, settings: AnalysisSettings, before: int, scale: float, steps: float, slices: int = 1
) -> tuple[int, int, int, int]:
    """What the measurement of a group holds at its largest.

    Args:
        operator: over some of its samples, after a product; its graphs are kept as far as they fit.
        settings: of the analysis.
        before: bytes resident when the operator was made.
        scale: the group's samples over the operator's.
        steps: Lanczos steps.
        slices: processes that a vector is spread over.

    Returns:
        Resident bytes at the largest, those without float64 checks, those of the graphs, and bytes on disk.
    """
    kept = operator.kept_bytes
    wanted = kept * scale
    rough = settings.rough and settings.goal in ("ends", "verdict") and is_rough_faster(operator)
    if rough:  # their convolutions' inputs in bfloat16 as well
        wanted *= 1.5
    graphs = min(wanted, operator.graph_budget)
    if wanted > graphs:  # one after another is recorded for a product, and dropped
        graphs += wanted / math.ceil(operator.num_samples * scale / operator.micro_batch)
    vector = operator.size * operator.dtype.itemsize
    basis = vector * (steps + 1) / slices
    place = operator.place(settings.basis)
    held = min(basis, place) if isinstance(place, int) else basis if place != "disk" else 0
    if operator.device.type != "cpu" and place != "cpu":  # not this process' memory, but the device's
        held = 0
    step = held + (STEP_VECTORS * 8 * operator.size + KEPT_VECTORS * vector) / slices
    if slices > 1:
        step += WHOLE_VECTORS * vector
    # The float64 rechecks were done beside the graphs that were kept; a measurement holds its gradient meanwhile.
    checks = resident_bytes(peak=True) - before - kept + vector
    on_disk = int(basis - held) if held < basis and place != "cpu" else 0
    return int(before + graphs + max(step, checks)), int(before + graphs + step), int(graphs), on_disk


def free_on_disk() -> int:
    """Bytes that are free where a basis goes that does not fit into memory."""
    return shutil.disk_usage(tempfile.gettempdir()).free
