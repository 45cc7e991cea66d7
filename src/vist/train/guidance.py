"""Guided attention: while it is trained, the model is told where in its text or on its pages to look.

Owns the guidance loss. Must not know where the guide comes from.

Shapes: B batch, T text tokens, M visual tokens of the context (with sub-tokens: keys), H heads, D width.

Decisions
- In recall and quotation the layout knows which visual token holds the next text token. In every layer but the first
  the attention to it, averaged over heads, is maximised, so that at least one head goes there; the others stay free.
  Next-token loss alone finds the same place many times more slowly.
- Queries are seen through hooks that live for one forward pass; nothing is kept on the modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vist.fuse.cross_attention import CrossAttention
from vist.fuse.insert import cross_attentions
from vist.model.vist import VistForConditionalGeneration, share_of_batch

FLOOR = 1e-6


@contextmanager
def seen_attention(sublayers: list[CrossAttention]) -> Iterator[list[Tensor]]:
    """Collects, in the order of the layers, what each sublayer's heads looked at on average, (B, T, M)."""
    seen: list[Tensor] = []

    def note(sublayer: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(sublayer, CrossAttention)
        seen.append(mean_attention(sublayer, *arguments))

    handles = [sublayer.register_forward_pre_hook(note) for sublayer in sublayers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def mean_attention(sublayer: CrossAttention, hidden_BTD: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
    """The attention of one sublayer, averaged over its heads: (B, T, M)."""
    query_BHTD = sublayer.queries(hidden_BTD)
    key_BHMD = kv[:, 0].repeat_interleave(sublayer.num_key_value_groups, dim=1)
    scores = (query_BHTD @ key_BHMD.mT).float() * sublayer.scaling
    visible = sublayer.visible_keys(mask)
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return scores.softmax(-1).mean(1)


def guided_loss(
    model: VistForConditionalGeneration,
    inputs: dict[str, Any],
    weight: float,
    num_items_in_batch: Tensor | int | None = None,
) -> dict[str, Tensor]:
    """The model's loss plus `weight` times the guidance, where the batch has a `guide` (B, T), -1 = no guidance.

    Returns the loss, its parts, and how often the guided visual token gets the most attention.
    """
    guide = inputs.pop("guide", None)
    if guide is None:
        output = model(**inputs, num_items_in_batch=num_items_in_batch)
        return {"loss": output.loss, "text_lm_loss": output.lm_loss}
    with seen_attention(cross_attentions(model.language_model)[1:]) as seen:
        output = model(**inputs, num_items_in_batch=num_items_in_batch)
    guide_loss, accuracy = guidance(seen, guide)
    return {
        "loss": output.loss + weight * share_of_batch(inputs["labels"], num_items_in_batch) * guide_loss,
        "lm_loss": output.lm_loss,
        "pve_loss": output.pve_loss,
        "guide_loss": guide_loss,
        "guide_accuracy": accuracy,
    }


def guided_text_loss(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    weight: float,
    num_items_in_batch: Tensor | int | None = None,
) -> dict[str, Tensor]:
    """The same for a language model that reads everything as text: `guide` (B, T) holds places of the sequence.

    The first layer is led to the token before each one, `previous_loss`: to find what followed the last time, every
    place must know what stands before it. The model must run the "eager" attention kernel, the only one that returns
    what was attended to.
    """
    guide = inputs.pop("guide")
    output = model(**inputs, use_cache=False, output_attentions=True, num_items_in_batch=num_items_in_batch)
    first, *others = (heads.mean(1) for heads in output.attentions)
    guide_loss, accuracy = guidance(others, guide)
    previous_loss, _ = guidance([first], _places_before(inputs["attention_mask"]))
    share = share_of_batch(inputs["labels"], num_items_in_batch)
    return {
        "loss": output.loss + weight * share * (guide_loss + previous_loss),
        "lm_loss": output.loss,
        "previous_loss": previous_loss,
        "guide_loss": guide_loss,
        "guide_accuracy": accuracy,
    }


def guidance(seen: Sequence[Tensor], guide: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of -log of the attention at the guided places, and how often some layer has its maximum there.

    `seen`: for each layer the attention (B, T, M); `guide` (B, T), -1 = not guided. Both are 0 without any guide.
    """
    there = guide >= 0
    if not there.any():
        return seen[0].new_zeros(()), seen[0].new_zeros(())
    attention = torch.stack([layer[there] for layer in seen])
    wanted = guide[there].expand(len(seen), -1)
    chosen = attention.gather(-1, wanted[..., None]).squeeze(-1)
    right = (attention.argmax(-1) == wanted).any(0).float()
    return -(chosen + FLOOR).log().mean(), right.mean()


def _places_before(mask_BT: Tensor) -> Tensor:
    """The place before each token, -1 for the first one and for padding."""
    places = torch.arange(-1, mask_BT.shape[1] - 1, device=mask_BT.device)
    return places.expand_as(mask_BT).masked_fill(mask_BT == 0, -1)
