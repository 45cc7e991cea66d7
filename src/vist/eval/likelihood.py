"""How likely a model finds each of several continuations after each of several queries that share a prefix.

Owns the sharing of work: the prefix is read once, each query once, each continuation once per query. Does not know
what the continuations are for.

Decisions
- Three levels on one cache: prefix -> queries -> continuations. Query rows are padded on the right; positions are
  counted without the padding and given explicitly, so padding changes nothing.
- The continuations of a query stand in one row, one behind the other, each with its own positions and a mask that shows
  it the query and itself alone. So the query's cache is copied once and not for every continuation, which for 150
  labels was nine tenths of the work. It takes an attention that honours a mask of four dimensions (eager and SDPA do).
- A visual context belongs to the prefix: its keys and values are projected once and expanded, not copied.
- Prefix, query and continuation are tokenized apart, the continuation with its leading blank, as in CEPE's evaluation.
- R rows, T tokens of this level, S tokens so far, Q queries, L continuations, V vocabulary, M visual tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vist.eval.reader import Reader

TOKENS = 512  # of continuations read at once: as many logits of the whole vocabulary are held


class _Level(NamedTuple):
    """What was read so far: cache (None: nothing), mask (R,S), tokens of each row (R,), log-probabilities (R,V)."""

    cache: Any
    mask: Tensor
    lengths: Tensor
    next_token: Tensor


@torch.inference_mode()
def continuation_scores(
    reader: Reader,
    prefix: Sequence[int],
    queries: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    visual: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Log-likelihood (Q,L), summed over tokens, of each continuation after start token + prefix + query.

    `visual` is `cross_kv` (1, layers, 2, Hkv, M, Dh) and `cross_mask` (1,M), or None for the LLM alone.
    """
    visual = visual or {}
    shared = [reader.start_id, *prefix]
    empty = torch.zeros(1, 0, dtype=torch.long, device=reader.device)
    root = _Level(None, empty, torch.zeros(1, dtype=torch.long, device=reader.device), torch.empty(0))
    if len(shared) > 1:  # its last token is read with the queries, so that an empty query has something to read
        root = _read(reader, root, [shared[:-1]], visual)
    at_once = max(1, TOKENS // max(1, sum(len(continuation) - 1 for continuation in continuations)))
    found = []
    for start in range(0, len(queries), at_once):
        rows = [[shared[-1], *query] for query in queries[start : start + at_once]]
        level = _read(reader, _repeat(root, len(rows)), rows, visual)
        found.append(_continue(reader, level, continuations, visual))
    return np.concatenate(found)


def _continue(
    reader: Reader, level: _Level, continuations: Sequence[Sequence[int]], visual: Mapping[str, Tensor]
) -> np.ndarray:
    """Scores (Q,L): the first token from what the query predicts, the others by reading on."""
    first = torch.tensor([continuation[0] for continuation in continuations], device=reader.device)
    scores = level.next_token[:, first].double()
    for places in _packs([len(continuation) - 1 for continuation in continuations]):
        own = [(place, offset) for place in places for offset in range(len(continuations[place]) - 1)]
        place, offset = torch.tensor(own, device=reader.device).T
        ids = torch.tensor([continuations[at][before] for at, before in own], device=reader.device)
        targets = torch.tensor([continuations[at][before + 1] for at, before in own], device=reader.device)
        itself = (place[:, None] == place) & (offset[:, None] >= offset)
        logits = _read_packed(reader, level, ids, offset, itself, visual)
        tokens = logits.log_softmax(-1).gather(-1, targets.expand(len(logits), -1)[..., None])[..., 0]
        scores.index_add_(1, place, tokens.double())
    return scores.cpu().numpy()


def _packs(lengths: Sequence[int]) -> list[list[int]]:
    """The places of the lengths above 0, in stretches of at most TOKENS (or of one place that is longer)."""
    packs: list[list[int]] = []
    room = 0
    for place, length in enumerate(lengths):
        if length > 0:
            if not packs or length > room:
                packs.append([])
                room = TOKENS
            packs[-1].append(place)
            room -= length
    return packs


def _read_packed(
    reader: Reader, before: _Level, ids: Tensor, offsets: Tensor, itself: Tensor, visual: Mapping[str, Tensor]
) -> Tensor:
    """Logits (R,T,V) of the same T tokens after every row; `itself` (T,T) says which of them each token sees."""
    rows, length = len(before.lengths), len(ids)
    seen = before.mask.bool()[:, None, None].expand(rows, 1, length, -1)
    output = reader.model(
        input_ids=ids.expand(rows, length),
        attention_mask=torch.cat([seen, itself.expand(rows, 1, length, length)], dim=-1),
        position_ids=before.lengths[:, None] + offsets,
        past_key_values=copy.deepcopy(before.cache),
        use_cache=True,
        **_expanded(visual, rows),
    )
    return output.logits.float()


def _expanded(visual: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    return {name: value.expand(rows, *value.shape[1:]) for name, value in visual.items()}


def _repeat(level: _Level, times: int) -> _Level:
    cache = copy.deepcopy(level.cache)
    if cache is not None:
        cache.batch_repeat_interleave(times)
    repeated = (part.repeat_interleave(times, dim=0) for part in level[1:])
    return _Level(cache, *repeated)


def _read(reader: Reader, before: _Level, rows: Sequence[Sequence[int]], visual: Mapping[str, Tensor]) -> _Level:
    """Read one more stretch of tokens in every row; `before` has as many rows."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), reader.start_id)
    real = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)], real[number, : len(row)] = torch.tensor(row), 1
    ids, real = ids.to(reader.device), real.to(reader.device)
    mask = torch.cat([before.mask, real], dim=1)
    output = reader.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=before.lengths[:, None] + torch.arange(longest, device=reader.device),
        past_key_values=before.cache,
        use_cache=True,
        **_expanded(visual, len(rows)),
    )
    logits = output.logits.float()
    last = real.sum(1) - 1
    next_token = logits[torch.arange(len(rows), device=reader.device), last].log_softmax(-1)
    return _Level(output.past_key_values, mask, before.lengths + real.sum(1), next_token)
