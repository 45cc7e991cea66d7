"""Training data of VIST2: pages that say what their text says, curricula, and which tokens count."""

import numpy as np
import pytest
import torch

from tiny_vist2 import tiny_llm, tiny_processor, tiny_tower, tiny_vist2
from vist.errors import VistError
from vist.fuse.interleave import Role
from vist.model.chunks import DrawnChunk, decode
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import IGNORED
from vist.render import layout
from vist.train.examples import ExampleMix
from vist.train.facts import Fact
from vist.train.instructions import CHAT_TEMPLATE, TASKS, draw_instruction, question_about
from vist.train.interleaved import Curriculum, Instructions, OpticalText, ReadBack, token_names

DOMAINS = {"books": 1.0, "code": 1.0}
MIX = ExampleMix({"continue": 1, "recall": 1, "quote": 1}, DOMAINS)
STEADY = Curriculum(chunks=(3, 3), ratio=(2.0, 3.0))


@pytest.fixture
def processor():
    return tiny_processor(chunk_size=16, tolerance=4)


def text_of(processor, stretches, roles):
    return decode(processor.tokenizer, [token for s in stretches if s.role in roles for token in s.ids])


def test_samples_are_functions_of_seed_and_index(corpus, processor):
    def drawn(seed, index):
        return ReadBack(corpus, processor, STEADY, 10, seed, domains=DOMAINS)[index][-1].ids

    assert drawn(1, 4) == drawn(1, 4) != drawn(1, 5) != drawn(2, 4)


def test_what_is_read_back_is_what_the_pages_say(corpus, processor):
    data = ReadBack(corpus, processor, STEADY, 40, 1, domains=DOMAINS)
    for index in range(40):
        row = data[index]
        copied = row[-1]
        pages = [stretch.pages for stretch in row if stretch.pages is not None]
        assert sum(chunk.tokens for chunk in pages) == len(copied.ids) and copied.role == Role.TEXT
        predicted = [token for stretch in row for token in stretch.predicts if token != IGNORED]
        assert predicted == copied.ids
        start = 0
        for chunk in pages:
            own = copied.ids[start : start + chunk.tokens]
            assert np.array_equal(processor.draw(own).pixels, chunk.pixels)
            start += chunk.tokens


def test_names_are_the_tokens_in_the_patches_of_a_visual_token(processor):
    ids = processor.tokenizer("the small cat sat down on the mat", add_special_tokens=False).input_ids
    chunk = processor.draw(ids)
    names = token_names(processor, ids, chunk)
    assert isinstance(chunk, DrawnChunk) and names.shape[0] == chunk.count
    assert [token for row in names for token in row if token != IGNORED] == ids
    placed = layout("the small cat sat down on the mat", processor.page_style)
    ink = int(chunk.ink.sum())
    cat = "the small cat".index("cat")
    patch = placed.row[cat] * placed.style.cols + placed.cells()[cat]
    token = int(np.cumsum(chunk.ink.reshape(-1))[patch] - 1) * chunk.count // ink
    assert " cat" in [decode(processor.tokenizer, [t for t in names[token] if t != IGNORED])] or "cat" in decode(
        processor.tokenizer, [t for t in names[token] if t != IGNORED]
    )


def test_the_curriculum_raises_history_length_and_ratio(corpus, processor):
    curriculum = Curriculum(visual=(0.0, 1.0), chunks=(1, 5), ratio=(2.0, 3.0), until=0.5)
    assert curriculum.at(0) == (0.0, 1, 2.0) and curriculum.at(0.25) == (0.5, 3, 2.5)
    assert curriculum.at(0.5) == curriculum.at(1) == (1.0, 5, 3.0)
    data = OpticalText(corpus, processor, curriculum, 40, 1, mix=MIX)
    early, late = ([data[index] for index in where] for where in (range(3), range(20, 40)))
    assert not any(s.pages for row in early for s in row)
    drawn = [sum(s.pages is not None for s in row) for row in late]
    kept = [s for row in late for s in row if s.role == Role.KEPT and len(s.ids) > 1 and s.undrawn is None]
    assert max(drawn) >= 4 and min(drawn) >= 1 and not kept


def test_history_that_stays_text_keeps_its_place_and_every_token_counts(corpus, processor):
    half = Curriculum(visual=(0.5, 0.5), chunks=(4, 4), ratio=(2.0, 3.0))
    data = OpticalText(corpus, processor, half, 20, 1, mix=MIX)
    mixed = 0
    for index in range(20):
        row = data[index]
        ids = [token for s in row if s.role in (Role.TEXT, Role.KEPT) for token in s.ids]
        predicted = [token for s in row for token in s.predicts if token != IGNORED]
        assert predicted == ids[1:]
        kinds = {s.role for s in row if len(s.ids) > 1}
        mixed += kinds >= {Role.KEPT, Role.VISUAL}
    assert mixed > 5


