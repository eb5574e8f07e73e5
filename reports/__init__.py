"""Stored results -> tables, the HTML report and the baseline check. Nothing in this package imports torch."""
