"""What errors of other libraries say, within a sentence of ours."""

from __future__ import annotations


def in_one_line(error: BaseException, length: int = 200) -> str:
    """The message on one line, cut to a length."""
    return " ".join(str(error).split())[:length]
