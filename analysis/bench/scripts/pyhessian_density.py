"""Outermost Ritz values of PyHessian's density at its defaults (100 steps, one vector): FOLDER BATCH."""

import json
import sys

import torch
from pyhessian import hessian
from subject import load
from torch.nn.attention import SDPBackend, sdpa_kernel


def eig(A, eigenvectors):
    """PyHessian 0.1 was written for a torch that had it; the matrix is symmetric."""
    values, vectors = torch.linalg.eigh(A)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


torch.eig = eig
folder, batch = sys.argv[1:]
model, batches = load(folder, int(batch))
with sdpa_kernel(SDPBackend.MATH):
    values, _ = hessian(model, torch.nn.CrossEntropyLoss(), dataloader=batches, cuda=False).density()
print(json.dumps({"lambda_min": float(min(map(min, values))), "lambda_max": float(max(map(max, values)))}))
