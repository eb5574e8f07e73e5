"""Ends of a Hessian with curvlinops and SciPy: FOLDER BATCH NCV WHICH..., NCV 0 for SciPy's own, WHICH of BE, SA, LA."""

import json
import sys

import torch
from curvlinops import HessianLinearOperator
from scipy.sparse.linalg import eigsh
from subject import load
from torch.nn.attention import SDPBackend, sdpa_kernel

folder, batch, ncv, *ends = sys.argv[1:]
model, batches = load(folder, int(batch))
parameters = [p for p in model.parameters() if p.requires_grad]
found = {}
with sdpa_kernel(SDPBackend.MATH):
    H = HessianLinearOperator(model, torch.nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False).to_scipy()
    for which in ends:
        k = 2 if which == "BE" else 1
        values = eigsh(H, k=k, which=which, tol=1e-2, ncv=int(ncv) or None, return_eigenvectors=False)
        if which != "LA":
            found["lambda_min"] = float(values.min())
        if which != "SA":
            found["lambda_max"] = float(values.max())
print(json.dumps(found))
