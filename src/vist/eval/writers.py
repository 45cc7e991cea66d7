"""Four memories behind one interface: pages (VIST2), a full cache, a sliding window, attention sinks (StreamingLLM).

Owns how each reads a text, takes one more token, and scores a text that is given. Does not know what is measured.

Decisions
- A text begins with the start token. All reading is what the method does when it is used: chunks become pages, old
  tokens leave the window, as soon as they would while writing.
- A window sees the last `window` tokens, their positions those of the text: StreamingLLM's cache without sinks. Both
  read a text in blocks that give the numbers of token by token (`vist.baselines.streaming`).
- Scoring a given text runs the VIST2 model teacher-forced, which its tests hold equal to writing.
- N tokens, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from vist.baselines.streaming import SINKS, StreamingCache, read
from vist.errors import VistError
from vist.model.chunked_generation import advance
from vist.model.chunked_state import ChunkedState, Step
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import Vist2Processor

BLOCK = 512  # tokens that a cache without bounds reads at once


class Session(Protocol):
    """A text in the middle of being written."""

    @property
    def logits(self) -> Tensor:
        """(V,) scores of the next token."""

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""

    @property
    def places(self) -> int:
        """Tokens, of text or visual, whose keys and values are there."""

    def push(self, token: int) -> None:
        """Write one token."""


class Writer(ABC):
    """A model with a memory of its own kind."""

    def __init__(self, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.llm, self.tokenizer = llm, tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.llm.device

    @property
    def special_ids(self) -> list[int]:
        """Tokens that a long text does not hold."""
        return list(self.tokenizer.all_special_ids)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text of these tokens."""
        found = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(found, str)
        return found

    def started(self, ids: Sequence[int]) -> list[int]:
        """The ids behind the start token."""
        start = self.tokenizer.bos_token_id
        return [self.tokenizer.eos_token_id if start is None else start, *ids]

    @abstractmethod
    def begin(self, ids: Sequence[int]) -> Session:
        """Read a text (N,), to be continued."""

    @abstractmethod
    def nats(self, before: Sequence[int], ids: Sequence[int]) -> Tensor:
        """(N,) loss of each of `ids`, given `before` and those before it."""


class PagesWriter(Writer):
    """VIST2: finished chunks as pages."""

    def __init__(self, model: Vist2ForCausalLM, processor: Vist2Processor) -> None:
        super().__init__(model.language_model, processor.tokenizer)
        self.model, self.processor = model.eval(), processor

    def begin(self, ids: Sequence[int]) -> Session:
        """See `Writer.begin`. Raises VistError when the aligner cannot give the ratio."""
        row = torch.tensor([self.started(ids)], device=self.device)
        return PagesSession(self.model, self.processor, self.model.start(self.processor, row))

    def nats(self, before: Sequence[int], ids: Sequence[int]) -> Tensor:
        """See `Writer.nats`."""
        batch = {
            name: part.to(self.device)
            for name, part in self.processor.interleaved([self.started([*before, *ids])]).items()
        }
        targets = batch.pop("shift_labels")[0]
        asked = (targets >= 0).nonzero().flatten()[-len(ids) :]
        logits = self.model(**batch, logits_to_keep=asked).logits[0]
        return -logits.float().log_softmax(-1).gather(1, targets[asked, None]).squeeze(1).cpu()


class PagesSession:
    """A `ChunkedState` that takes one token at a time."""

    def __init__(self, model: Vist2ForCausalLM, processor: Vist2Processor, state: ChunkedState) -> None:
        self.model, self.processor, self.state = model, processor, state

    @property
    def logits(self) -> Tensor:
        """(V,) scores of the next token."""
        return self.state.ledger.logits[0]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.state.nbytes

    @property
    def places(self) -> int:
        """Visual tokens and open text in the cache."""
        return int(self.state.lengths[0])

    def push(self, token: int) -> None:
        """Write one token; at a chunk's end the pages take the place of its text."""
        ledger = self.state.ledger
        new = torch.tensor([[token]], device=ledger.ids.device)
        self.state.ledger = replace(
            ledger,
            ids=torch.cat([ledger.ids, new], dim=1),
            mask=torch.cat([ledger.mask, torch.ones_like(new, dtype=torch.bool)], dim=1),
            step=Step((token,), (0,)),
        )
        advance(self.model, self.processor, self.state)


