"""StreamingLLM: attention sinks and a window, as a cache of fixed size.

Owns the cache and the reading of a text through it. Source: StreamingLLM (arXiv 2309.17453): the first few tokens
(sinks, 4 in the paper) and the most recent ones stay in the cache, everything between is dropped, and positions are
counted inside the cache, not in the text.

Decisions
- Only distances matter to rotary positions. So recent keys keep the positions of the text, and the sinks are turned
  forward by as many places as tokens were dropped: the same distances as with positions inside the cache, of which
  `generate` need not know. Sinks are kept as they came and turned anew each time, so no error adds up.
- The paper feeds token by token. A longer block drops enough tokens for the whole block before it is read: its last
  token sees the full window, its first one block - 1 tokens less. What fits the cache from the start is one block.
- Layers without rotary positions (SmolLM3 has some) are left unturned. Rotary frequencies that depend on the length of
  the text are refused: keys of several lengths would not fit together.
- No padding: rows are read one by one.
- B batch, H key/value heads, T new tokens, C tokens in the cache, Dh width of a head, R half of
  the rotated width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from vist.baselines.plain_text import PlainTextModel, whole
from vist.errors import VistError

SINKS = 4
FIXED_ROPE = ("default", "linear", "llama3", "yarn")


class SinkLayer(DynamicLayer):
    """Keys and values of the sinks and of the latest tokens of one layer."""

    is_croppable = False

    def __init__(self, sinks: int, window: int, inv_freq: Tensor | None) -> None:
        super().__init__()
        self.sinks, self.window, self.inv_freq = sinks, window, inv_freq
        self.dropped = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add new keys and values (B,H,T,Dh), drop what does not fit -> all that is attended to (B,H,C,Dh).

        Raises VistError for more new tokens than fit at once.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        drop = self._dropping(key_states.shape[-2])
        if drop:
            self.keys = torch.cat([self.keys[..., : self.sinks, :], self.keys[..., self.sinks + drop :, :]], dim=-2)
            self.values = torch.cat(
                [self.values[..., : self.sinks, :], self.values[..., self.sinks + drop :, :]], dim=-2
            )
            self.dropped += drop
        self.keys = torch.cat([self.keys, key_states], dim=-2)
        self.values = torch.cat([self.values, value_states], dim=-2)
        if not self.dropped or self.inv_freq is None:
            return self.keys, self.values
        sinks = turn(self.keys[..., : self.sinks, :], self.dropped, self.inv_freq)
        return torch.cat([sinks, self.keys[..., self.sinks :, :]], dim=-2), self.values

    def _dropping(self, new: int) -> int:
        """How many tokens go before `new` ones come."""
        held = self._held()
        drop = max(0, held + new - self.sinks - self.window)
        if drop and (drop > held - self.sinks):
            raise VistError(
                f"{new} tokens at once do not fit a cache of {self.sinks} sinks and a window of {self.window}; "
                "read the text in shorter blocks."
            )
        return drop

    def _held(self) -> int:
        return 0 if self.keys is None or not self.keys.numel() else self.keys.shape[-2]

    def get_seq_length(self) -> int:
        """Tokens seen so far, those that were dropped included: the position of the next one."""
        return self._held() + self.dropped

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the next tokens will be attending over, and the position of the first of them."""
        kept = self._held() + query_length - self._dropping(query_length)
        return kept, self.get_seq_length() + query_length - kept

    def get_max_length(self) -> int:
        """Tokens that the cache holds at most."""
        return self.sinks + self.window

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.dropped = 0


def turn(keys_BHCD: Tensor, places: int, inv_freq_R: Tensor) -> Tensor:
    """Rotary keys moved `places` positions forward; widths beyond 2R carry no position and stay."""
    angle_R = places * inv_freq_R.double()
    cos, sin = angle_R.cos().to(keys_BHCD), angle_R.sin().to(keys_BHCD)
    width = len(inv_freq_R)
    first, second, rest = keys_BHCD.split([width, width, keys_BHCD.shape[-1] - 2 * width], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class StreamingCache(Cache):
    """A cache of `sinks` + `window` tokens for every layer of an LLM; goes into `generate` as `past_key_values`.

    Raises VistError for an LLM whose rotary positions cannot be moved, and for sizes that cannot be.
    """

    def __init__(self, language_model: PreTrainedModel, window: int, sinks: int = SINKS) -> None:
        config = language_model.config.get_text_config(decoder=True)
        if sinks < 1 or window < 1:
            raise VistError(f"A streaming cache needs at least one sink and one token, got {sinks} and {window}.")
        kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if kind not in FIXED_ROPE:
            raise VistError(f"Rotary positions of type {kind!r} change with the length; StreamingLLM needs fixed ones.")
        inv_freq = language_model.get_decoder().rotary_emb.inv_freq
        rotated = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers  # 1 = has positions
        super().__init__(layers=[SinkLayer(sinks, window, inv_freq if layer else None) for layer in rotated])


class StreamingModel(PlainTextModel):
    """An LLM that reads texts of any length through a streaming cache of `size` tokens (None: all it can carry)."""

    def __init__(
        self, language_model: PreTrainedModel, size: int | None = None, sinks: int = SINKS, block: int = 1
    ) -> None:
        super().__init__(language_model)
        self.size = size or int(self.config.text_config.max_position_embeddings)
        self.sinks, self.block = sinks, block

    def read(self, prompt: Tensor, text: Tensor, keep: int) -> Tensor:
        """See `PlainTextModel.read`; the cache never holds more than `size` tokens."""
        return self._stream(whole(prompt, text), self._cache(), keep).float().log_softmax(-1)

    def write(self, prompt: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
        """See `PlainTextModel.write`."""
        row, cache = whole(prompt, text), self._cache()
        if len(row) > 1:
            self._stream(row[:-1], cache, 1)
        options = {"attention_mask": torch.ones_like(row[None]), **options}
        return self.language_model.generate(row[None], past_key_values=cache, **options)[0, len(row) :]

    def _cache(self) -> StreamingCache:
        return StreamingCache(self.language_model, self.size - self.sinks, self.sinks)

    def _stream(self, row: Tensor, cache: StreamingCache, keep: int) -> Tensor:
        """Logits (keep,V) of the last tokens of a row (S,), read into the cache block by block."""
        found, place = [], 0
        while place < len(row):
            stop = min(len(row), max(self.size, place + self.block))
            wanted = stop - max(place, len(row) - keep)
            output = self.language_model(
                input_ids=row[None, place:stop], past_key_values=cache, use_cache=True, logits_to_keep=max(1, wanted)
            )
            if wanted > 0:
                found.append(output.logits[0])
            place = stop
        return torch.cat(found)
