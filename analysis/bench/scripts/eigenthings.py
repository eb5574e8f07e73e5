"""Ends of a Hessian with hessian-eigenthings: FOLDER BATCH STEPS_SA STEPS_LA, steps 0 for its own, negative: not that end."""

import json
import sys

from hessian_eigenthings import HessianOperator, lanczos
from subject import load
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

folder, batch, low, high = sys.argv[1:]
model, batches = load(folder, int(batch))
total = sum(len(y) for _, y in batches)


def loss(model, batch):
    """Its operator takes the plain mean over batches; the factor makes a ragged last one weigh what it should."""
    return cross_entropy(model(batch[0]), batch[1], reduction="sum") * (len(batches) / total)


found = {}
with sdpa_kernel(SDPBackend.MATH):
    H = HessianOperator(model, batches, loss)
    for name, which, steps in (("lambda_min", "SA", int(low)), ("lambda_max", "LA", int(high))):
        if steps >= 0:
            chosen = {"max_iter": steps, "tol": 1e-2} if steps else {}
            found[name] = float(lanczos(H, k=1, which=which, seed=0, **chosen).eigenvalues[0])
print(json.dumps(found))
