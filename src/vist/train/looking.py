"""Guided attention of VIST2: which head looks at which part of the visual token that holds the next text token.

Owns the guidance loss for a stock decoder. Must not know where the guide comes from.

Shapes: B batch, T places, G guided places of the batch, H query heads, L guided layers, Dh width of a head.

Decisions
- A visual token at ratio 4 holds four text tokens, and a head reads one linear map of it. So each part of a visual
  token has a head of its own: heads are counted from the last layer backwards, the first layer left out, since its
  text tokens do not know yet what stands before them. Most tokens lie in the first parts, which the last layers read.
- Only the guided places are looked at again: a full attention map of long sequences would cost more than the model.
- Queries and keys are computed a second time from what the layer was given, through hooks that live for one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import IGNORED

FLOOR = 1e-6


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
    """Next-token loss plus `weight` times -log of the attention at the guided places.

    `guide` and `guide_part` (B,T) as `InterleavedSamples.collate` makes them. Also returns how often the guided visual
    token has the most attention, and how often the token that is copied is predicted right.
    """
    batch = dict(inputs)
    guide_BT, part_BT = batch.pop("guide"), batch.pop("guide_part")
    rows, places = (guide_BT >= 0).nonzero(as_tuple=True)
    if not len(rows):
        loss = model(**batch, num_items_in_batch=num_items_in_batch).loss
        return {"loss": loss, "lm_loss": loss}
    layers, heads = head_of(part_BT[rows, places], model.language_model)
    with attention_of(model.language_model, rows, places, layers, heads) as seen:
        output = model(**batch, num_items_in_batch=num_items_in_batch)
    attention_GT, order = torch.cat([part for part, _ in seen]), torch.cat([own for _, own in seen])
    wanted = guide_BT[rows, places][order]
    chosen = attention_GT.gather(-1, wanted[:, None]).squeeze(-1)
    guide_loss = -(chosen + FLOOR).log().mean()
    labels = batch["shift_labels"]
    share = 1.0 if num_items_in_batch is None else (labels != IGNORED).sum() / num_items_in_batch
    right = output.logits[rows, places].argmax(-1) == labels[rows, places]
    return {
        "loss": output.loss + weight * share * guide_loss,
        "lm_loss": output.loss,
        "guide_loss": guide_loss,
        "guide_accuracy": (attention_GT.argmax(-1) == wanted).float().mean(),
        "copy_accuracy": right.float().mean(),
    }


@contextmanager
def attention_of(
    llm: PreTrainedModel, rows: Tensor, places: Tensor, layers: Tensor, heads: Tensor
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects, layer by layer, the attention (G',T) of these heads at these places, and which of the G they are."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, _: Any, options: dict[str, Any], layer: int) -> None:
        own = (layers == layer).nonzero().flatten()
        if len(own):
            seen.append((_attention(module, options, rows[own], places[own], heads[own]), own))

    handles = [
        layer.self_attn.register_forward_pre_hook(_at(note, number), with_kwargs=True)
        for number, layer in enumerate(llm.get_decoder().layers)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _at(note: Any, number: int) -> Any:
    return lambda module, arguments, options: note(module, arguments, options, number)


def _attention(module: Any, options: dict[str, Any], rows: Tensor, places: Tensor, heads: Tensor) -> Tensor:
    """(G,T) the attention of one head each, in the order of `rows`."""
    hidden_BTD, (cos_BTD, sin_BTD) = options["hidden_states"], options["position_embeddings"]
    mask_BT = options["attention_mask"][rows, 0, places]
    asked = module.q_proj(hidden_BTD[rows, places]).unflatten(-1, (-1, module.head_dim))
    query_G1HD = module.q_norm(asked)[torch.arange(len(rows), device=rows.device), heads][:, None, None]
    key_BHTD = module.k_norm(module.k_proj(hidden_BTD).unflatten(-1, (-1, module.head_dim))).transpose(1, 2)
    query_G1HD, _ = apply_rotary_pos_emb(
        query_G1HD, query_G1HD, cos_BTD[rows, places][:, None], sin_BTD[rows, places][:, None]
    )
    _, key_BHTD = apply_rotary_pos_emb(key_BHTD, key_BHTD, cos_BTD, sin_BTD)
    key_GTD = key_BHTD[rows, heads // module.num_key_value_groups]
    scores = (query_G1HD[:, 0] @ key_GTD.mT).squeeze(1).float() * module.scaling
    if mask_BT.dtype == torch.bool:
        scores = scores.masked_fill(~mask_BT, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask_BT
    return scores.softmax(-1)
