"""Loading that either succeeds or says in one sentence why not.

Owns the translation of loading failures into `CheckpointError`, and the loading of an LLM. Does not know what a VIST
model is made of.

Decisions
- A weight that is missing or has another shape is an error. The library underneath would fill it with new random
  values and only log it; such a model runs and answers with nonsense.
- The architecture is checked before anything is built: a config of another kind would otherwise be read as a VIST
  config full of defaults, and a model of several billion parameters be set up from it.
- The original error stays attached as the cause.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from vist.errors import CheckpointError, VistError

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def checked_loading(load: Callable[..., Any], model_type: str, source: Any, *args: Any, **kwargs: Any) -> Any:
    """Run `load(source, ...)`, a `from_pretrained`, strictly, on a checkpoint whose config says `model_type`.

    Raises CheckpointError when `source` is a missing folder, a file is truncated or unreadable, a weight is missing or
    has the wrong shape, or the folder holds another architecture.
    """
    wants_info = kwargs.pop("output_loading_info", False)
    check_folder(source)
    try:
        if kwargs.get("config") is None:
            _check_architecture(source, model_type, kwargs)
        with _without_report():
            strict = {"output_loading_info": True, "ignore_mismatched_sizes": True}
            model, info = load(source, *args, **{**kwargs, **strict})
    except VistError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"Cannot load a VIST model from {str(source)!r}: {first_line(error)}") from error
    _check_weights(source, info)
    return (model, info) if wants_info else model


def check_folder(source: Any) -> None:
    """Raises CheckpointError when a path that can only be a folder is none; anything else may be a Hub id."""
    path = Path(str(source)) if source is not None else None
    if path is None or path.is_dir():
        return
    if path.is_absolute() or str(source).startswith((".", "~")) or len(path.parts) > 2:
        raise CheckpointError(f"There is no model folder {str(source)!r}; give a folder written by save_pretrained.")


def _check_architecture(source: Any, model_type: str, kwargs: dict[str, Any]) -> None:
    where = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    config, _ = PreTrainedConfig.get_config_dict(source, **where)
    found = config.get("model_type")
    if (Path(str(source)) / "adapter.json").is_file():
        raise CheckpointError(f"{str(source)!r} holds an adapter without its backbones; load it with from_adapter.")
    if found is None:
        raise CheckpointError(f"{str(source)!r} has no config.json that names a model type; is it a model folder?")
    if found != model_type:
        raise CheckpointError(
            f"{str(source)!r} holds a model of type {found!r}, not {model_type!r}; give another folder."
        )


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep the library's table of missing weights off the screen: what is wrong is raised instead.

    A filter, since a higher level of this logger makes the library check plans for several devices, and warn.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_error)
    try:
        yield
    finally:
        logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _check_weights(source: Any, info: dict[str, Any]) -> None:
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if mismatched:
        name, found, wanted = mismatched[0]
        raise CheckpointError(
            f"The weight {name} in {str(source)!r} has shape {tuple(found)}, the config asks for {tuple(wanted)}; "
            "config.json and weights are of different models."
        )
    if missing:
        raise CheckpointError(
            f"The model folder {str(source)!r} lacks {len(missing)} weights, for example {missing[0]}; "
            "it is incomplete or of another architecture."
        )


def load_llm(source: str | os.PathLike[str], **options: Any) -> PreTrainedModel:
    """A causal LM from a Hub id or a folder. Raises VistError with one sentence when it cannot be read."""
    try:
        return AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError) as error:
        raise VistError(f"Cannot load a language model from {str(source)!r}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
