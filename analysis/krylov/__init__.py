"""Lanczos and what follows from it: ends, density, trace, bounds. Knows operators, nothing of networks."""
