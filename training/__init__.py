"""Data -> checkpoints: long-tailed data, losses, the SAM family, the training loop."""
