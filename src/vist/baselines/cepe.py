"""CEPE's text encoder in the place of pages, vision tower and Resampler (CEPE*).

Owns the encoder over chunks. Source: CEPE (arXiv 2402.16617): a small bidirectional encoder reads the distant text in
chunks of 256 tokens, in parallel, and decoder layers cross-attend to all of its states. VIST's CEPE* is a RoBERTa-large
shape there, all else equal.

Decisions
- RoBERTa is transformers' own, with token embeddings of its own over the LLM's vocabulary, as CEPE has it.
- Chunks without a real token are not computed. Positions are given, not guessed from padding ids: in some vocabularies
  the padding token is a token that texts can hold.
- One state per text token: nothing is compressed, what is saved is that the LLM need not read it.
- B batch, C chunks, X chunks with text, L text tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

from vist.baselines.configuration import TextContextConfig

FEED_FORWARD = 4  # times the width, as RoBERTa


class CepeEncoder(nn.Module):
    """A RoBERTa over chunks of the text."""

    def __init__(self, config: TextContextConfig) -> None:
        super().__init__()
        self.chunk_size = config.chunk_size
        self.roberta = RobertaModel(roberta_config(config), add_pooling_layer=False)

    def forward(self, ids_BL: Tensor, embedded_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B,L) and which are real (B,L) -> one state for each (B,L,D), in use (B,L)."""
        short = -ids_BL.shape[1] % self.chunk_size
        split = (-1, self.chunk_size)
        ids_BCS = F.pad(ids_BL, (0, short)).unflatten(1, split)
        mask_BCS = F.pad(mask_BL, (0, short)).unflatten(1, split)
        full_BC = mask_BCS.any(-1)
        ids_XS, mask_XS = ids_BCS[full_BC], mask_BCS[full_BC]
        longest = int(mask_XS.sum(1).max()) if len(ids_XS) else 0
        states = embedded_BLD.new_zeros(*mask_BCS.shape, self.roberta.config.hidden_size)
        if longest:
            states[full_BC] = self._read(ids_XS[:, :longest], mask_XS[:, :longest], states.dtype)
        return states.flatten(1, 2)[:, : ids_BL.shape[1]], mask_BL

    def _read(self, ids_XS: Tensor, mask_XS: Tensor, dtype: torch.dtype) -> Tensor:
        """States of every chunk, zero on padding and beyond it up to the chunk size."""
        first = self.roberta.config.pad_token_id + 1
        places = torch.arange(first, first + ids_XS.shape[1], device=ids_XS.device).expand_as(ids_XS)
        output = self.roberta(input_ids=ids_XS, attention_mask=mask_XS.long(), position_ids=places)
        read = output.last_hidden_state.to(dtype) * mask_XS.unsqueeze(-1)
        return F.pad(read, (0, 0, 0, self.chunk_size - ids_XS.shape[1]))

    @staticmethod
    def tokens_of(config: TextContextConfig, length: int) -> Tensor:
        """(L,) the context token of each text token: its own."""
        return torch.arange(length)


def roberta_config(config: TextContextConfig) -> RobertaConfig:
    """The encoder's shape: RoBERTa's, with a position for every token of a chunk."""
    pad = 1  # RoBERTa counts positions from here on
    return RobertaConfig(
        vocab_size=config.text_config.vocab_size,
        hidden_size=config.states_size,
        intermediate_size=FEED_FORWARD * config.states_size,
        num_hidden_layers=config.encoder_layers,
        num_attention_heads=config.encoder_heads,
        max_position_embeddings=config.chunk_size + pad + 1,
        type_vocab_size=1,
        pad_token_id=pad,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
