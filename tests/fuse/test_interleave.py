"""Masks and positions of interleaved sequences, against a definition that looks at one pair of places at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

from vist.errors import VistError
from vist.fuse.interleave import (
    Interleaving,
    Role,
    Span,
    block_mask,
    kernel_mask,
    lay_spans,
    layout_mask,
    plainly_causal,
    positions,
    visible,
)

TEXT, KEPT, VISUAL, PADDING = Role.TEXT, Role.KEPT, Role.VISUAL, Role.PADDING

spans = st.builds(Span, st.sampled_from([TEXT, KEPT, VISUAL, PADDING]), st.integers(0, 4))
batches = st.lists(st.lists(st.lists(spans, max_size=5), max_size=3), min_size=1, max_size=3)


def slow_pairs(row, length, side):
    """The rule in words, for one pair of places: returns sees[q][k] and the position of each place."""
    places = []  # (role, document, chunk of the text or None)
    for document, document_spans in enumerate(row):
        for number, span in enumerate(document_spans):
            places += [(span.role, document, (document, number))] * span.length
    padding = [(PADDING, None, None)] * (length - len(places))
    places = padding + places if side == "left" else places + padding

    def sees(q, k):
        if q == k:
            return True
        (role_q, document_q, chunk_q), (role_k, document_k, chunk_k) = places[q], places[k]
        if PADDING in (role_q, role_k) or document_q != document_k or k > q:
            return False
        if role_k == TEXT:
            return chunk_q == chunk_k  # only its own chunk's earlier text
        return True  # visual tokens and kept text stay in the cache

    table = [[sees(q, k) for k in range(length)] for q in range(length)]
    return table, [sum(line) - 1 for line in table]


@settings(max_examples=200)
@given(batches, st.sampled_from(["left", "right"]))
def test_plainly_causal_is_said_of_causal_masks_and_of_all_of_them_without_padding(batch, side):
    layout = lay_spans(batch, side)
    length = layout.roles.shape[1]
    causal = torch.equal(visible(layout), torch.ones(len(batch), 1, length, length, dtype=torch.bool).tril())
    assert causal or not plainly_causal(layout)
    if (layout.roles != PADDING).all():
        assert plainly_causal(layout) == causal


def test_a_plainly_causal_sequence_needs_no_mask_and_others_do():
    context, written = [Span(VISUAL, 3), Span(KEPT, 1), Span(TEXT, 4)], [Span(TEXT, 4), Span(VISUAL, 2)]
    read = lay_spans([[context]])
    assert layout_mask(read, "sdpa", torch.float32, own_causal=True) is None
    assert layout_mask(read, "sdpa", torch.float32) is not None
    assert layout_mask(read, "eager", torch.float32, own_causal=True) is not None
    for rows in ([[written]], [[context, context]], [[context], [context[:2]]]):
        assert layout_mask(lay_spans(rows), "sdpa", torch.float32, own_causal=True) is not None


@settings(max_examples=50)
@given(batches, st.sampled_from(["left", "right"]))
def test_mask_and_positions_are_the_definition_pair_by_pair(batch, side):
    layout = lay_spans(batch, side)
    length = layout.roles.shape[1]
    mask, position = visible(layout), positions(layout)
    assert mask.shape == (len(batch), 1, length, length)
    for number, row in enumerate(batch):
        table, expected = slow_pairs(row, length, side)
        assert mask[number, 0].tolist() == table
        assert position[number].tolist() == expected


def test_the_sequence_of_the_paper():
    """[T1 T1][V1][T2 T2][V2][T3]: later text sees pages, never earlier text, and counts what is left in the cache."""
    layout = lay_spans([[[Span(TEXT, 2), Span(VISUAL, 1), Span(TEXT, 2), Span(VISUAL, 1), Span(TEXT, 1)]]])
    assert visible(layout)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 1, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 1, 1],
    ]
    assert positions(layout).tolist() == [[0, 1, 0, 1, 2, 1, 2]]


@settings(max_examples=5)
@given(batches, st.randoms(use_true_random=False))
def test_flex_attention_computes_what_the_dense_mask_does(batch, random):
    layout = lay_spans(batch)
    length = layout.roles.shape[1]
    if length == 0:
        return
    torch.manual_seed(random.randrange(1000))
    query, key, value = torch.randn(3, len(batch), 2, length, 8)
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible(layout))
    flex = flex_attention(query, key, value, block_mask=block_mask(layout, block_size=16))
    assert torch.allclose(flex, dense, atol=1e-5)


def test_each_kernel_gets_its_form():
    layout = lay_spans([[[Span(TEXT, 2), Span(VISUAL, 1)]]])
    dense = visible(layout)
    assert torch.equal(layout_mask(layout, "sdpa", torch.float32), dense)
    added = kernel_mask(dense, "eager", torch.float32)
    assert torch.equal(added == 0, dense) and added.min() == torch.finfo(torch.float32).min
    assert type(layout_mask(layout, "flex_attention", torch.float32)).__name__ == "BlockMask"
    with pytest.raises(VistError, match="'flash_attention_2' takes no mask"):
        layout_mask(layout, "flash_attention_2", torch.float32)


def test_a_negative_span_is_refused():
    with pytest.raises(VistError, match="-1 places"):
        lay_spans([[[Span(TEXT, -1)]]])


def test_an_empty_batch_has_no_places():
    layout = lay_spans([[], [[]]])
    assert isinstance(layout, Interleaving) and layout.roles.shape == (2, 0)
    assert visible(layout).shape == (2, 1, 0, 0) and positions(layout).shape == (2, 0)
