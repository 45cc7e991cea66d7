import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from vist import VistForConditionalGeneration
from vist.errors import VistError
from vist.fuse.insert import cross_attentions
from vist.render import PageStyle, layout, render
from vist.train.alignment import NOWHERE, Aligner, AlignmentPages, collate_alignment, visual_token_of
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix
from vist.train.tokenizer import train_tokenizer
from vist.vision.text_vit import TextViTConfig, TextViTModel

TEXT = "The cat sat on the mat, and it saw one old dog by the sea where men talk of rain. " * 12
TOKENIZER = train_tokenizer([TEXT, "A word\n\nor two."], 300, 512)
STYLE = PageStyle.named("vist")


def slow_places(text: str, group: int, parts: int) -> list[int]:
    """The part of a visual token in which each text token begins, found by walking over the page patch by patch."""
    placed, pages = layout(text, STYLE), render(text, STYLE)
    inked = [patch for patch in range(256) if pages.ink[0].reshape(-1)[patch]]
    places = []
    for start, stop in TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping:
        if stop - start > 1 and text[start].isspace():
            start += 1
        if placed.page[start] != 0:
            break
        centre = placed.x[start] + placed.advance[start] // 2
        patch = placed.row[start] * 16 + min(centre // 14, 15)
        if not placed.advance[start] or patch not in inked:
            places.append(NOWHERE)
            continue
        cell, rank = divmod(inked.index(patch), group)
        across = (rank * 14 + min(centre - patch % 16 * 14, 13)) / (group * 14)
        places.append(int(cell * parts + int(across * parts)))
    return places


@pytest.mark.parametrize(("visual_tokens", "parts"), [(64, 1), (64, 4), (86, 4)])
def test_places_equal_a_slow_walk_over_the_page(corpus: PackedCorpus, visual_tokens: int, parts: int) -> None:
    mix = ExampleMix({"continue": 1}, {"books": 1})
    pages = AlignmentPages(corpus, TOKENIZER, mix, STYLE, visual_tokens, parts, 8, seed=1)
    sample = pages.sample(TEXT)
    assert sample["ids"][0] == TOKENIZER.bos_token_id and sample["places"][0] == NOWHERE
    assert sample["places"][1:].tolist() == slow_places(TEXT, pages.group, parts)
    assert len(set(sample["places"].tolist())) > 150 or parts == 1


def test_places_are_counted_on_over_the_pages() -> None:
    placed, ink = layout(TEXT, STYLE), render(TEXT, STYLE).ink
    drawn = np.flatnonzero(placed.advance > 0)
    whole, quarters = (visual_token_of(placed, ink, drawn, 4, parts) for parts in (1, 4))
    assert (quarters // 4 == whole).all() and whole.max() > 64 and set(np.diff(whole).tolist()) <= {0, 1}


def test_text_tokens_of_a_sample_are_the_page_in_order(corpus: PackedCorpus) -> None:
    pages = AlignmentPages(corpus, TOKENIZER, ExampleMix({"continue": 1}, {"books": 1}), STYLE, 64, 4, 8, seed=1)
    sample = pages.sample(TEXT)
    start, stop = render(TEXT, STYLE).spans[0]
    assert TOKENIZER.decode(sample["ids"][1:]).strip() == TEXT[start:stop].strip()
    batch = collate_alignment([pages[0], pages[1]])
    assert batch["pixel_values"].shape == (2, 1, 224, 224) and batch["input_ids"].shape == batch["places"].shape
    assert batch["pixel_values"].dtype == torch.uint8 and batch["ink_mask"].dtype == torch.bool


def tiny(**choices: object) -> VistForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    heads = {"head_dim": 8, "num_key_value_heads": 4}
    llm = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(TOKENIZER), num_hidden_layers=2, **shape, **heads))
    tower = TextViTModel(TextViTConfig(num_hidden_layers=1, **shape))
    options = {"num_visual_tokens": 64, "reducer": "local", "resampler_layers": 1, "resampler_heads": 2}
    return VistForConditionalGeneration.from_backbones(llm, tower, **options, **choices)


@torch.no_grad()
def test_cross_attention_takes_over_what_was_learned() -> None:
    model = tiny(cross_subtokens=True)
    aligner = Aligner(model)
    torch.nn.init.normal_(aligner.key_norm.weight, std=3)
    aligner.hand_over(model)
    first, last = cross_attentions(model.language_model)
    assert not first.o_proj.weight.any()
    states, before = torch.randn(1, 5, 32), 7
    hidden = model.get_input_embeddings().weight[before].expand(1, 1, -1)
    keys = aligner.key_norm(aligner.key(states).unflatten(-1, (4, -1))).flatten(1, 2)
    values = aligner.value(states).unflatten(-1, (4, -1)).flatten(1, 2)
    query = aligner.query_norm(aligner.query(aligner.asks[before]))
    led = torch.cat([keys @ query, torch.zeros(1, 1)], dim=1).mul(8**-0.5).softmax(-1)[:, :-1] @ values[0]
    torch.testing.assert_close(last(hidden, last.project(states))[0], aligner.output(led), atol=1e-4, rtol=1e-3)


def test_alignment_learns_to_find_and_to_name(corpus: PackedCorpus) -> None:
    pages = AlignmentPages(corpus, TOKENIZER, ExampleMix({"continue": 1}, {"books": 1}), STYLE, 64, 4, 8, seed=1)
    aligner, batch = Aligner(tiny(cross_subtokens=True)), collate_alignment([pages[0], pages[1]])
    optimizer = torch.optim.AdamW([p for p in aligner.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        result = aligner(**batch)
        result["loss"].backward()
        optimizer.step()
        losses.append((result["find_loss"].item(), result["name_loss"].item()))
    assert losses[-1][0] < losses[0][0] - 1 and losses[-1][1] < losses[0][1] - 1


def test_alignment_needs_sub_tokens() -> None:
    with pytest.raises(VistError, match="cross_subtokens"):
        Aligner(tiny())
