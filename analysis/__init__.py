"""Checkpoint -> curvature results: operators, Lanczos, spectra, verdicts, landscapes.

Importing this package imports no torch: ``records`` is read by ``figures`` and ``reports``.
"""
