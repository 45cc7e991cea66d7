import numpy as np
import pytest
import torch

from vist.render import PageStyle, layout, render
from vist.train.corpus import PackedCorpus
from vist.train.reading import (
    IGNORED,
    TOKEN_SLOTS,
    Reader,
    ReadingMix,
    ReadingPages,
    collate_pages,
    page_sample,
    random_text,
    reading_score,
    reading_targets,
    token_targets,
    typographic,
)
from vist.train.tokenizer import train_tokenizer
from vist.vision.text_vit import EMPTY, OTHER, TextViTConfig, TextViTModel

CONFIG = TextViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
TEXT = "Alice was beginning to get very tired of sitting by her sister on the bank, 日 and of nothing to do. " * 9


TOKENIZER = train_tokenizer([TEXT], 300, 512)


def named(targets: np.ndarray) -> list[str]:
    names = ["", "\ufffd", *CONFIG.alphabet]
    return ["".join(names[slot] for slot in patch) for patch in targets]


@pytest.mark.parametrize("style", ["vist", "vist-7"])
def test_targets_name_the_characters_whose_centre_lies_in_the_patch(style: str) -> None:
    placed = layout(TEXT, style)
    targets = reading_targets(placed, TEXT, CONFIG)
    for patch, name in enumerate(named(targets)):
        row, column = divmod(patch, 16)
        expected = ""
        for index, char in enumerate(TEXT):
            centre = placed.x[index] + placed.advance[index] // 2
            here = placed.page[index] == 0 and placed.row[index] == row and centre // 14 == column
            if here and placed.advance[index] > 0:
                expected += char if char in CONFIG.alphabet else "\ufffd"
        assert name == expected


def test_targets_read_in_order_are_the_page() -> None:
    pages = render(TEXT, "vist")
    start, stop = pages.spans[0]
    read = "".join(named(reading_targets(layout(TEXT, "vist"), TEXT, CONFIG)))
    assert read.replace(" ", "") == TEXT[start:stop].replace("日", "\ufffd").replace(" ", "")


@pytest.mark.parametrize("style", ["vist", "vist-7"])
def test_text_tokens_are_named_where_their_first_visible_character_stands(style: str) -> None:
    placed = layout(TEXT, style)
    encoded = TOKENIZER(TEXT, add_special_tokens=False, return_offsets_mapping=True)
    expected: dict[int, list[int]] = {}
    for token, (start, stop) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        start += TEXT[start].isspace() and stop - start > 1
        if placed.page[start] == 0 and placed.advance[start] > 0:
            column = min((placed.x[start] + placed.advance[start] // 2) // 14, 15)
            expected.setdefault(placed.row[start] * 16 + column, []).append(token)
    targets = token_targets(placed, TEXT, TOKENIZER)
    for patch, row in enumerate(targets):
        assert row[row != IGNORED].tolist() == expected.get(patch, [])[:TOKEN_SLOTS]


def test_line_breaks_that_became_blanks_are_read_as_blanks() -> None:
    sample = page_sample("one\n\ntwo", PageStyle.named("vist"), CONFIG)
    assert OTHER not in sample["targets"] and "".join(named(sample["targets"])).split() == ["one", "two"]


def test_short_pages_have_no_targets_without_ink() -> None:
    sample = page_sample("Only a few words.", PageStyle.named("vist"), CONFIG)
    assert not (sample["targets"][~sample["ink"]] != EMPTY).any() and (sample["targets"] != EMPTY).sum() == 17


def test_samples_depend_on_seed_and_index_alone(corpus: PackedCorpus) -> None:
    mix = ReadingMix({"vist": 1, "vist-7": 1}, {"books": 1}, random_strings=0.5, short_pages=0.5)
    pages = ReadingPages(corpus, TOKENIZER, CONFIG, mix, 4, seed=3)
    again = ReadingPages(corpus, TOKENIZER, CONFIG, mix, 4, seed=3)
    assert all(np.array_equal(pages[i]["pixels"], again[i]["pixels"]) for i in (2, 0))
    assert not np.array_equal(pages[0]["pixels"], pages[1]["pixels"])


def test_random_text_draws_from_the_alphabet() -> None:
    text = random_text(np.random.default_rng(0), CONFIG.alphabet, 2000)
    assert set(text) <= set(CONFIG.alphabet) and len(set(text)) > 80 and len(text) >= 1990


def test_typographic_text() -> None:
    assert typographic('"It\'s \'so\' -- ("no")"') == "“It’s ‘so’ — (“no”)”"


def test_score_counts_characters_only() -> None:
    targets = torch.tensor([[5, 6, EMPTY], [7, EMPTY, EMPTY]])
    logits = torch.nn.functional.one_hot(torch.tensor([[5, 9, EMPTY], [7, 3, EMPTY]]), 10).float()
    right, total = reading_score(logits, targets)
    assert (int(right), int(total)) == (2, 3)


def test_a_tiny_encoder_learns_one_page_by_heart() -> None:
    torch.manual_seed(0)
    style = PageStyle.named("vist")
    sample = page_sample(TEXT[:60], style, CONFIG)
    sample["tokens"] = token_targets(layout(TEXT[:60], style), TEXT[:60], TOKENIZER)
    reader = Reader(TextViTModel(CONFIG), len(TOKENIZER))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-2)
    batch = collate_pages([sample])
    for _ in range(60):
        output = reader(**batch)
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
    assert output["reading_accuracy"] > 0.9 and output["token_accuracy"] > 0.9
    encoder = reader.encoder.eval()
    read = encoder.read(encoder(batch["pixel_values"], batch["ink_mask"]))[0]
    assert "".join(read).startswith("Alice was")
