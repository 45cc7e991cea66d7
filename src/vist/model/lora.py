"""LoRA on the LLM's own projections, as an option beside the frozen default.

Owns inserting, finding and merging it. Does not know cross-attention; the arithmetic is peft's.

Decisions
- It is a choice of the config (`lora_rank`), like the reducer: a model with it is saved, loaded and resumed as any
  other, and merging sets the choice back to 0.
- Only projections inside `self_attn` and `mlp` are matched: a bare suffix like `q_proj` would also hit cross-attention
  and the vision tower.
- peft is imported when LoRA is asked for; nothing else needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vist.errors import VistError
from vist.fuse.insert import keep_weights

DEFAULT_TARGETS = ("q_proj", "v_proj", "qkv_proj")


def insert_lora(language_model: PreTrainedModel, rank: int, alpha: float, targets: list[str]) -> None:
    """Put a low-rank update, starting at zero, beside the projections called `targets` (none: query and value).

    Raises VistError when peft is not installed or no projection has such a name.
    """
    peft = _peft()
    wanted = targets or [name for name in DEFAULT_TARGETS if _has_projection(language_model, name)]
    unknown = [name for name in wanted if not _has_projection(language_model, name)]
    if unknown or not wanted:
        raise VistError(
            f"lora_targets names {', '.join(unknown) or 'nothing'}, but {type(language_model).__name__} has no such "
            f"projection in its self-attention or feed-forward; choose among {', '.join(_projections(language_model))}."
        )
    pattern = rf".*\.layers\.\d+\.(?:self_attn|mlp)\.(?:{'|'.join(wanted)})"
    options = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern, lora_dropout=0.0)
    peft.inject_adapter_in_model(options, language_model)
    for _, layer in lora_layers(language_model):
        for part in (layer.lora_A, layer.lora_B):
            keep_weights(part)


def lora_layers(language_model: nn.Module) -> list[tuple[str, Any]]:
    """Names and modules of the projections that carry a low-rank update."""
    return [(name, module) for name, module in language_model.named_modules() if hasattr(module, "lora_A")]


def is_lora(name: str) -> bool:
    """Whether a parameter of that name belongs to a low-rank update."""
    return ".lora_A." in name or ".lora_B." in name


def merge_lora(language_model: PreTrainedModel) -> None:
    """Add the low-rank updates to the weights they stand beside and take them out, in place."""
    for name, layer in lora_layers(language_model):
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, layer.get_base_layer())
    vars(language_model).pop("peft_config", None)


def _peft() -> Any:
    try:
        return import_module("peft")
    except ImportError as error:
        raise VistError("LoRA needs the package peft; install it with pip install 'vist[lora]'.") from error


def _projections(language_model: PreTrainedModel) -> list[str]:
    layer: Any = language_model.get_decoder().layers[0]
    parts = (layer.self_attn, layer.mlp)
    return [name for part in parts for name, child in part.named_children() if isinstance(child, nn.Linear)]


def _has_projection(language_model: PreTrainedModel, name: str) -> bool:
    return name in _projections(language_model)
