"""StreamingLLM: attention sinks and a window, as a cache of fixed size.

Owns the cache and the reading of a text through it. Source: StreamingLLM (arXiv 2309.17453): the first few tokens
(sinks, 4 in the paper) and the most recent ones stay in the cache, everything between is dropped, and positions are
counted inside the cache, not in the text.

Decisions
- Only distances matter to rotary positions. So recent keys keep the positions of the text, and the sinks are turned
  forward by as many places as tokens were dropped: the same distances as with positions inside the cache, of which
  `generate` need not know. Sinks are kept as they came and turned anew each time, so no error adds up.
- The paper feeds token by token. A block of tokens gives the same numbers: every token of it gets sinks of its own,
  turned as far as they are when it is read, and `StreamingCache.mask` lets it see those and its own window. Without
  that mask a block which overflows the cache is refused.
- Without sinks it is the plain sliding window.
- Layers without rotary positions (SmolLM3 has some) are left unturned. Rotary frequencies that depend on the length of
  the text are refused: keys of several lengths would not fit together.
- No padding: rows are read one by one.
- B batch, H key/value heads, T new tokens, C keys that are attended over, S sinks, L tokens of a text, Dh width of a
  head, R half of the rotated width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from vist.baselines.plain_text import PlainTextModel, whole
from vist.errors import VistError

SINKS = 4
BLOCK = 128  # tokens read at once beyond what fits
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

        As soon as something is dropped, C begins with the sinks of each new token, turned for it.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        before, drops = self.dropped, self.drops(key_states.shape[-2])
        keys = torch.cat([self.keys, key_states], dim=-2)
        values = torch.cat([self.values, value_states], dim=-2)
        self.dropped = drops[-1]
        self.keys, self.values = self._without(keys, drops[-1] - before), self._without(values, drops[-1] - before)
        if not self.dropped:
            return keys, values
        first = self.sinks + drops[0] - before  # what the first new token drops, no later one sees
        sinks = turn(keys[..., : self.sinks, :], drops, self.inv_freq)
        same = values[..., : self.sinks, :].repeat(1, 1, len(drops), 1)
        return torch.cat([sinks, keys[..., first:, :]], dim=-2), torch.cat([same, values[..., first:, :]], dim=-2)

    def drops(self, new: int) -> list[int]:
        """How many tokens of the text are dropped when each of the `new` ones is read.

        Raises VistError where sinks and what is to be dropped would come in one block.
        """
        seen, size = self.get_seq_length(), self.sinks + self.window
        if seen < self.sinks and seen + new > size:
            raise self._overflow(new)
        return [max(0, place + 1 - size) for place in range(seen, seen + new)]

    def visible(self, new: int) -> Tensor:
        """Which keys each token of a block that overflows sees, (T,C) of bool, in the order of `update`'s."""
        drop = torch.tensor(self.drops(new))[:, None]
        token = torch.arange(new)[:, None]
        own_sinks = token == torch.arange(new).repeat_interleave(self.sinks)
        place = torch.arange(self.sinks + int(drop[0]), self.get_seq_length() + new)
        recent = (place >= self.sinks + drop) & (place <= self.get_seq_length() + token)
        return torch.cat([own_sinks, recent], dim=1)

    def _overflow(self, new: int) -> VistError:
        return VistError(
            f"{new} tokens at once do not fit a cache of {self.sinks} sinks and a window of {self.window}; "
            "read them with `vist.baselines.streaming.read`."
        )

    def _without(self, states: Tensor, drop: int) -> Tensor:
        if not drop:
            return states
        return torch.cat([states[..., : self.sinks, :], states[..., self.sinks + drop :, :]], dim=-2)

    def _held(self) -> int:
        return 0 if self.keys is None or not self.keys.numel() else self.keys.shape[-2]

    def get_seq_length(self) -> int:
        """Tokens seen so far, those that were dropped included: the position of the next one."""
        return self._held() + self.dropped

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the next tokens will be attending over, and the position of the first of them.

        Raises VistError for a block that overflows the cache: it needs `StreamingCache.mask`.
        """
        drop = self.drops(query_length)[-1]
        if drop and query_length > 1:
            raise self._overflow(query_length)
        return self.get_seq_length() + query_length - drop, drop

    def get_max_length(self) -> int:
        """Tokens that the cache holds at most."""
        return self.sinks + self.window

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.dropped = 0


def turn(sinks_BHSD: Tensor, places: Sequence[int], inv_freq_R: Tensor | None) -> Tensor:
    """Rotary keys moved forward, once by each of T `places`, (B,H,S,Dh) -> (B,H,T*S,Dh), the first place's first.

    Widths beyond 2R carry no position and stay; without frequencies everything stays.
    """
    sinks_BHTSD = sinks_BHSD[:, :, None].expand(-1, -1, len(places), -1, -1)
    if inv_freq_R is not None:
        angle_T1R = inv_freq_R.new_tensor(places, dtype=torch.float64)[:, None, None] * inv_freq_R.double()
        cos, sin = angle_T1R.cos().to(sinks_BHSD), angle_T1R.sin().to(sinks_BHSD)
        width = len(inv_freq_R)
        first, second, rest = sinks_BHTSD.split([width, width, sinks_BHSD.shape[-1] - 2 * width], dim=-1)
        sinks_BHTSD = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
    return sinks_BHTSD.flatten(2, 3)


class StreamingCache(Cache):
    """A cache of `sinks` + `window` tokens for every layer of an LLM; goes into `generate` as `past_key_values`.

    A text longer than the cache goes in by `read`, or token by token. `sinks` 0 is a sliding window.

    Raises VistError for an LLM whose rotary positions cannot be moved, and for sizes that cannot be.
    """

    def __init__(self, language_model: PreTrainedModel, window: int, sinks: int = SINKS) -> None:
        config = language_model.config.get_text_config(decoder=True)
        if sinks < 0 or window < 1:
            raise VistError(f"A streaming cache needs at least one token beside its sinks, got {sinks} and {window}.")
        kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if sinks and kind not in FIXED_ROPE:
            raise VistError(f"Rotary positions of type {kind!r} change with the length; StreamingLLM needs fixed ones.")
        inv_freq = language_model.get_decoder().rotary_emb.inv_freq
        rotated = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers  # 1 = has positions
        super().__init__(layers=[SinkLayer(sinks, window, inv_freq if layer else None) for layer in rotated])

    @property
    def first(self) -> SinkLayer:
        """The first layer; all hold the same tokens."""
        layer = self.layers[0]
        assert isinstance(layer, SinkLayer)
        return layer

    def mask(self, new: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """What `new` tokens read at once may see, (1,1,T,C) to be added to the scores; None where all is causal."""
        if new == 1 or not self.first.drops(new)[-1]:
            return None
        hidden = ~self.first.visible(new).to(device)
        scores = torch.zeros(hidden.shape, dtype=dtype, device=device)
        return scores.masked_fill(hidden, torch.finfo(dtype).min)[None, None]


def read(language_model: PreTrainedModel, ids_L: Tensor, cache: StreamingCache, keep: int = 1) -> Tensor:
    """Read a text into the cache as if token by token -> logits (keep,V) behind its last tokens."""
    found, place = [], 0
    room = max(0, cache.first.get_max_length() - cache.first.get_seq_length())
    while place < len(ids_L):
        stop = min(len(ids_L), place + (room if place < room else BLOCK))
        wanted = stop - max(place, len(ids_L) - keep)
        output = language_model(
            input_ids=ids_L[None, place:stop],
            attention_mask=cache.mask(stop - place, language_model.dtype, language_model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=max(1, wanted),
        )
        if wanted > 0:
            found.append(output.logits[0])
        place = stop
    return torch.cat(found)


class StreamingModel(PlainTextModel):
    """An LLM that reads texts of any length through a streaming cache of `size` tokens (None: all it can carry)."""

    def __init__(self, language_model: PreTrainedModel, size: int | None = None, sinks: int = SINKS) -> None:
        super().__init__(language_model)
        self.size = size or int(self.config.text_config.max_position_embeddings)
        self.sinks = sinks

    def read(self, prompt: Tensor, text: Tensor, keep: int) -> Tensor:
        """See `PlainTextModel.read`; the cache never holds more than `size` tokens."""
        return read(self.language_model, whole(prompt, text), self._cache(), keep).float().log_softmax(-1)

    def write(self, prompt: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
        """See `PlainTextModel.write`."""
        row, cache = whole(prompt, text), self._cache()
        if len(row) > 1:
            read(self.language_model, row[:-1], cache)
        options = {"attention_mask": torch.ones_like(row[None]), **options}
        return self.language_model.generate(row[None], past_key_values=cache, **options)[0, len(row) :]

    def _cache(self) -> StreamingCache:
        return StreamingCache(self.language_model, self.size - self.sinks, self.sinks)
