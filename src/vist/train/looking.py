"""Guided attention of VIST2: which head looks at which part of the visual token that holds the next text token.

Owns the guidance loss for a stock decoder. Must not know where the guide comes from.

Shapes: B batch, T places, G guided places of the batch, H query heads, D width of the model, Dh of a head.

Decisions
- A visual token at ratio 4 holds four text tokens, and a head reads one linear map of it. So each part of a visual
  token has a head of its own: heads are counted from the last layer backwards, the first layer left out, since its
  text tokens do not know yet what stands before them. Most tokens lie in the first parts, which the last layers read.
- Looking at the right place is soon learned, saying what stands there is not: what a head reads is a small part of the
  residual stream, and next-token loss reaches its values only through all that comes after. So what the guided head
  would read at the guided place is also asked for the token directly, through the LLM's own last norm and output layer.
- Only the guided places are looked at again: a full attention map of long sequences would cost more than the model.
  Logits are computed where a token is predicted, which in a sequence of pages is about half of the places.
- Queries and keys are computed a second time from what the layer was given, through hooks that live for one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import IGNORED

FLOOR = 1e-6
SAY_WEIGHT = 0.5


def parts_of(llm: PreTrainedModel) -> int:
    """Into how many parts a visual token is cut for this decoder: its heads above the first layer."""
    config: Any = llm.config
    return max(1, config.num_hidden_layers - 1) * config.num_attention_heads


def head_of(part: Tensor, llm: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """The layer and the head that read a part."""
    config: Any = llm.config
    last = config.num_hidden_layers - 1
    return last - part // config.num_attention_heads, part % config.num_attention_heads


def guided_look_loss(
    model: Vist2ForCausalLM,
    inputs: Mapping[str, Any],
    weight: float,
    num_items_in_batch: Tensor | int | None = None,
) -> dict[str, Tensor]:
    """Next-token loss plus `weight` times the guidance: where the head looks, and what it reads there.

    `guide` and `guide_part` (B,T) as `InterleavedSamples.collate` makes them. Also returns how often the guided visual
    token has the most attention, how often what is read there alone says the token, and how often the model does.
    """
    batch = dict(inputs)
    guide_BT, part_BT, labels_BT = (batch.pop(name) for name in ("guide", "guide_part", "shift_labels"))
    rows, places = (guide_BT >= 0).nonzero(as_tuple=True)
    layers, heads = head_of(part_BT[rows, places], model.language_model)
    guided = Places(rows, places, guide_BT[rows, places], layers, heads)
    with attention_calls(model.language_model) as calls:
        hidden_BTD = model(**batch, logits_to_keep=1, output_hidden_states=True).hidden_states[-1]
    asked_BT = labels_BT != IGNORED
    logits_NV = model.get_output_embeddings()(hidden_BTD[asked_BT])
    lm_loss = model.next_token_loss(logits_NV, None, num_items_in_batch, shift_labels=labels_BT[asked_BT])
    seen = look(calls, guided)
    if not seen:
        return {"loss": lm_loss, "lm_loss": lm_loss}
    order = torch.cat([found.number for found in seen])
    attention_GT, wanted_G = torch.cat([found.attention for found in seen]), guided.wanted[order]
    chosen = attention_GT.gather(-1, wanted_G[:, None]).squeeze(-1)
    guide_loss = -(chosen + FLOOR).log().mean()
    said_GV = say(model.language_model, torch.cat([found.read for found in seen]))
    tokens_G = labels_BT[rows, places][order]
    say_loss = F.cross_entropy(said_GV.float(), tokens_G)
    share = 1.0 if num_items_in_batch is None else asked_BT.sum() / num_items_in_batch
    right_N = logits_NV.argmax(-1) == labels_BT[asked_BT]
    return {
        "loss": lm_loss + weight * share * (guide_loss + SAY_WEIGHT * say_loss),
        "lm_loss": lm_loss,
        "guide_loss": guide_loss,
        "guide_accuracy": (attention_GT.argmax(-1) == wanted_G).float().mean(),
        "say_loss": say_loss,
        "say_accuracy": (said_GV.argmax(-1) == tokens_G).float().mean(),
        "copy_accuracy": right_N[(guide_BT >= 0)[asked_BT]].float().mean(),
    }


def say(llm: PreTrainedModel, read_GD: Tensor) -> Tensor:
    """(G,V) what the LLM would say if what a head read were all there is."""
    return llm.get_output_embeddings()(llm.get_decoder().norm(read_GD))


class AttentionCall(NamedTuple):
    """A layer's attention and its arguments: `hidden_states` (B,T,D) behind the layer's norm, mask, rotary tables."""

    module: Any
    options: dict[str, Any]


class Places(NamedTuple):
    """Guided places: sample, place, the place to look at, and the layer and the head that look, (G,) each."""

    rows: Tensor
    places: Tensor
    wanted: Tensor
    layers: Tensor
    heads: Tensor


class Seen(NamedTuple):
    """What a layer's heads did at G' guided places: `attention` (G',T), what they `read` where they should (G',D)."""

    number: Tensor
    attention: Tensor
    read: Tensor


@contextmanager
def attention_calls(llm: PreTrainedModel) -> Iterator[list[AttentionCall]]:
    """Collects what every layer's attention is called with while the LLM runs, first layer first."""
    calls: list[AttentionCall] = []

    def note(module: nn.Module, _: Any, options: dict[str, Any]) -> None:
        calls.append(AttentionCall(module, options))

    layers: Any = llm.get_decoder().layers
    handles = [layer.self_attn.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def look(calls: Sequence[AttentionCall], guided: Places) -> list[Seen]:
    """What the guided heads do, layer by layer; layers without guided places are left out."""
    seen = []
    for layer, (module, options) in enumerate(calls):
        own = (guided.layers == layer).nonzero().flatten()
        if len(own):
            here = Places(*(part[own] for part in guided))
            read = read_head(module, options["hidden_states"][here.rows, here.wanted], here.heads)
            seen.append(Seen(own, _attention(module, options, here), read))
    return seen


def _attention(module: Any, options: dict[str, Any], guided: Places) -> Tensor:
    """(G',T) the attention of one head each."""
    rows, places, heads = guided.rows, guided.places, guided.heads
    hidden_BTD, (cos_BTD, sin_BTD) = options["hidden_states"], options["position_embeddings"]
    mask_GT = _seen(options["attention_mask"], rows, places, hidden_BTD.shape[1])
    asked = module.q_proj(hidden_BTD[rows, places]).unflatten(-1, (-1, module.head_dim))
    query_G1HD = module.q_norm(asked)[torch.arange(len(rows), device=rows.device), heads][:, None, None]
    key_BHTD = module.k_norm(module.k_proj(hidden_BTD).unflatten(-1, (-1, module.head_dim))).transpose(1, 2)
    query_G1HD, _ = apply_rotary_pos_emb(
        query_G1HD, query_G1HD, cos_BTD[rows, places][:, None], sin_BTD[rows, places][:, None]
    )
    _, key_BHTD = apply_rotary_pos_emb(key_BHTD, key_BHTD, cos_BTD, sin_BTD)
    key_GTD = key_BHTD[rows, heads // module.num_key_value_groups]
    scores = (query_G1HD[:, 0] @ key_GTD.mT).squeeze(1).float() * module.scaling
    if mask_GT.dtype == torch.bool:
        return scores.masked_fill(~mask_GT, torch.finfo(scores.dtype).min).softmax(-1)
    return (scores + mask_GT).softmax(-1)


def _seen(mask: Tensor | None, rows: Tensor, places: Tensor, length: int) -> Tensor:
    """(G',T) what these places see; without a mask all up to themselves."""
    if mask is None:
        return torch.arange(length, device=places.device) <= places[:, None]
    return mask[rows, 0, places]


def read_head(module: Any, hidden_GD: Tensor, heads_G: Tensor) -> Tensor:
    """(G,D) what a head adds to the residual stream if it looks at one place, `hidden_GD` there, and nowhere else."""
    number = torch.arange(len(heads_G), device=heads_G.device)
    value_GHD = module.v_proj(hidden_GD).unflatten(-1, (-1, module.head_dim))
    value_GD = value_GHD[number, heads_G // module.num_key_value_groups]
    alone_GHD = value_GD.new_zeros(len(number), module.o_proj.in_features // module.head_dim, module.head_dim)
    alone_GHD[number, heads_G] = value_GD
    return module.o_proj(alone_GHD.flatten(1))
