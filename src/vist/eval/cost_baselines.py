"""What the methods cost that VIST is compared with, by count, at one window.

Owns the rows of the preset "baselines" and the formulas of what only baselines do. Does not know how an LLM or a tower
is counted (flops.py, memory.py).

Decisions
- Pooling and the pyramid shorten the text by exactly as much as VIST's pages do at the same window.
- StreamingLLM reads all tokens one by one through a cache of T_d tokens; RePlug reads its best ten passages of 128
  tokens, each with the whole proximal text. Both score the proximal positions only.
- ToMe† and FastV† are VIST with a relieved tower; matching and scoring are counted too.
- T_e tokens of distant text (te), T_d tokens of proximal text (td), N tokens of a page in the tower, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil, floor
from typing import Any

import torch
from transformers import PreTrainedConfig

from vist.baselines.configuration import TextContextConfig
from vist.baselines.hierarchical import NARROW, WIDE, block_ratios
from vist.baselines.replug import PASSAGE_TOKENS, PASSAGES
from vist.baselines.streaming import SINKS
from vist.baselines.text_context import TEXT_ENCODERS
from vist.eval.cost_table import Backbones, Row, Visual, cepe_row, text_row, visual_row
from vist.eval.flops import (
    Work,
    attention,
    cross_projection_work,
    cross_reading_work,
    language_model_work,
    linear,
    query_size,
    tower_work,
)
from vist.eval.memory import cross_parameters, decoder_activation_bytes, kv_bytes, language_model_parameters
from vist.vision.encoder import num_patches

MERGES, PRUNED, PRUNE_AFTER = 8, 0.75, 2  # of ToMe† and FastV†, as in the paper (which is silent on the layer)


def baselines(backbones: Backbones, te: int = 14336, td: int = 2048) -> Iterator[Row]:
    """Every method at one window, VIST last."""
    llm, visual = backbones.llm, Visual(backbones.vist())
    tower = visual.config.vision_config
    yield text_row("no context", llm, td)
    yield text_row("full text", llm, te + td)
    yield streaming_row(llm, te, td)
    yield replug_row(llm, te, td)
    yield cepe_row("CEPE*", llm, backbones.encoder, te, td)
    ratio = te / (visual.pages(te) * backbones.num_visual_tokens)
    for name, label in (("pooled", "mean pooling"), ("hierarchical", "hierarchical convolutions")):
        yield text_context_row(label, TextContextConfig(text_config=llm, encoder=name, ratio=max(1.0, ratio)), te, td)
    plain = visual_row("VIST", visual, te, td)
    for label, work in (("ToMe†", merged_tower_work(tower)), ("FastV†", pruned_tower_work(tower))):
        parts = {**plain.work, "encoder": work * plain.pages}
        yield replace(plain, method=label, work=parts, paper_work=sum(part.total for part in parts.values()))
    yield plain


def text_context_row(method: str, config: TextContextConfig, te: int, td: int, value_bytes: int = 2) -> Row:
    """Mean pooling or the pyramid, and cross-attention over what they leave."""
    llm, tokens = config.text_config, context_tokens(config, te)
    work = {
        "encoder": text_shortener_work(config, te),
        "resampler": Work(),
        "cross_attention": cross_reading_work(llm, td, tokens) + cross_projection_work(llm, config.states_size, tokens),
        "llm": language_model_work(llm, td, td),
    }
    with torch.device("meta"):
        encoder = sum(parameter.numel() for parameter in TEXT_ENCODERS[config.encoder](config).parameters())
    parameters = language_model_parameters(llm) + cross_parameters(llm, config.states_size) + encoder
    embedded = 3 * te * config.states_size * value_bytes  # the text, what the convolutions make of it, and one more
    alive = max(embedded, decoder_activation_bytes(llm, td, td, value_bytes))
    return _row(method, llm, (te, td), work, parameters, (td, tokens, alive))


def context_tokens(config: TextContextConfig, length: int) -> int:
    """Context tokens that a text of `length` tokens becomes."""
    return int(TEXT_ENCODERS[config.encoder].tokens_of(config, length)[-1]) + 1 if length else 0


def text_shortener_work(config: TextContextConfig, length: int) -> Work:
    """The convolutions of the pyramid, the second of each block read at the groups' beginnings only; pooling: none."""
    work = Work()
    if config.encoder != "hierarchical":
        return work
    for ratio in block_ratios(config.ratio):
        work += linear(length, WIDE * config.states_size, config.states_size)
        length = sum(floor(number * ratio) < length for number in range(length))
        work += linear(length, NARROW * config.states_size, config.states_size)
    return work


