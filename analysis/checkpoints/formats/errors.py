"""What every reader says when a file cannot be read."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit its model; the message says which keys and what to do.

    Names come from the file: line breaks and other signs that a terminal acts on are written out.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in message))


def first_line(error: Exception) -> str:
    """What an error says, as a part of one sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
