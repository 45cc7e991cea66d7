"""Training data and objectives of models whose distant text is encoded as text.

Owns: the same samples as VIST's with token ids in the place of pages, alignment for encoders over token embeddings,
masked-language modelling for CEPE's encoder. Must not know recipes.

Shapes: X texts, B batch, T text tokens, L distant tokens, M context tokens, K their parts (sub-tokens), D width.

Decisions
- Samples are drawn as VIST's are, by the same seeds: the same texts, facts, questions and batches read as text.
- The guide points at the context token that holds what comes next, not at a part of it: the mean of several
  embeddings does not know which of them came first. Attention to the parts of a token is added up.
- Alignment is VIST's own (find and name every token): its keys, values and queries are where any encoder's
  cross-attention learns fastest, and without it pages would have had a stage more.
- CEPE's encoder is pre-trained by masked-language modelling, as CEPE does it, on the texts of the alignment: 30 % of
  the tokens are replaced by a learned vector, since the LLM's vocabulary has no mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vist.baselines.cepe import FIRST_POSITION
from vist.baselines.configuration import TextContextConfig
from vist.baselines.text_context import TEXT_ENCODERS, TextContextForConditionalGeneration
from vist.fuse.cross_attention import CrossAttention
from vist.fuse.insert import cross_attentions
from vist.model.vist import share_of_batch
from vist.render import layout
from vist.train.alignment import NOWHERE, Aligner, AlignmentPages
from vist.train.context import ContextSamples
from vist.train.examples import Example, draw_example
from vist.train.guidance import guidance, guided_loss, seen_attention
from vist.train.tokenizer import first_visible

MASKED = 0.3


class AlignmentTexts(AlignmentPages):
    """The texts of VIST's alignment pages, each a pure function of (seed, index)."""

    def __init__(self, config: TextContextConfig, **options: Any):
        super().__init__(**options)
        self.config = config

    def sample(self, text: str) -> dict[str, np.ndarray]:
        """The tokens that begin on the text's first page: `ids` (T,), `places` (T,), `masked` (T,); BOS comes first.

        A place counts the parts of the context tokens; a token's is its turn among those that share its context token.
        """
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        starts = first_visible(text, np.array(encoded.offset_mapping).reshape(-1, 2))
        length = int((layout(text, self.style).page[starts] == 0).sum())
        tokens = TEXT_ENCODERS[self.config.encoder].tokens_of(self.config, length).numpy()
        sizes, firsts = np.bincount(tokens)[tokens], np.searchsorted(tokens, tokens)
        parts = (np.arange(length) - firsts) * self.parts // sizes
        masked = np.random.default_rng((self.seed, length, *encoded.input_ids[:8])).random(length) < MASKED
        return {
            "ids": np.array([self.tokenizer.bos_token_id, *encoded.input_ids[:length]]),
            "places": np.append(NOWHERE, tokens * self.parts + parts),
            "masked": np.append(False, masked),
        }


def collate_texts(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
    """`input_ids`, `places` (NOWHERE on padding) and `masked`, each (X,T)."""
    fillers = {"input_ids": ("ids", 0), "places": ("places", NOWHERE), "masked": ("masked", False)}
    return {name: _padded([row[key] for row in rows], filler) for name, (key, filler) in fillers.items()}


class TextAligner(Aligner):
    """A text encoder with VIST's two alignment losses. Raises VistError for a model without sub-tokens."""

    embeddings: Tensor

    def __init__(self, model: TextContextForConditionalGeneration):
        config = SimpleNamespace(cross_subtokens=model.config.cross_subtokens, resampler_size=model.config.states_size)
        as_pages: Any = SimpleNamespace(
            config=config,
            language_model=model.language_model,
            get_input_embeddings=model.get_input_embeddings,
            get_output_embeddings=model.get_output_embeddings,
            vision_tower=None,
            resampler=model.encoder,
        )
        super().__init__(as_pages)
        inputs = model.get_input_embeddings().weight
        assert isinstance(inputs, Tensor)
        self.register_buffer("embeddings", inputs.detach(), persistent=False)

    def forward(self, input_ids: Tensor, places: Tensor, masked: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Both losses, and how often the right part and the right token come first; `masked` is for `Masker`."""
        ids, real = input_ids[:, 1:], places[:, 1:] != NOWHERE
        states_XMD, _ = self.resampler(ids, self.embeddings[ids], real)
        find_loss, find_accuracy = self._find(states_XMD, input_ids, places)
        name_loss, name_accuracy = self._name(states_XMD, input_ids, places)
        return {
            "loss": find_loss + name_loss,
            "find_loss": find_loss,
            "name_loss": name_loss,
            "find_accuracy": find_accuracy,
            "name_accuracy": name_accuracy,
        }


class Masker(nn.Module):
    """CEPE's encoder with the head of masked-language modelling: dense, GELU, norm, its own embeddings as outputs."""

    def __init__(self, model: TextContextForConditionalGeneration):
        super().__init__()
        self.roberta = model.encoder.roberta
        config = self.roberta.config
        self.mask = nn.Parameter(torch.randn(config.hidden_size) * config.initializer_range)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, input_ids: Tensor, places: Tensor, masked: Tensor) -> dict[str, Tensor]:
        """Loss of the masked tokens, and how often the right one comes first."""
        ids, real, hidden = input_ids[:, 1:], places[:, 1:] != NOWHERE, masked[:, 1:]
        size = self.roberta.config.max_position_embeddings - FIRST_POSITION
        ids, real, hidden = ids[:, :size], real[:, :size], hidden[:, :size]
        words = self.roberta.get_input_embeddings()
        embedded = torch.where(hidden[..., None], self.mask, words(ids))
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids) + FIRST_POSITION
        output = self.roberta(inputs_embeds=embedded, attention_mask=real.long(), position_ids=positions)
        states_FD = self.norm(F.gelu(self.dense(output.last_hidden_state[hidden])))
        scores = (states_FD @ words.weight.T + self.bias).float()
        right = (scores.argmax(-1) == ids[hidden]).float().mean()
        return {"loss": F.cross_entropy(scores, ids[hidden]), "name_accuracy": right}


