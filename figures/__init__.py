"""Stored results -> pictures. Nothing in this package imports torch."""
