"""What every LLM with cross-attention to a context has in common, whatever the context was made of.

Owns the values that such a model takes and returns, the start of its cross-attention, and generation with a context.
Does not know how a context is encoded: a subclass names its inputs (`context_inputs`) and has `encode_context`.

Decisions
- A context is encoded to `cross_states` and projected to `cross_kv` once; generation carries `cross_kv` and
  `cross_mask` as plain tensors, so beams, batches and every kind of cache work as they do for the stock LM.
- B batch, M tokens of the context, Hkv key/value heads, Dh width of one head, D width, T text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from vist.errors import VistError
from vist.fuse.cross_attention import CrossAttention
from vist.fuse.insert import project_states
from vist.model.composed import ComposedModel


class VisualContext(NamedTuple):
    """A context as the LLM meets it."""

    states: Tensor  # (B,M,D) visual tokens, those in use first
    mask: Tensor  # (B,M) bool
    cls: Tensor  # (B,D) mean of the pages' CLS outputs, for PVE


@dataclass
class VistOutput(ModelOutput):
    """`loss` = `lm_loss` + weight * `pve_loss`; the rest as any causal LM returns it."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    lm_loss: Tensor | None = None
    pve_loss: Tensor | None = None

    @classmethod
    def of(cls, output: Any, **losses: Any) -> VistOutput:
        """What an LLM returned, with these losses."""
        names = ("logits", "past_key_values", "hidden_states", "attentions")
        return cls(**{name: getattr(output, name) for name in names}, **losses)


class CrossAttendingModel(ComposedModel, GenerationMixin):
    """An LLM whose layers attend to a context. `context_processor` is what makes `context_inputs` of a text."""

    #: the context itself, the mask that must come with it, and options
    context_inputs: ClassVar[tuple[str, ...]]
    context_processor: ClassVar[str]

    def _init_weights(self, module: nn.Module) -> None:
        """The cross-attention starts without effect, whatever the default initialisation makes of it."""
        super()._init_weights(module)
        if isinstance(module, CrossAttention):
            init.zeros_(module.o_proj.weight if module.gate is None else module.gate)
            if module.g_proj is not None:
                init.zeros_(module.g_proj.weight)
                init.ones_(module.g_proj.bias)
            if module.null_key is not None:
                init.zeros_(module.null_key)

    def encode_context(self, *args: Any, **kwargs: Any) -> VisualContext:
        """Read a context, given as `context_inputs`."""
        raise NotImplementedError

    def project_context(self, states: Tensor) -> Tensor:
        """Keys and values of all layers, once per context: (B,M,D) -> `cross_kv` (B, layers, 2, Hkv, M, Dh)."""
        return project_states(self.language_model, states)

    def encode_given(self, given: Mapping[str, Any]) -> VisualContext | None:
        """The context that a caller passed, None if none.

        Raises VistError when it came without its mask.
        """
        context, mask, *options = (given.get(name) for name in self.context_inputs)
        if context is None:
            return None
        if mask is None:
            name, missing, *_ = self.context_inputs
            raise VistError(f"{name} came without {missing}; pass both, as {self.context_processor} returns them.")
        return self.encode_context(context, mask, *options)

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Continue `input_ids`, given a context; every option of transformers' `generate` works.

        The context (`context_inputs`) is encoded and projected once, before the first token; `cross_states` or
        `cross_kv` with `cross_mask` may be passed instead, to share a context between calls.
        """
        given = {name: kwargs.pop(name, None) for name in self.context_inputs}
        states = kwargs.pop("cross_states", None)
        context = self.encode_given(given) if states is None and kwargs.get("cross_kv") is None else None
        if context is not None:
            states, kwargs["cross_mask"] = context.states, context.mask
        if states is not None:
            kwargs["cross_kv"] = self.project_context(states)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]


def cross_inputs(states: Tensor | None, kv: Tensor | None, mask_BM: Tensor | None) -> dict[str, Tensor | None]:
    """What the decoder layers take of a context; nothing without one, so that the LLM computes what it always did."""
    if states is None and kv is None:
        return {}
    mask = None if mask_BM is None else mask_BM[:, None, None, :]
    return {"cross_states": states, "cross_kv": kv, "cross_mask": mask}
