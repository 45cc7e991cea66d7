"""Loading that either succeeds or says in one sentence why not.

Owns the translation of loading failures into `CheckpointError`. Does not know what a VIST model is made of.

Decisions
- A weight that is missing or has another shape is an error. The library underneath would fill it with new random
  values and only log it; such a model runs and answers with nonsense.
- The original error stays attached as the cause.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vist.errors import CheckpointError, VistError


def checked_loading(load: Callable[..., Any], source: Any, *args: Any, **kwargs: Any) -> Any:
    """Run `load(source, ...)`, a `from_pretrained`, strictly.

    Raises CheckpointError when `source` is a missing folder, a file is truncated or unreadable, a weight is missing or
    has the wrong shape, or the folder holds another architecture.
    """
    wants_info = kwargs.pop("output_loading_info", False)
    _check_folder(source)
    try:
        model, info = load(source, *args, output_loading_info=True, **kwargs)
    except VistError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"Cannot load a VIST model from {str(source)!r}: {_first_line(error)}") from error
    _check_weights(source, info)
    return (model, info) if wants_info else model


def _check_folder(source: Any) -> None:
    """A path that is meant as a folder must be one; anything else may be a Hub id."""
    path = Path(str(source)) if source is not None else None
    if path is None or path.is_dir():
        return
    if path.is_absolute() or str(source).startswith((".", "~")) or len(path.parts) > 2:
        raise CheckpointError(f"There is no model folder {str(source)!r}; give a folder written by save_pretrained.")


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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
