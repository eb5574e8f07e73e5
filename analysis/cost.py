"""What an analysis will take, measured on one Hessian-vector product, before it is begun."""

from __future__ import annotations

import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from .groups import group_indices, make_scheme
from .memory import free_bytes
from .modules import copied
from .operator import HessianOperator
from .study_plan import CurvatureItem
from .subject import Given, open_checkpoint

#: products beside the Lanczos steps: noise (3), additivity, Rayleigh quotients, certificate
EXTRA = 8
#: products are timed on at most so many samples and scaled
SAMPLE = 512


def print_cost(item: CurvatureItem, given: Given, count: int = 1) -> None:
    """Prints time and memory of one checkpoint's analysis and of all of them; measures one product a group and stores nothing.

    Args:
        item: the first checkpoint.
        given: what the command line says about it.
        count: how many checkpoints there are.
    """
    subject = open_checkpoint(item.checkpoint, given)
    settings = item.settings
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    eta = settings.eta if settings.eta is not None else subject.eta
    scheme = make_scheme(settings.scheme, subject.samples.class_counts, eta=eta, mapping=settings.groups)
    model = copied(subject.model).to(device, dtype)
    table = Table(title=f"{item.checkpoint.name}: at most {settings.starts} x {settings.steps} Lanczos steps a group")
    for heading in ("group", "samples", "seconds a product", "products, at most", "minutes, at most", "graph memory"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    minutes = 0.0
    products = settings.starts * settings.steps + EXTRA
    parameters = 0
    for name, indices in group_indices(scheme, subject.samples.labels).items():
        size = len(indices) if settings.subsample is None else min(len(indices), settings.subsample)
        part = indices[np.linspace(0, len(indices) - 1, min(size, SAMPLE)).astype(int)]
        operator = HessianOperator(model, subject.samples.subset(part), subject.loss, params=settings.params)
        parameters = operator.size
        products = parameters if settings.engine == "exact" else min(products, settings.starts * parameters + EXTRA)
        v = torch.ones(operator.size, dtype=dtype, device=device)
        operator.matvec(v)
        began = time.perf_counter()
        operator.matvec(v)
        seconds = (time.perf_counter() - began) * size / len(part)
        memory = operator.kept_bytes * size / len(part)
        minutes += seconds * products / 60
        table.add_row(
            name, str(size), f"{seconds:.3g}", str(products), f"{seconds * products / 60:.3g}", f"{memory / 2**20:,.0f} MiB"
        )
        operator.release()
    console = Console()
    console.print(table)
    budget = settings.memory or free_bytes(device) // 2
    basis = settings.steps * parameters * torch.finfo(dtype).bits // 8
    console.print(
        f"{parameters:,} parameters; Krylov basis {basis / 2**20:,.0f} MiB; graphs are kept up to {budget / 2**20:,.0f} MiB, "
        f"recomputed beyond. At most {minutes:.2g} minutes a checkpoint, {minutes * count:.2g} for all {count}."
    )
