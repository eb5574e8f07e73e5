"""The model that a user names: code of their own, a name of torchvision or timm, a model of the suite, an exported program."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map

from saddlescope import load_factory

from .formats.errors import first_line
from .formats.recognise import is_archive
from .user_code import SubjectError, call

#: factory of the suite's own models: found by name, like anybody's
OUR_MODELS = "saddlescope:build_model"
#: collections of models that are called by name -> (factory, its argument for the name, lister of the names)
_COLLECTIONS = {
    "torchvision": ("torchvision.models:get_model", "name", "torchvision.models:list_models"),
    "timm": ("timm:create_model", "model_name", "timm:list_models"),
}


def build_model(reference: str, arguments: Mapping[str, Any], num_classes: int | None = None) -> nn.Module:
    """The model that a reference names.

    Args:
        reference: ``file.py:factory``, ``package.module:factory``, ``torchvision:resnet18``, ``timm:resnet10t``, a model of the
            suite (``resnet32-cifar``), or an exported program (``.pt2``).
        arguments: keyword arguments of the factory.
        num_classes: given to a factory that asks for it and did not get it, and to every model of torchvision and timm.

    Raises:
        SubjectError: the factory raised, or returned no module; torchvision or timm is not installed or has no such model; the
            program cannot be read, was exported in train mode, or for batches of one size.
        FactoryError: it cannot be found or imported.
    """
    if reference.endswith(".pt2"):
        return _exported(Path(reference).expanduser())
    collection, _, wanted = reference.partition(":")
    if not wanted:
        factory, arguments = load_factory(OUR_MODELS), {"name": reference, **arguments}
        asks = _asks_for_classes(factory, optional=True)
    elif collection in _COLLECTIONS and wanted != "create_model":
        factory, arguments = _of_collection(collection, wanted, arguments)
        asks = True
    else:
        factory = load_factory(reference)
        asks = callable(factory) and _asks_for_classes(factory, optional=False)
    if isinstance(factory, nn.Module):
        return factory
    if num_classes is not None and "num_classes" not in arguments and asks:
        arguments = {**arguments, "num_classes": num_classes}
    model = call(factory, reference, arguments)
    if not isinstance(model, nn.Module):
        raise SubjectError(f"model factory {reference} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def needs_classes(reference: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a model can be built only once the number of classes is known, which the data tell.

    Raises:
        FactoryError: the reference cannot be found or imported.
    """
    if reference.endswith(".pt2") or "num_classes" in arguments:
        return False
    if ":" not in reference or reference.partition(":")[0] in _COLLECTIONS:
        return True
    factory = load_factory(reference)
    return not isinstance(factory, nn.Module) and callable(factory) and _asks_for_classes(factory, optional=False)


def _asks_for_classes(factory: Callable[..., Any], *, optional: bool) -> bool:
    """Whether a factory has an argument ``num_classes``; one with a default only counts if ``optional``."""
    try:
        wanted = inspect.signature(factory).parameters.get("num_classes")
    except ValueError:
        return False
    return wanted is not None and (optional or wanted.default is wanted.empty)


def _of_collection(package: str, name: str, arguments: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Factory and arguments of a model that torchvision or timm knows by name."""
    if importlib.util.find_spec(package) is None:
        raise SubjectError(f"--model {package}:{name}: {package} is not installed here; pip install {package}")
    reference, argument, lister = _COLLECTIONS[package]
    known = list(load_factory(lister)())
    if name.split(".", maxsplit=1)[0] not in known:  # timm: what follows the point names pretrained weights
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"{package} lists its models with {lister.replace(':', '.')}()"
        raise SubjectError(f"--model {package}:{name}: {package} has no model '{name}'; {hint}")
    return load_factory(reference), {argument: name, **arguments}


def _exported(path: Path) -> nn.Module:
    if not path.is_file():
        raise SubjectError(f"--model {path}: no such file")
    if not is_archive(path):
        raise SubjectError(f"--model {path}: no complete program of torch.export.save")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise SubjectError(f"--model {path}: cannot be read as an exported program: {first_line(error)}") from None
    if operation := _in_train_mode(program):
        raise SubjectError(
            f"--model {path}: exported in train mode ({operation} is as in training), and that cannot be changed afterwards; "
            "call model.eval() and export it again"
        )
    guarded = "check_guards" in inspect.signature(program.module).parameters  # not in torch 2.6
    model = program.module(check_guards=False) if guarded else program.module()
    model._forward_pre_hooks.clear()  # these insist on the example's batch size; below it is tried whether others work
    if size := _only_batches_of(program, model):
        raise SubjectError(
            f"--model {path}: works on batches of {size} samples only, as in the example it was exported with; export it again "
            "with dynamic_shapes={'<input>': {0: torch.export.Dim.DYNAMIC}}"
        )
    return model


def _in_train_mode(program: ExportedProgram) -> str | None:
    """The first operation that drops out or takes batch statistics."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        names = [argument.name for argument in schema.arguments] if schema is not None else []
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        if given.get("train") is True or given.get("training") is True or given.get("dropout_p", 0.0) != 0.0:
            return str(node.target)
    return None


def _only_batches_of(program: ExportedProgram, model: nn.Module) -> int | None:
    """The batch size that a reshape in the graph holds; None if twice the example's samples go through as well.

    An example of fixed size alone does not tell: most layers take any number of samples.
    """
    if program.example_inputs is None:
        return None
    positional, keywords = program.example_inputs
    tensors = [leaf for leaf in tree_leaves((positional, keywords)) if isinstance(leaf, Tensor) and leaf.dim() > 0]
    if not tensors:
        return None
    size = len(tensors[0])

    def doubled(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() > 0 else leaf

    with torch.no_grad():
        once = model(*positional, **keywords)
        try:
            twice = model(*tree_map(doubled, positional), **tree_map(doubled, keywords))
        except (RuntimeError, ValueError, IndexError):
            return size
    pairs = zip(tree_leaves(once), tree_leaves(twice), strict=True)
    lengths = [(len(a), len(b)) for a, b in pairs if isinstance(a, Tensor) and a.dim() > 0]
    return size if any(a == size and b != 2 * size for a, b in lengths) else None