def test_only_the_answer_counts(corpus, processor):
    data = Instructions(corpus, processor, STEADY, 30, 1, tasks=dict.fromkeys(TASKS, 1.0), domains=DOMAINS)
    for index in range(30):
        row = data[index]
        written = [token for s in row if s.role in (Role.TEXT, Role.KEPT) for token in s.ids]
        predicted = [token for s in row for token in s.predicts if token != IGNORED]
        assert written[-len(predicted) :] == predicted and predicted[-1] == processor.tokenizer.eos_token_id
        before = decode(processor.tokenizer, written[: -len(predicted)])
        assert before.endswith("Assistant:") and before.count("Assistant:") == 1
        assert any(s.role == Role.VISUAL for s in row)


def test_answers_are_in_the_text_or_its_source(corpus):
    for task in TASKS:
        for seed in range(15):
            rng = np.random.default_rng(seed)
            asked = draw_instruction(corpus, rng, {task: 1.0}, DOMAINS, 600)
            if task in ("recall", "quote"):
                assert asked.answer_text.rstrip(".") in asked.text and asked.answer_text
            if task == "quote":
                cue = asked.question.split('"')[1]
                assert f"{cue} {asked.answer_text}" in asked.text
            if task == "classify":
                assert asked.answer_text in ("books.", "code.") and "books" in asked.question
            if task == "continue":
                documents = [corpus.document(domain, number) for domain in DOMAINS for number in range(4)]
                assert any(f"{asked.text} {asked.answer_text}" in document for document in documents)
    with pytest.raises(VistError, match="no instruction task 'sing'"):
        draw_instruction(corpus, np.random.default_rng(0), {"sing": 1.0}, DOMAINS, 600)


def test_a_fact_becomes_a_question():
    assert question_about(Fact("number", "The code of Ida Belham is", "1234")) == "What is the code of Ida Belham?"
    assert question_about(Fact("name", "The clerk of the inn at Dorby is", "Leo Kelgate")) == (
        "Who is the clerk of the inn at Dorby?"
    )


def test_the_chat_template_writes_what_training_reads(corpus, processor):
    asked = draw_instruction(corpus, np.random.default_rng(0), {"recall": 1.0}, DOMAINS, 300)
    render = processor.tokenizer.apply_chat_template
    whole = render(asked.messages, chat_template=CHAT_TEMPLATE, tokenize=False)
    assert whole == asked.prompt + asked.answer + processor.tokenizer.eos_token
    opened = render(asked.messages[:1], chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True)
    assert opened == asked.prompt


def test_reading_back_and_alignment_are_learned(corpus):
    """A few steps on one batch: both losses fall, and the tower stays as it is."""
    torch.manual_seed(0)
    model = Vist2ForCausalLM.from_backbones(tiny_llm(initializer_range=0.1), tiny_tower(), aligner_heads=4)
    processor = tiny_processor(chunk_size=16, tolerance=4)
    data = ReadBack(corpus, processor, STEADY, 4, 1, domains=DOMAINS, random_strings=0.0)
    batch = data.collate([data[index] for index in range(4)])
    tower = {name: value.clone() for name, value in model.vision_tower.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(30):
        found = read_back_loss(model, batch, weight=1.0)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append((found["lm_loss"].item(), found["alignment_loss"].item()))
    assert losses[-1][0] < 0.8 * losses[0][0] and losses[-1][1] < 0.8 * losses[0][1]
    assert all(torch.equal(value, tower[name]) for name, value in model.vision_tower.state_dict().items())


def test_alignment_prefers_the_right_embeddings():
    model = tiny_vist2()
    table = model.get_input_embeddings().weight.detach()
    names = torch.tensor([[20, 21, IGNORED], [30, IGNORED, IGNORED], [IGNORED] * 3])
    right = torch.stack([table[20:22].mean(0), table[30], table[40]])
    assert alignment_loss(model, right, names) < alignment_loss(model, right[[1, 0, 2]], names)


def test_a_batch_without_pages_is_plain_text(corpus):
    model, processor = tiny_vist2(), tiny_processor()
    row = processor.sequence(processor.tokenizer("a few words").input_ids)
    batch = {**processor.pack([[row]]), "names": torch.zeros(0, 12, dtype=torch.long)}
    assert read_back_loss(model, batch, weight=1.0)["loss"].isfinite()
