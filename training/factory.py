"""Finds ``package.module:name`` and ``path/file.py:name``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


class FactoryError(ValueError):
    """A factory that cannot be found or imported."""


def load_factory(reference: str) -> Any:
    """The object that ``reference`` names.

    A file is imported under a name of its own, so that a user's ``training.py`` or ``models.py`` shadows nothing; its folder
    is importable meanwhile, for the modules beside it.

    Raises:
        FactoryError: no such file, module or name, or the import failed.
    """
    module_name, _, name = reference.rpartition(":")
    if not module_name or not name:
        raise FactoryError(f"factory {reference!r}: write package.module:name or path/file.py:name")
    try:
        module = _load_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except FactoryError:
        raise
    except Exception as error:
        raise FactoryError(f"factory {reference!r}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise FactoryError(f"factory {reference!r}: {module_name} has no {name!r}")
    return getattr(module, name)


def _load_file(path: Path) -> Any:
    file = path.expanduser().resolve()
    if not file.is_file():
        raise FactoryError(f"factory file {path} does not exist (looked for {file})")
    unique = f"_user_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and pickles look the module up while it is being run
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    finally:
        sys.path.remove(str(file.parent))
    return module
