"""A saddle that catches SAM: gradient descent and SAM on two quadratics, from the same start (no data, no network).

SAM's perturbed gradient has the component ``(1 + rho lambda / ||g||) lambda w`` along an eigenvector of eigenvalue
``lambda < 0``. Where ``||g|| < rho |lambda|`` its sign is turned, and the step goes towards the saddle (Kim et al. 2023,
arXiv 2301.06308; Compagnoni et al. 2023, arXiv 2301.08203).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle
from numpy.typing import NDArray

from ...analysis.records.base import write_text_atomically
from ..drawing.appearance import OPTIMIZERS
from ..drawing.canvas import heading, new_figure, render, style, write_bytes_atomically
from ..drawing.scales import log_axis, number_label, plain_ticks
from ..drawing.study_data import Drawing

NAME = "saddle_demo"
PAPER = "F11 (Kim et al. 2023: demonstration on x² − y²)"
RATE, STEPS = 0.01, 600
PLANE, PLANE_START = (2.0, -2.0), (0.8, 0.01)
SPACE, SPACE_START = (2.0, 1.0, -1.5), (1.0, 0.5, 0.01)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """Gradient descent (rho 0) or SAM with its radius."""

    rho: float
    colour: str
    dashes: str

    @property
    def name(self) -> str:
        """As the legend calls it."""
        return f"SAM, ρ = {number_label(self.rho)}" if self.rho else "gradient descent"


METHODS = (
    Method(0.0, OPTIMIZERS["sgd"].colour, "-"),
    Method(0.05, OPTIMIZERS["sam"].colour, "-"),
    Method(0.5, OPTIMIZERS["sam"].colour, "--"),
)


def walk(eigenvalues: tuple[float, ...], start: tuple[float, ...], rho: float, steps: int = STEPS, rate: float = RATE) -> Array:
    """Weights ``[steps + 1, n]`` of SAM (gradient descent for rho 0) on ``sum_i lambda_i w_i^2 / 2``.

    Args:
        eigenvalues: the diagonal Hessian.
        start: first weights.
        rho: SAM's radius.
        steps: number of steps.
        rate: learning rate.
    """
    hessian, w = np.asarray(eigenvalues), np.asarray(start, dtype=np.float64)
    path = [w]
    for _ in range(steps):
        gradient = hessian * w
        norm = float(np.linalg.norm(gradient))
        perturbed = w + rho * gradient / norm if norm > 0 else w
        w = w - rate * hessian * perturbed
        path.append(w)
    return np.stack(path)


def draw() -> Drawing:
    """Left: the paths on x^2 - y^2. Right: the distance from the saddle along the negative direction, step by step."""
    figure = new_figure(8.6, 4.2)
    plane, along = figure.subplots(1, 2)
    _plane(plane)
    ends = []
    for method in METHODS:
        escaped = np.abs(walk(SPACE, SPACE_START, method.rho)[:, -1])
        ends.append(float(escaped[-1]))
        along.plot(escaped, color=method.colour, linestyle=method.dashes, label=method.name, gid=f"rho-{method.rho:g}")
    along.axhline(SPACE_START[-1], color="#999999", linewidth=0.6, zorder=1)
    log_axis(along, "y", [1e-6, max(ends)], pad=2)
    along.set_xlim(0, STEPS)
    along.set_xlabel("step")
    along.set_ylabel(r"$|w_-|$ (log)")
    plain_ticks(along.xaxis, 6)
    along.set_title(r"eigenvalues 2, 1, $-$1.5: distance along the last", fontweight="normal")
    figure.legend(handles=along.get_lines()[: len(METHODS)], loc="outside lower center", ncols=len(METHODS))
    heading(figure, "A saddle that catches SAM", f"quadratics, learning rate {RATE:g}, {STEPS} steps, no noise")
    caption = (
        "Gradient descent and SAM on quadratics with a saddle at 0. Left: x² − y², all from (0.8, 0.01). "
        f"Shaded: where ‖∇f‖ < ρ|λ| for ρ = {METHODS[-1].rho:g}; there SAM's step along y points back towards the "
        "saddle. Right: the component along the negative direction. Gradient descent leaves, "
        f"|w₋| = {ends[0]:.0f} after {STEPS} steps; SAM with ρ = {METHODS[1].rho:g} leaves more slowly ({ends[1]:.1f}); with "
        f"ρ = {METHODS[2].rho:g} it is caught ({ends[2]:.1g})."
    )
    return Drawing(figure, "Gradient descent leaves a saddle, SAM with a large radius does not", caption, PAPER)


def _plane(axes: Axes) -> None:
    x, y = np.meshgrid(np.linspace(-0.9, 0.9, 121), np.linspace(-0.9, 0.9, 121))
    axes.contour(x, y, x**2 - y**2, levels=np.linspace(-0.8, 0.8, 17), cmap=ListedColormap(["#C9CED3"]), linewidths=0.7)
    # ||grad|| = 2 ||w|| on x^2 - y^2, and |lambda| = 2
    axes.add_patch(Circle((0, 0), METHODS[-1].rho, facecolor="#F6ECEE", edgecolor="#B2455A", linewidth=0.6, zorder=1.2))
    for method in METHODS:
        path = walk(PLANE, PLANE_START, method.rho)
        axes.plot(path[:, 0], path[:, 1], color=method.colour, linestyle=method.dashes, zorder=3, gid=f"rho-{method.rho:g}")
    axes.plot(*([value] for value in PLANE_START), marker="o", color="#222222", markersize=4, linestyle="none", zorder=4)
    axes.set_xlim(-0.9, 0.9)
    axes.set_ylim(-0.9, 0.9)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_xlabel("x (curves up)")
    axes.set_ylabel("y (curves down)")
    plain_ticks(axes.xaxis, 5)
    plain_ticks(axes.yaxis, 5)
    axes.set_title("x² − y²", fontweight="normal")


def save(out: Path, formats: tuple[str, ...]) -> list[Path]:
    """Writes ``out/saddle_demo.<format>`` and ``out/saddle_demo.md``, which says what it shows; returns the pictures."""
    with style():
        drawing = draw()
        files = {out / f"{NAME}.{kind}": data for kind, data in render(drawing.figure, formats).items()}
    for path, data in files.items():
        write_bytes_atomically(path, data)
    write_text_atomically(out / f"{NAME}.md", f"**{drawing.title}.** {drawing.caption}\n")
    return list(files)
