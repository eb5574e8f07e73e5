"""What every reader says when a file cannot be read."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit its model; the message says which keys and what to do."""


def first_line(error: Exception) -> str:
    """What an error says, as a part of one sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
