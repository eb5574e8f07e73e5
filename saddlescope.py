"""saddlescope: Hessian and saddle-point analysis of classifiers trained on long-tailed data.

The front door: public names (imported when first used, so that ``import saddlescope`` stays light) and the command line,
assembled from the four packages. This module is the parent of the packages: its ``__path__`` is the checkout, or in an
installed copy the ``saddlescope`` folder beside it. Either way ours are ``saddlescope.training``, ``saddlescope.analysis``,
``saddlescope.figures`` and ``saddlescope.reports``, and a user's own packages of those names stay theirs.

Above 300 lines: it is the one module that all four packages may import, and beside it there is no place but in one of them.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

__version__ = "0.1.0"
Item = TypeVar("Item")
_HERE = Path(__file__).resolve().parent
__path__ = [str(_HERE / "saddlescope" if (_HERE / "saddlescope").is_dir() else _HERE)]

#: public name -> module that defines it
_PUBLIC = {
    "SAM": "training.optimizers.registry",
    "ImbSAM": "training.optimizers.registry",
    "SSESAM": "training.optimizers.registry",
    "CCSAM": "training.optimizers.registry",
    "FocalSAM": "training.optimizers.registry",
    "LateImbSAM": "training.optimizers.registry",
    "BSAM": "training.optimizers.registry",
    "LESAM": "training.optimizers.registry",
    "GSA": "training.optimizers.registry",
    "PGD": "training.optimizers.registry",
    "LPFSGD": "training.optimizers.registry",
    "EigenSAM": "training.optimizers.registry",
    "ClassificationLoss": "analysis.hessian.losses",
    "HessianOperator": "analysis.hessian.operator",
    "Samples": "analysis.samples.samples",
    "Scheme": "analysis.records.results",
    "CurvatureResult": "analysis.records.results",
    "Slice": "analysis.records.slices",
    "AnalysisSettings": "analysis.records.settings",
    "analyze": "analysis.measures.analyze",
    "Monitor": "analysis.monitor.monitor",
    "critical_steps": "analysis.measures.analyze",
    "load_study": "analysis.records.load_study",
    "build_model": "training.networks.models",
    "build_loss": "training.losses",
    "load_data": "training.data.datasets",
    "analysis_set": "training.data.datasets",
    "evaluation_set": "training.data.datasets",
}
#: Likewise, of modules that need a package of the extra of that name
_EXTRAS = {
    "LightningMonitor": "analysis.monitor.lightning",
    "TransformersMonitor": "analysis.monitor.transformers",
}
#: Factories of the suite under the names that stored side-cars of earlier versions call them by.
_FORMER = {
    "saddlescope.training.models:build_model": "saddlescope:build_model",
    "saddlescope.training.losses:build_loss": "saddlescope:build_loss",
    "saddlescope.training.datasets:analysis_set": "saddlescope:analysis_set",
    "saddlescope.training.datasets:evaluation_set": "saddlescope:evaluation_set",
}
__all__ = ["FactoryError", "TrustError", "__version__", "load_factory", "main", *_PUBLIC]  # noqa: PLE0604  # names made by __getattr__


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"saddlescope.{_PUBLIC[name]}"), name)
    if name in _EXTRAS:
        return getattr(import_module(f"saddlescope.{_EXTRAS[name]}"), name)
    raise AttributeError(f"module 'saddlescope' has no attribute {name!r}")


class FactoryError(ValueError):
    """A factory that cannot be found or imported."""


def load_factory(reference: str) -> Any:
    """The object named ``package.module:name`` or ``path/file.py:name``: how recipes, side-cars and users name code.

    A file is imported under a name of its own, so that a user's ``training.py`` or ``models.py`` shadows nothing; its folder
    is importable meanwhile, for the modules beside it. Modules are looked for in the current folder as well.

    Raises:
        FactoryError: no such file, module or name, or the import failed.
    """
    reference = _FORMER.get(reference, reference)
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise FactoryError(f"factory {reference!r}: write package.module:name or path/file.py:name")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    except FactoryError:
        raise
    except Exception as error:
        raise FactoryError(f"factory {reference!r}: importing {place} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise FactoryError(f"factory {reference!r}: {place} has no {name!r}")
    return getattr(module, name)


def _load_module(name: str) -> Any:
    here = str(Path.cwd())
    if here in sys.path or name.split(".", maxsplit=1)[0] == "saddlescope":
        return import_module(name)
    sys.path.insert(0, here)  # a console script does not look here by itself
    try:
        return import_module(name)
    finally:
        sys.path.remove(here)


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
    # Beside the file first, then where the command runs: a repository's scripts import packages of its root.
    places = [str(file.parent), str(Path.cwd())]
    sys.path[:0] = places
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    finally:
        for place in places:
            sys.path.remove(place)
    return module


class TrustError(ValueError):
    """A stored file names code, or a file, that the person did not; the message names it and says how to allow it."""


#: what a stored file may name unasked: these run code of ours only, unless their argument ``name`` names other code
OWN_FACTORIES = frozenset(_FORMER) | frozenset(_FORMER.values())
#: a model, data set or loss of ours; anything with a colon, a slash or one of these endings is code or a file
_NAME = re.compile(r"(?!.*\.(py|pt2?|pth|npz|safetensors)$)[A-Za-z0-9][A-Za-z0-9._-]*", re.IGNORECASE)


@dataclass(frozen=True)
class Permission:
    """What a stored file may name: what is ours, and what the person named on this command line.

    Every string that comes out of a file (side-car, stored result, recipe of a study folder) and is about to be imported,
    called or opened goes through :meth:`check` first. Nothing else decides; see SECURITY.md.

    Attributes:
        named: references as the command line gives them, ``nets.py:net``.
        everything: the person trusts the file (``--trust-checkpoint``).
    """

    named: frozenset[str] = frozenset()
    everything: bool = False

    def check(self, where: Path | str, parts: Mapping[str, tuple[str, Mapping[str, Any]]], instead: str | None = None) -> None:
        """Returns if the file may name all of this.

        Args:
            where: the file that names it.
            parts: ``model``, ``data`` or ``loss`` -> (factory, name or file; the arguments that the file gives to it).
            instead: how the person names it; default: the flags of these parts.

        Raises:
            TrustError: it may not.
        """
        if self.everything:
            return
        named = {_absolute(name) for name in self.named}
        strangers = {part: name for part, pair in parts.items() for name in foreign(*pair) if _absolute(name) not in named}
        if strangers:
            what = " and ".join(f"{name!r} as its {part}" for part, name in strangers.items())
            flags = instead or " and ".join(f"--{part}" for part in strangers)
            raise TrustError(
                f"{where}: names {what}, and what comes with a file is not run or opened unasked: say yourself what it is with "
                f"{flags}, or add --trust-checkpoint if the file is your own"
            )


def foreign(reference: str, arguments: Mapping[str, Any]) -> list[str]:
    """What a reference and its arguments name besides what is ours."""
    if reference not in OWN_FACTORIES and not _NAME.fullmatch(reference):
        return [reference]
    name = arguments.get("name")  # our factories are asked for a thing by its name, which may be code as well
    return [name] if isinstance(name, str) and not _NAME.fullmatch(name) else []


def _absolute(reference: str) -> str:
    """The reference with its file, if it has one, as an absolute path."""
    place, colon, name = reference.rpartition(":")
    if colon and not place.endswith(".py"):
        return reference
    try:
        return f"{Path(place).expanduser().resolve()}:{name}" if colon else str(Path(name).expanduser().resolve())
    except (ValueError, RuntimeError, OSError):  # no path at all: a zero byte, a home that is nobody's
        return reference


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux on x86
        return platform.processor() or platform.machine()


def reuse_freed_memory() -> None:
    """Lets this process keep memory that it freed, to use it again, up to 2 GiB; for processes that do one thing only.

    Products of large networks and compiled training steps make and drop tensors of megabytes. By default these come from the
    system, which clears every page: a fifth of the processor time.
    """
    # Of glibc; elsewhere nothing is changed.
    adjust = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if adjust is not None:
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: what is got from the system by itself, and given back
            adjust(option, 2**31 - 1)


def share(items: list[Item], shard: str | None, error: type[ValueError]) -> list[Item]:
    """The part of one process of several, ``--shard i/n``: every n-th item from the i-th on; all of them without.

    Raises:
        ValueError: As the given class, if ``shard`` is not of that form.
    """
    if shard is None:
        return items
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or int(match[1]) >= int(match[2]):
        raise error(f"--shard {shard}: write i/n with 0 <= i < n, such as 0/4")
    return items[int(match[1]) :: int(match[2])]


def application() -> typer.Typer:
    """The command line: every package registers its own commands."""
    app = typer.Typer(
        name="saddlescope",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_front)
    for package in ("training", "analysis", "figures", "reports"):
        import_module(f"saddlescope.{package}.commands").register(app)
    app.command()(reproduce)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saddlescope {__version__}")
        raise typer.Exit


def _front(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Hessian and saddle-point analysis of classifiers trained on long-tailed data."""


