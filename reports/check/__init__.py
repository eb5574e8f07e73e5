"""Baselines, and the check that holds a new measurement against them."""
