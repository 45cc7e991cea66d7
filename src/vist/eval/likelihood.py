"""How likely a model finds each of several continuations after each of several queries that share a prefix.

Owns the sharing of work: the prefix is read once, each query once, each continuation once per query. Does not know
what the continuations are for.

Decisions
- Three levels on one cache: prefix -> queries -> continuations. A level's rows are padded on the right; positions are
  counted without the padding and given explicitly, so padding changes nothing.
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

ROWS = 128  # continuations read at once


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
        root = _read(reader, root, [shared[:-1]], visual)[0]
    at_once = max(1, ROWS // len(continuations))
    found = []
    for start in range(0, len(queries), at_once):
        rows = [[shared[-1], *query] for query in queries[start : start + at_once]]
        level, _ = _read(reader, _repeat(root, len(rows)), rows, visual)
        found.append(_continue(reader, level, continuations, visual))
    return np.concatenate(found)


def _continue(
    reader: Reader, level: _Level, continuations: Sequence[Sequence[int]], visual: Mapping[str, Tensor]
) -> np.ndarray:
    """Scores (Q,L): the first token from what the query predicts, the others by reading on."""
    first = torch.tensor([continuation[0] for continuation in continuations], device=reader.device)
    scores = level.next_token[:, first].double()
    long = [place for place, continuation in enumerate(continuations) if len(continuation) > 1]
    for start in range(0, len(long), ROWS):
        places = long[start : start + ROWS]
        queries = len(level.lengths)
        rows = [list(continuations[place][:-1]) for _ in range(queries) for place in places]
        _, logits = _read(reader, _repeat(level, len(places)), rows, visual)
        for number, row in enumerate(rows):
            query, place = divmod(number, len(places))
            targets = torch.tensor(continuations[places[place]][1:], device=reader.device)
            tokens = logits[number, : len(row)].log_softmax(-1).gather(1, targets[:, None])
            scores[query, places[place]] += tokens.sum().double()
    return scores.cpu().numpy()


def _repeat(level: _Level, times: int) -> _Level:
    cache = copy.deepcopy(level.cache)
    if cache is not None:
        cache.batch_repeat_interleave(times)
    repeated = (part.repeat_interleave(times, dim=0) for part in level[1:])
    return _Level(cache, *repeated)


def _read(
    reader: Reader, before: _Level, rows: Sequence[Sequence[int]], visual: Mapping[str, Tensor]
) -> tuple[_Level, Tensor]:
    """Read one more stretch of tokens in every row; `before` has as many rows. Also returns the logits (R,T,V)."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), reader.start_id)
    real = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)], real[number, : len(row)] = torch.tensor(row), 1
    ids, real = ids.to(reader.device), real.to(reader.device)
    mask = torch.cat([before.mask, real], dim=1)
    expanded = {name: value.expand(len(rows), *value.shape[1:]) for name, value in visual.items()}
    output = reader.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=before.lengths[:, None] + torch.arange(longest, device=reader.device),
        past_key_values=before.cache,
        use_cache=True,
        **expanded,
    )
    logits = output.logits.float()
    last = real.sum(1) - 1
    next_token = logits[torch.arange(len(rows), device=reader.device), last].log_softmax(-1)
    return _Level(output.past_key_values, mask, before.lengths + real.sum(1), next_token), logits
