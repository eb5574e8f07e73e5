"""Whole commands: analyses and slices of studies, cost, verification, worker processes."""
