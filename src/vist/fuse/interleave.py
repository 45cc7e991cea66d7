"""Sequences of text and the pages that take its place: who sees whom, and at which position.

Owns the layout of [T1][V1][T2][V2]...[Tn] as plain tensors, its mask and its positions. Knows neither models nor
pages: a visual token is a place in a sequence. Source: VIST2 (arXiv 2601.10378), which leaves positions and the
attention among visual tokens open; what is fixed here is fixed so that incremental decoding computes the same.

Decisions
- Four roles. TEXT is seen by its own chunk only and leaves the cache when the chunk ends. VISUAL stays. KEPT is text
  that stays: special tokens and what cannot be drawn. PADDING is seen by nobody.
- A token sees itself, and of what stands before it in its document: all that stays, and the TEXT of its own span. So
  the visual tokens of a chunk see those of earlier chunks and, in order, one another, never the text they were drawn
  from: they are the same whether that text is in the sequence or not.
- A position counts what a token sees before itself, which is what the cache holds when it is computed. Dropping text
  therefore moves nothing, and no key is ever rotated again.
- One row may hold several documents; they see nothing of each other and each counts from 0.
- A place of padding sees itself, at position 0: a row of a mask without any True would be undefined.
- The rule is written once, on indices (`_sees`); the dense mask and the block mask are both made from it.
- B rows, T places of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from vist.errors import VistError


class Role(IntEnum):
    """What a place of a sequence is."""

    PADDING = 0
    TEXT = 1
    KEPT = 2
    VISUAL = 3


class Span(NamedTuple):
    """`length` neighbouring places of one role; the TEXT of a chunk is one span."""

    role: Role
    length: int


class Interleaving(NamedTuple):
    """A batch of sequences: role, number of the span, number of the document (-1 = padding) of every place."""

    roles: Tensor  # (B,T) int64
    spans: Tensor  # (B,T) int64, counted along the row
    documents: Tensor  # (B,T) int64


def lay_spans(rows: Sequence[Sequence[Sequence[Span]]], padding_side: str = "right") -> Interleaving:
    """Rows of documents of spans as tensors, padded to the longest row on one side.

    Raises VistError for a span of negative length.
    """
    longest = max((sum(span.length for document in row for span in document) for row in rows), default=0)
    columns: tuple[list[list[int]], ...] = ([], [], [])
    for row in rows:
        places = list(_places(row))
        padding = [(int(Role.PADDING), -1, -1)] * (longest - len(places))
        places = padding + places if padding_side == "left" else places + padding
        for column, values in zip(columns, zip(*places, strict=True) if places else ((), (), ()), strict=True):
            column.append(list(values))
    return Interleaving(*(torch.tensor(column, dtype=torch.long).reshape(len(rows), longest) for column in columns))


def _places(row: Sequence[Sequence[Span]]) -> list[tuple[int, int, int]]:
    places: list[tuple[int, int, int]] = []
    number = 0
    for document, spans in enumerate(row):
        for span in spans:
            if span.length < 0:
                raise VistError(f"A span of {span.length} places cannot be laid out; lengths are 0 or more.")
            where = -1 if span.role == Role.PADDING else document
            places += [(int(span.role), number, where)] * span.length
            number += 1
    return places


def _sees(stays: Tensor, spans: Tensor, documents: Tensor, row: Any, query: Any, key: Any) -> Tensor:
    """Whether the place `query` of a row sees the place `key`; any indices that broadcast.

    `stays` (B,T) bool, `spans` and `documents` (B,T): plain tensors, which a compiled block mask can close over.
    """
    remembered = stays[row, key] | (spans[row, key] == spans[row, query])
    same = (documents[row, key] == documents[row, query]) & (documents[row, query] >= 0)
    return ((key <= query) & same & remembered) | (key == query)


def _stays(layout: Interleaving) -> Tensor:
    return (layout.roles == int(Role.KEPT)) | (layout.roles == int(Role.VISUAL))


def visible(layout: Interleaving) -> Tensor:
    """The dense mask (B,1,T,T), True = the place of the third axis sees the place of the fourth."""
    rows, places = layout.roles.shape
    device = layout.roles.device
    row = torch.arange(rows, device=device)[:, None, None]
    place = torch.arange(places, device=device)
    _, spans, documents = layout
    return _sees(_stays(layout), spans, documents, row, place[None, :, None], place[None, None, :])[:, None]


def block_mask(layout: Interleaving, block_size: int = 128) -> BlockMask:
    """The same mask for FlexAttention, without the T x T tensor; blocks that nobody sees are not computed."""
    rows, places = layout.roles.shape
    stays, spans, documents = _stays(layout), layout.spans, layout.documents

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _sees(stays, spans, documents, row, query, key)

    return create_block_mask(sees, rows, None, places, places, device=layout.roles.device, BLOCK_SIZE=block_size)


def plainly_causal(layout: Interleaving) -> bool:
    """Whether every place sees all places before it: one document a row, no padding, no text behind its chunk's end.

    So it is when a context is read to be continued. A kernel that is causal by itself then needs no T x T mask.
    """
    roles, spans, documents = layout
    open_text = (roles != int(Role.TEXT)) | (spans == spans[:, -1:])
    one_document = (documents >= 0) & (documents == documents[:, :1])
    return bool((open_text & one_document).all())


def layout_mask(
    layout: Interleaving, implementation: str | None, dtype: torch.dtype, own_causal: bool = False
) -> Tensor | BlockMask | None:
    """The mask in the form that an attention kernel of transformers takes. Raises VistError for one that takes none.

    With `own_causal` None where the LLM's own causal mask is the same (`plainly_causal`): without a mask the kernels
    read 8,192 visual tokens in a quarter to two fifths less time (docs/cost.md).
    """
    if own_causal and implementation == "sdpa" and plainly_causal(layout):
        return None
    if implementation == "flex_attention":
        return block_mask(layout)
    return kernel_mask(visible(layout), implementation, dtype)


def kernel_mask(mask_B1QK: Tensor, implementation: str | None, dtype: torch.dtype) -> Tensor:
    """A dense bool mask (B,1,Q,K) in the form that an attention kernel takes: bool, or added to the scores."""
    if implementation == "sdpa":
        return mask_B1QK
    if implementation in ("eager", "flex_attention"):
        return torch.zeros_like(mask_B1QK, dtype=dtype).masked_fill(~mask_B1QK, torch.finfo(dtype).min)
    raise VistError(
        f"The attention kernel {implementation!r} takes no mask of our own; "
        'load the model with attn_implementation="sdpa", "eager" or "flex_attention".'
    )


def positions(layout: Interleaving) -> Tensor:
    """(B,T) how many places each place sees before itself; 0 for padding."""
    roles, spans, documents = layout
    stays = _stays(layout).long()
    before = stays.cumsum(1) - stays
    before = before - _at_start_of_run(before, documents.cummax(1).values)  # padding may lie inside a document
    place = torch.arange(roles.shape[1], device=roles.device).expand_as(roles)
    own = place - _at_start_of_run(place, spans)
    return torch.where(roles == Role.TEXT, before + own, before).masked_fill(roles == Role.PADDING, 0)


def _at_start_of_run(values_BT: Tensor, numbers_BT: Tensor) -> Tensor:
    """For every place the value at the first place of its run of equal numbers."""
    place = torch.arange(values_BT.shape[1], device=values_BT.device).expand_as(values_BT)
    begins = torch.ones_like(numbers_BT, dtype=torch.bool)
    begins[:, 1:] = numbers_BT[:, 1:] != numbers_BT[:, :-1]
    first = torch.where(begins, place, 0).cummax(1).values
    return values_BT.gather(1, first)