class TextContextSamples(ContextSamples):
    """VIST's samples with the distant text as token ids."""

    def __init__(self, config: TextContextConfig, **options: Any):
        super().__init__(**options)
        self.config = config

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        as_text = np.random.default_rng((self.seed, index // self.batch_size, 1)).random() < self.shape.text_share
        if as_text:
            return super().__getitem__(index)
        rng = np.random.default_rng((self.seed, index))
        low, high = self.shape.distant
        example = draw_example(self.corpus, self.mix, rng, int(rng.integers(low, high + 1)), self.shape.tokens * 4)
        proximal = self._ids(example.proximal)[: self.shape.tokens - 1]
        return {
            "prompt": np.array([self.tokenizer.bos_token_id, *proximal]),
            "guide": self._token_guide(example, len(proximal)),
            "context": np.array(self._ids(example.distant), dtype=np.int64),
        }

    def _token_guide(self, example: Example, tokens: int) -> np.ndarray:
        """(tokens + 1,) the context token where what comes after each place of the prompt begins; else -1."""
        starts = self._starts(example.proximal)[:tokens]
        source = example.origins(starts)
        distant = self._starts(example.distant)
        token = np.searchsorted(distant, source, side="right") - 1
        of = TEXT_ENCODERS[self.config.encoder].tokens_of(self.config, len(distant)).numpy()
        guide = np.full(tokens + 1, -1)
        found = np.flatnonzero((source >= 0) & (token >= 0))
        guide[found] = of[token[found]]
        return guide

    def _starts(self, text: str) -> np.ndarray:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return first_visible(text, np.array(encoded.offset_mapping, dtype=np.int64).reshape(-1, 2))

    def collate(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """The model's arguments, each padded on the right, and the guide."""
        batch = super().collate(rows)
        if "context" in rows[0]:
            batch["guide"] = _padded([row["guide"] for row in rows], -1)
            batch["context_ids"] = _padded([row["context"] for row in rows], self.tokenizer.pad_token_id)
            batch["context_mask"] = _padded([np.ones(len(row["context"]), dtype=bool) for row in rows], False)
        return batch


def _padded(arrays: Sequence[np.ndarray], filler: int | bool) -> Tensor:
    return pad_sequence([torch.from_numpy(array) for array in arrays], batch_first=True, padding_value=filler)


def guided_token_loss(
    model: Any, inputs: dict[str, Any], weight: float, num_items_in_batch: Tensor | int | None = None
) -> dict[str, Tensor]:
    """VIST's guided loss with attention summed over the parts of a context token, at which `guide` (B,T) points."""
    if "guide" not in inputs:
        return guided_loss(model, inputs, weight, num_items_in_batch)
    guide, sublayers = inputs.pop("guide"), cross_attentions(model.language_model)[1:]
    with seen_attention(sublayers) as seen:
        output = model(**inputs, num_items_in_batch=num_items_in_batch)
    by_token = [attention_by_token(sublayer, layer) for sublayer, layer in zip(sublayers, seen, strict=True)]
    guide_loss, accuracy = guidance(by_token, guide)
    return {
        "loss": output.loss + weight * share_of_batch(inputs["labels"], num_items_in_batch) * guide_loss,
        "lm_loss": output.lm_loss,
        "guide_loss": guide_loss,
        "guide_accuracy": accuracy,
    }


def attention_by_token(sublayer: CrossAttention, attention_BTK: Tensor) -> Tensor:
    """Attention over keys (B,T,K) as attention over context tokens (B,T,M): parts added up, the null key left out."""
    if sublayer.null_key is None:
        return attention_BTK
    return attention_BTK[..., :-1].unflatten(-1, (-1, sublayer.num_key_value_heads)).sum(-1)
