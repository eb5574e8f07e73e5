"""saddlescope: Hessian and saddle-point analysis of classifiers trained on long-tailed data.

The front door: public names (imported when first used, so that ``import saddlescope`` stays light) and the command line,
assembled from the four packages. This module is the parent of the packages: its ``__path__`` is the checkout, or in an
installed copy the ``saddlescope`` folder beside it. Either way ours are ``saddlescope.training``, ``saddlescope.analysis``,
``saddlescope.figures`` and ``saddlescope.reports``, and a user's own packages of those names stay theirs.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

__version__ = "0.1.0"
_HERE = Path(__file__).resolve().parent
__path__ = [str(_HERE / "saddlescope" if (_HERE / "saddlescope").is_dir() else _HERE)]

#: public name -> module that defines it
_PUBLIC = {
    "SAM": "training.optimizers",
    "ImbSAM": "training.optimizers",
    "SSESAM": "training.optimizers",
    "CCSAM": "training.optimizers",
    "FocalSAM": "training.optimizers",
    "HessianOperator": "analysis.operator",
    "Samples": "analysis.samples",
    "Scheme": "analysis.results",
    "CurvatureResult": "analysis.results",
    "Slice": "analysis.results",
    "analyze": "analysis.analyze",
    "load_study": "analysis.study",
}
__all__ = ["__version__", "main", *_PUBLIC]  # noqa: PLE0604  # names made by __getattr__


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"saddlescope.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'saddlescope' has no attribute {name!r}")


def application() -> typer.Typer:
    """The command line: every package registers its own commands."""
    import typer

    app = typer.Typer(
        name="saddlescope",
        help="Hessian and saddle-point analysis of classifiers trained on long-tailed data.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for package in ("training", "analysis", "figures", "reports"):
        import_module(f"saddlescope.{package}.commands").register(app)
    return app


def main() -> None:
    """Runs the command line; exit code 0 fine, 1 a job or check failed, 2 usage or bad input, 130 interrupted."""
    try:
        application()()
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, the same command continues", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        ours = type(error).__module__.startswith("saddlescope.")
        if not ours and not isinstance(error, OSError):
            raise  # a defect of ours: the traceback is what is needed
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RuntimeError) else 2)


if __name__ == "__main__":
    main()
