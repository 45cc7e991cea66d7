import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vist import VistForConditionalGeneration
from vist.fuse.insert import cross_attentions
from vist.render import PageStyle, layout, render
from vist.train.alignment import IGNORED, Aligner, AlignmentPages, cell_tokens, collate_cells
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix
from vist.train.tokenizer import train_tokenizer
from vist.vision.text_vit import TextViTConfig, TextViTModel

TEXT = "The cat sat on the mat, and it saw one old dog by the sea where men talk of rain. " * 12
TOKENIZER = train_tokenizer([TEXT, "A word\n\nor two."], 300, 512)
STYLE = PageStyle.named("vist")


def slow_cells(text: str, group: int) -> list[int]:
    """The cell of each token, found by walking over the page patch by patch."""
    placed, pages = layout(text, STYLE), render(text, STYLE)
    inked = [patch for patch in range(256) if pages.ink[0].reshape(-1)[patch]]
    cells = []
    for start, stop in TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping:
        if stop - start > 1 and text[start].isspace():
            start += 1
        drawn = placed.page[start] == 0 and placed.advance[start] > 0
        patch = placed.row[start] * 16 + min((placed.x[start] + placed.advance[start] // 2) // 14, 15)
        cells.append(inked.index(patch) // group if drawn and patch in inked else -1)
    return cells


def test_cells_equal_a_slow_walk_over_the_page() -> None:
    encoded = TOKENIZER(TEXT, add_special_tokens=False, return_offsets_mapping=True)
    offsets = np.array(encoded.offset_mapping)
    cells, slots = cell_tokens(layout(TEXT, STYLE), render(TEXT, STYLE).ink[0], TEXT, offsets, 4)
    assert cells.tolist() == slow_cells(TEXT, 4)
    for cell in set(cells.tolist()) - {-1}:
        assert slots[cells == cell].tolist() == list(range((cells == cell).sum()))
    assert (slots[cells < 0] == -1).all()


def test_cells_in_order_hold_the_text_of_the_page(corpus: PackedCorpus) -> None:
    pages = AlignmentPages(corpus, TOKENIZER, ExampleMix({"continue": 1}, {"books": 1}), STYLE, 64, 12, 8, seed=1)
    sample = pages.sample(TEXT)
    ids = sample["tokens"][sample["tokens"] != IGNORED]
    start, stop = render(TEXT, STYLE).spans[0]
    read, page = TOKENIZER.decode(ids).replace(" ", ""), TEXT[start:stop].replace(" ", "")
    assert read == page  # a blank swallowed at a row's end is drawn nowhere
    batch = collate_cells([pages[0], pages[1]])
    assert batch["pixel_values"].shape == (2, 1, 224, 224) and batch["labels"].shape == (2, 64, 12)
    assert batch["pixel_values"].dtype == torch.uint8 and batch["ink_mask"].dtype == torch.bool
    assert batch["before"].shape == (2, 64, 12)


def test_every_token_comes_with_the_one_before_it(corpus: PackedCorpus) -> None:
    pages = AlignmentPages(corpus, TOKENIZER, ExampleMix({"continue": 1}, {"books": 1}), STYLE, 64, 12, 8, seed=1)
    sample = pages.sample(TEXT)
    there = sample["tokens"] != IGNORED
    tokens, before = sample["tokens"][there], sample["before"][there]
    assert before[0] == TOKENIZER.bos_token_id
    assert (before[1:] == tokens[:-1]).mean() > 0.9  # a blank at a row's end is drawn nowhere, but it was there
    assert (sample["before"][~there] == IGNORED).all()


@torch.no_grad()
def test_cross_attention_takes_over_what_was_learned() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape))
    tower = TextViTModel(TextViTConfig(**shape))
    choices = {"num_visual_tokens": 8, "resampler_layers": 1, "resampler_heads": 2, "cross_output_gate": True}
    model = VistForConditionalGeneration.from_backbones(llm, tower, **choices)
    aligner = Aligner(model)
    aligner.hand_over(model)
    first, last = cross_attentions(model.language_model)
    assert not first.o_proj.weight.any()
    visual, token = torch.randn(1, 1, 32), 7
    hidden = model.get_input_embeddings().weight[token].expand(1, 1, -1)
    want = aligner.output(aligner.value(visual) * aligner.gate(aligner.asks[token]))
    torch.testing.assert_close(last(hidden, last.project(visual)), want, atol=1e-4, rtol=1e-3)


def test_alignment_learns_what_follows_what(corpus: PackedCorpus) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENIZER), num_hidden_layers=1, **shape))
    tower = TextViTModel(TextViTConfig(num_hidden_layers=1, **shape))
    model = VistForConditionalGeneration.from_backbones(llm, tower, num_visual_tokens=64, reducer="local")
    pages = AlignmentPages(corpus, TOKENIZER, ExampleMix({"continue": 1}, {"books": 1}), STYLE, 64, 8, 8, seed=1)
    aligner, batch = Aligner(model), collate_cells([pages[0], pages[1]])
    optimizer = torch.optim.AdamW([p for p in aligner.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        result = aligner(**batch)
        result["loss"].backward()
        optimizer.step()
        losses.append(result["follow_loss"].item())
    assert losses[-1] < losses[0] - 1
