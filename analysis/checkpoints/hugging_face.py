"""Models of Hugging Face, made of the configuration beside their weights: nothing is fetched, and no code of it runs."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..records.base import parse_json
from .formats.errors import CheckpointError, first_line
from .formats.folders import ADAPTER, is_adapter, read_weights
from .formats.states import find_state
from .user_code import SubjectError
from .weights import fit_weights

#: ``--model hf``
NAME = "hf"


def build_hugging_face(checkpoint: Path, arguments: Mapping[str, Any]) -> tuple[nn.Module, bool]:
    """The model whose configuration lies in a folder.

    Args:
        checkpoint: the folder, or a file of weights in it.
        arguments: changes to the configuration; for an adapter ``base``, the folder of the model that it belongs to.

    Returns:
        The model, without the weights of the checkpoint, and False; of an adapter with all weights, and True. There only the
        adapter's parameters require gradients.

    Raises:
        SubjectError: transformers (or peft) is not installed, or the configuration is of no model that it has.
        CheckpointError: weights of a base or an adapter do not fit.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    _require("transformers", folder)
    if not is_adapter(folder):
        return _of_config(folder, arguments), False
    return _with_adapter(folder, dict(arguments)), True


def _require(package: str, folder: Path) -> None:
    if importlib.util.find_spec(package) is None:
        raise SubjectError(f"--model hf ({folder}): {package} is not installed here; pip install 'saddlescope[hf]'")


def _table(path: Path) -> dict[str, Any]:
    try:
        table = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubjectError(f"--model hf: no {path.name} in {path.parent}, which says what the model is") from None
    except ValueError as error:
        raise SubjectError(f"{path}: no JSON ({first_line(error)})") from None
    if not isinstance(table, dict):
        raise SubjectError(f"{path}: no configuration, but a {type(table).__name__}")
    return table


def _of_config(folder: Path, arguments: Mapping[str, Any]) -> nn.Module:
    import transformers

    path = folder / "config.json"
    table = _table(path)
    names = table.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    kind: Any = getattr(transformers, name, None) if name.isidentifier() else None
    model_class = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    if not model_class or kind.config_class is None:
        said = f"its architecture {name!r} is none" if name else "it names no architecture"
        raise SubjectError(
            f"{path}: {said} that transformers {transformers.__version__} has; name a factory of yours with --model"
        )
    # Of the class that the architecture is of, and with plain attention: what a file may ask for besides can be fetched code.
    wanted = {key: value for key, value in table.items() if not key.startswith("_") and key != "auto_map"}
    for key in ("attn_implementation", "use_pretrained_backbone", "quantization_config", "torch_dtype", "dtype"):
        wanted.pop(key, None)
    try:
        _require_known(arguments, {**kind.config_class().to_dict(), **wanted}, name)
        config = kind.config_class.from_dict({**wanted, **arguments})
        config._attn_implementation = "eager"
        model: nn.Module = kind(config)
        return model
    except SubjectError:
        raise
    except Exception as error:
        raise SubjectError(f"{path}: {name} cannot be made of it: {first_line(error)}") from error


def _require_known(arguments: Mapping[str, Any], fields: Mapping[str, Any], name: str) -> None:
    """A configuration takes any field without a word; one that it does not have changes nothing.

    Raises:
        SubjectError: there is such an argument.
    """
    for argument in arguments:
        if argument not in fields and argument != "num_labels":  # a property, kept as a table of names
            near = difflib.get_close_matches(argument, fields, 1)
            raise SubjectError(
                f"--model-args: the configuration of {name} has no field {argument!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )


def _with_adapter(folder: Path, arguments: dict[str, Any]) -> nn.Module:
    _require("peft", folder)
    import peft

    path = folder / ADAPTER
    table = _table(path)
    base = arguments.pop("base", None)
    if not isinstance(base, str) or not (Path(base).expanduser() / "config.json").is_file():
        of = f" of {table.get('base_model_name_or_path')!s:.80}" if table.get("base_model_name_or_path") else ""
        lack = f"there is no config.json in {base}" if isinstance(base, str) else f"an adapter{of}"
        raise SubjectError(
            f"{path}: {lack}: say where the model that it adapts lies with "
            """--model-args '{"base": "FOLDER"}', a folder with its config.json and weights"""
        )
    where = Path(base).expanduser()
    model = _of_config(where, arguments)
    fit_weights(model, find_state(read_weights(where), None, where).tensors, where)
    kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(str(table.get("peft_type")))
    if kind is None:
        raise SubjectError(f"{path}: peft {peft.__version__} has no adapter of the type {table.get('peft_type')!r:.40}")
    known = {key: value for key, value in table.items() if key not in ("auto_mapping", "base_model_name_or_path", "peft_type")}
    # How it was started from does not matter any more, and can be costly, or a download.
    known |= {"inference_mode": False, "init_lora_weights": True} if "init_lora_weights" in known else {"inference_mode": False}
    try:
        adapted: nn.Module = peft.get_peft_model(model, kind(**known))
    except Exception as error:
        raise SubjectError(f"{path}: no adapter of {type(model).__name__} can be made of it: {first_line(error)}") from error
    tensors = find_state(read_weights(folder), None, folder).tensors
    wanted = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if missing := sorted(wanted ^ set(tensors)):
        raise CheckpointError(
            f"{folder}: does not fit the adapter of {type(model).__name__}; in one of the two only: {', '.join(missing[:6])}"
        )
    try:
        peft.set_peft_model_state_dict(adapted, tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(
            f"{folder}: does not fit {where} (another base, or another adapter?): {' '.join(lines[1:3] or lines)[:300]}"
        ) from None
    return adapted
