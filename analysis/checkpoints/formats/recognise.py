"""What a file is, by what it begins with and holds; its name decides nothing."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

#: what files of torch before 1.6 begin with, after the number of the pickle protocol
_OLD_TORCH = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_LFS = b"version https://git-lfs"


def is_archive(path: Path) -> bool:
    """Whether a file ends as a zip archive does, as new torch files do."""
    try:
        return zipfile.is_zipfile(path)
    except Exception:  # a damaged one, of several disks say
        return False


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: with the length of a JSON table, and the table; or at least is called so."""
    start = _start(path, 32)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return True
    other = is_archive(path) or _OLD_TORCH in start or start.startswith(_LFS)
    return path.suffix == ".safetensors" and not other


def members(path: Path) -> list[str]:
    """Names in a zip archive; none where it is damaged, which the reader says (zipfile has many ways to)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:
        return []


def no_torch_file(path: Path) -> str | None:
    """What a file is that no ``torch.save`` wrote; None where it may be one."""
    start = _start(path, 128)
    if is_archive(path):
        names = members(path)
        other = names and not any(name.endswith(("/data.pkl", "/constants.pkl")) for name in names)
        return f"an archive of another kind, which holds {', '.join(names[:4])}" if other else None
    if _OLD_TORCH in start[:32]:
        return None
    if start.startswith(b"PK\x03\x04"):
        return "no complete torch file (an archive without its end: truncated?)"
    if start.startswith(_LFS):
        return "no torch file but a pointer of Git LFS to one: fetch it with git lfs pull"
    if start.startswith(b"\x80") and start[1:2] in b"\x02\x03\x04\x05":
        return (
            "no complete torch file but a pickle of another kind (or truncated): load it yourself, and torch.save a state dict"
        )
    if start and tarfile.is_tarfile(path):
        return "no torch file but a tar archive: unpack it"
    return (
        f"no complete torch file (truncated, or of another kind): it {f'begins with {start[:24]!r}' if start else 'is empty'}"
    )


def _start(path: Path, count: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(count)