class CacheWriter(Writer):
    """The LLM alone with a cache of some kind."""

    @abstractmethod
    def cache(self) -> Cache:
        """An empty one."""

    def begin(self, ids: Sequence[int]) -> Session:
        """See `Writer.begin`."""
        session = CacheSession(self.llm, self.cache())
        self._read(session, self.started(ids), 1)
        return session

    def nats(self, before: Sequence[int], ids: Sequence[int]) -> Tensor:
        """See `Writer.nats`."""
        row = self.started([*before, *ids])
        logits = self._read(CacheSession(self.llm, self.cache()), row[:-1], len(ids))
        targets = torch.tensor(list(ids), device=logits.device)
        return -logits.float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1).cpu()

    def _read(self, session: CacheSession, row: Sequence[int], keep: int) -> Tensor:
        """Read a text block by block -> (keep,V) scores behind its last tokens."""
        found = []
        for place in range(0, len(row), BLOCK):
            stop = min(len(row), place + BLOCK)
            logits = session.read(row[place:stop], max(1, stop - max(place, len(row) - keep)))
            if stop > len(row) - keep:
                found.append(logits)
        return torch.cat(found)


class FullWriter(CacheWriter):
    """Everything stays."""

    def cache(self) -> Cache:
        """An empty one."""
        return DynamicCache()


class SinkWriter(CacheWriter):
    """StreamingLLM: the first tokens and the last ones stay, `size` together."""

    def __init__(self, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, size: int, sinks: int = SINKS) -> None:
        super().__init__(llm, tokenizer)
        if size <= sinks:
            raise VistError(f"A cache of {size} tokens has no room beside {sinks} sinks; give more.")
        self.size, self.sinks = size, sinks

    def cache(self) -> StreamingCache:
        """An empty one."""
        return StreamingCache(self.llm, self.size - self.sinks, self.sinks)

    def _read(self, session: CacheSession, row: Sequence[int], keep: int) -> Tensor:
        assert isinstance(session.cache, StreamingCache)
        logits = read(self.llm, torch.tensor(list(row), device=self.device), session.cache, keep)
        session.logits = logits[-1]
        return logits


class WindowWriter(SinkWriter):
    """Only the last `window` tokens stay. Raises VistError for a window that holds nothing."""

    def __init__(self, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int) -> None:
        if window < 2:
            raise VistError(f"A window of {window} tokens holds nothing to read; give at least 2.")
        super().__init__(llm, tokenizer, window, sinks=0)


class CacheSession:
    """A cache that takes one token at a time."""

    def __init__(self, llm: PreTrainedModel, cache: Cache) -> None:
        self.llm, self.cache = llm, cache
        self.logits: Tensor = torch.empty(0)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        layers: list[Any] = self.cache.layers
        return sum(part.numel() * part.element_size() for layer in layers for part in (layer.keys, layer.values))

    @property
    def places(self) -> int:
        """Tokens in the cache."""
        return int(self.cache.layers[0].keys.shape[-2])  # type: ignore[union-attr]  # there after the first reading

    def push(self, token: int) -> None:
        """Write one token."""
        self.read([token], 1)

    def read(self, ids: Sequence[int], keep: int) -> Tensor:
        """Read more tokens -> (keep,V) scores behind the last of them."""
        row = torch.tensor([list(ids)], device=self.llm.device)
        output = self.llm(input_ids=row, past_key_values=self.cache, use_cache=True, logits_to_keep=keep)
        self.logits = output.logits[0, -1]
        return output.logits[0]


def writers(
    model: Vist2ForCausalLM,
    processor: Vist2Processor,
    tokens: int,
    llm: PreTrainedModel | None = None,
    window: int | None = None,
) -> dict[str, Writer]:
    """The four methods by name; `llm` (None: the model's own) is what the other three write with.

    `window` None: as many tokens as the pages' memory holds at the end of `tokens`, so that memory is equal.
    """
    own = model.language_model if llm is None else llm
    held = window or equal_window(processor, tokens)
    return {
        "pages": PagesWriter(model, processor),
        "full cache": FullWriter(own, processor.tokenizer),
        "sliding window": WindowWriter(own, processor.tokenizer, held),
        "attention sinks": SinkWriter(own, processor.tokenizer, held),
    }


def equal_window(processor: Vist2Processor, tokens: int) -> int:
    """Places in the pages' memory after so many tokens: visual tokens, and a full chunk of text."""
    return int(tokens / processor.ratio) + processor.chunk_size
