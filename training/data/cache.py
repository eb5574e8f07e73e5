"""Decoded arrays kept beside the user's other caches, so that an archive of images is unpacked once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..files import write_bytes

#: raised when a reader changes what it makes of a file
VERSION = 1


def cache_folder() -> Path:
    """``$SADDLESCOPE_CACHE``, else ``$XDG_CACHE_HOME/saddlescope``, else ``~/.cache/saddlescope``."""
    own = os.environ.get("SADDLESCOPE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "saddlescope"


def cached_arrays(path: Path, read: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What ``read`` returns; from the cache while ``path`` is the file it was made from.

    A folder is read anew each time: its own date says nothing of the files inside. A cache that cannot be written or read is no
    error, only slow.

    Args:
        path: file or folder that is read.
        read: the reader.
    """
    if path.is_dir():
        return read()
    state = path.stat()
    key = f"{VERSION} {path.resolve()} {state.st_size} {state.st_mtime_ns}"
    file = cache_folder() / f"{path.name.split('.')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}  # members are checked against their CRC-32
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    arrays = read()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # names are ours
    with contextlib.suppress(OSError):
        write_bytes(file, buffer.getvalue())
    return arrays