def streaming_row(llm: PreTrainedConfig, te: int, td: int, value_bytes: int = 2) -> Row:
    """StreamingLLM over all tokens with a cache as long as the proximal text."""
    work = {"encoder": Work(), "resampler": Work(), "cross_attention": Work(), "llm": streaming_work(llm, te + td, td)}
    parameters, alive = language_model_parameters(llm), decoder_activation_bytes(llm, td, td, value_bytes)
    return _row("StreamingLLM", llm, (te, td), work, parameters, (td, 0, alive))


def streaming_work(llm: PreTrainedConfig, text: int, size: int) -> Work:
    """An LLM over `text` tokens, token by token, each seeing at most `size`; the last `size` are scored."""
    held = max(SINKS + 1, size)
    whole = language_model_work(llm, text, size)
    seen = sum(min(place, held) for place in range(1, text + 1))
    return Work(whole.linear, attention(1, seen, query_size(llm)).total * llm.num_hidden_layers)


def replug_row(llm: PreTrainedConfig, te: int, td: int, value_bytes: int = 2) -> Row:
    """RePlug: the proximal text once for each of the best passages."""
    rows, length = max(1, min(PASSAGES, ceil(te / PASSAGE_TOKENS))), min(te, PASSAGE_TOKENS) + td
    read = language_model_work(llm, length, td) * rows
    work = {"encoder": Work(), "resampler": Work(), "cross_attention": Work(), "llm": read}
    alive = decoder_activation_bytes(llm, rows * length, rows * td, value_bytes)
    return _row("RePlug", llm, (te, td), work, language_model_parameters(llm), (rows * length, 0, alive))


def merged_tower_work(tower: Any, merges: int = MERGES) -> Work:
    """ToMe in a tower over one full page: after attention of every layer `merges` tokens fewer."""
    tokens = num_patches(tower)
    head = tower.hidden_size // tower.num_attention_heads
    work = tower_work(tower, tokens) + _layers(tower, tokens, tokens) * -1
    for _ in range(tower.num_hidden_layers):
        left = tokens - min(merges, tokens // 2)
        work += _layers(tower, tokens, left, 1)
        work += Work(mixing=2 * ceil(tokens / 2) * (tokens // 2) * head)  # similarities of A and B
        tokens = left
    return work


def pruned_tower_work(tower: Any, share: float = PRUNED, after: int = PRUNE_AFTER) -> Work:
    """FastV in a tower over one full page: after some layers only the best patches, whose scores are computed once."""
    tokens, layers = num_patches(tower), tower.num_hidden_layers
    left = tokens - floor(tokens * share)
    everything = tokens + _class_tokens(tower)
    work = tower_work(tower, tokens) + _layers(tower, tokens, tokens) * -1
    work += _layers(tower, tokens, tokens, min(after, layers)) + _layers(tower, left, left, max(0, layers - after))
    return work + Work(mixing=2 * everything * everything * tower.hidden_size)


def _layers(tower: Any, before: int, behind: int, count: int | None = None) -> Work:
    """`count` (None: all) layers with `before` patches in attention and `behind` in the feed-forward."""
    width, more = tower.hidden_size, _class_tokens(tower)
    seen = linear(before + more, width, 4 * width) + attention(before + more, before + more, width)
    fed = linear(behind + more, width, 2 * tower.intermediate_size)
    return (seen + fed) * (tower.num_hidden_layers if count is None else count)


def _class_tokens(tower: Any) -> int:
    return 1 if tower.model_type == "clip_vision_model" else 0


def _row(
    method: str,
    llm: PreTrainedConfig,
    lengths: tuple[int, int],
    work: dict[str, Work],
    parameters: int,
    held: tuple[int, int, int],
    value_bytes: int = 2,
) -> Row:
    """A row from what is held at the worst moment: tokens in the cache, context tokens, bytes of activations."""
    memory = {
        "weights": parameters * value_bytes,
        "kv": kv_bytes(llm, held[0], value_bytes),
        "cross_kv": kv_bytes(llm, held[1], value_bytes),
        "activations": held[2],
    }
    return Row(method, *lengths, 0, work, sum(part.total for part in work.values()), parameters, memory)
