"""What every script begins with: a network of a file of somebody's, its weights, and samples in batches."""

import importlib.util
import sys

import numpy as np
import torch


def load(folder, batch):
    """Model in eval mode, and the samples of ``data.npz`` as a list of batches."""
    spec = importlib.util.spec_from_file_location("network", f"{folder}/network.py")
    network = sys.modules["network"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(network)
    model = network.build()
    model.load_state_dict(torch.load(f"{folder}/weights.pt", weights_only=True))
    data = np.load(f"{folder}/data.npz")
    pairs = zip(torch.from_numpy(data["x"]).split(batch), torch.from_numpy(data["y"]).split(batch), strict=True)
    # Fused attention has no second derivative.
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    return model.eval(), list(pairs)