def reproduce(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE", help="Recipes of saddlescope (digits-lt ...) or TOML files, in this order."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of studies; this one goes to OUT/<name of the recipe>.")] = Path("runs"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field: --set training.epochs=5.")
    ] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder to look for the data in first.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Run the code that the files of a study folder name.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="What the papers show, the recipe of each figure, and whether it reproduces.")
    ] = False,
) -> None:
    """Train, analyze, draw and report each RECIPE; run it again to continue after an interruption."""
    from saddlescope.analysis.records.load_study import load_study
    from saddlescope.analysis.records.study_plan import StudyAnalysis
    from saddlescope.analysis.studies.progress import analyze_with_progress
    from saddlescope.figures.draw import draw_study
    from saddlescope.reports.page.html import write_report
    from saddlescope.reports.page.summary import print_summary
    from saddlescope.training.runs.progress import train_with_progress
    from saddlescope.training.runs.recipe import load_recipe

    if list_:
        from saddlescope.reports.literature.registry import print_registry

        print_registry(out)
        return
    if not recipes:
        raise typer.BadParameter("name a recipe, or give --list", param_hint="RECIPE")
    wanted = [load_recipe(name, overrides or [], trust=trust_checkpoint) for name in recipes]
    plans = [StudyAnalysis.parse(recipe.resolved(), name) for recipe, name in zip(wanted, recipes, strict=True)]
    for recipe, plan in zip(wanted, plans, strict=True):
        study = out / recipe.name
        train_with_progress(recipe, study, data_root=data_root, jobs=jobs)
        permission = Permission(frozenset({recipe.model.name}), trust_checkpoint)
        analyze_with_progress(study, plan, data_root=data_root, jobs=jobs, permission=permission)
        draw_study(study, jobs=jobs or processors())
        report = write_report(study)
        print_summary(load_study(study))
        typer.echo(report)


def main() -> None:
    """Runs the command line; exit code 0 fine, 1 a job or check failed, 2 usage or bad input, 130 interrupted."""
    try:
        _run()
    except SystemExit as end:
        if "torch.distributed" in sys.modules and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _leave(end.code)
        raise


def _run() -> None:
    try:
        application()()
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, as typer reports it
            print("interrupted; what was finished is kept, the same command continues", file=sys.stderr)
        raise
    except Exception as error:
        ours = type(error).__module__.split(".")[0] == "saddlescope"
        full = type(error).__name__ == "SafetensorError"  # how safetensors says that a file could not be written
        if not ours and not full and not isinstance(error, OSError):
            raise  # a defect of ours: the traceback is what is needed
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RuntimeError) else 2)


def _leave(code: str | int | None) -> NoReturn:
    """Ends one process of several without clearing the interpreter away.

    torch keeps threads of gloo beyond ``destroy_process_group`` (in caches of DTensor, in default arguments of
    ``torch.distributed.nn``), and one that asks for the interpreter while that is cleared away aborts the process after it has
    done everything: so ended 3 of 79 runs of a training script with the same threads. What was registered for the end is done.
    """
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
