"""Checkpoint -> curvature results: operators, Lanczos, spectra, verdicts, landscapes.

Importing this package imports no torch: ``results`` and ``study`` are read by ``figures`` and ``reports``.
"""
