"""Does the graph that a product is taken through fit the memory budget, and with how many samples at once?"""

from __future__ import annotations

import torch

from .operator import HessianOperator

#: What is computed in float32 is looked at in float64, too, whose graphs are twice as large.
_WIDER = {torch.float32: 2}


class BudgetError(ValueError):
    """Not even one sample fits the memory budget; the message says the smallest that works."""


def fit_budget(operator: HessianOperator, budget: int) -> None:
    """Lets an operator pass as many samples at once as the budget holds the graph of, if that is fewer than it would.

    Args:
        operator: whose micro-batch nobody chose.
        budget: in bytes, for graphs and for the Krylov vectors that the operator sets aside.

    Raises:
        BudgetError: one sample's graph is larger.
    """
    count, wider = operator.samples.num_samples, _WIDER.get(operator.dtype, 1)
    # Samples may be of several sizes.
    one, largest = max((operator.graph_bytes([row]), row) for row in {0, count // 2, count - 1})
    if wider * one > operator.graph_budget:
        least = -(-(wider * one + min(operator.vector_bytes, wider * one)) // 2**20)
        raise BudgetError(
            f"a memory budget of {budget / 2**20:.3g} MiB is too small: the graph of one sample and the vectors beside it take "
            f"{least} MiB; give --memory {least}MiB or more, or fewer parameters with --params"
        )
    each = max(operator.graph_bytes([largest, largest]) - one, 1)
    operator.at_most(1 + (operator.graph_budget // wider - one) // each)
