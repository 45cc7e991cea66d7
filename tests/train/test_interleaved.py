"""Training data of VIST2: pages that say what their text says, curricula, and which tokens count."""

import numpy as np
import pytest
import torch

from tiny_vist2 import tiny_llm, tiny_processor, tiny_tower, tiny_vist2
from vist.errors import VistError
from vist.fuse.interleave import Role
from vist.model.chunks import decode
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import IGNORED, Stretch
from vist.render import layout
from vist.train.examples import ExampleMix
from vist.train.facts import Fact
from vist.train.instructions import CHAT_TEMPLATE, TASKS, draw_instruction, question_about
from vist.train.interleaved import Curriculum, Instructions, OpticalText, ReadBack
from vist.train.looking import Places, attention_calls, guided_look_loss, head_of, look
from vist.train.strips import Strips, Tokens, guide_of
from vist.train.vist2_alignment import ChunkAlignment, ChunkPages

DOMAINS = {"books": 1.0, "code": 1.0}
MIX = ExampleMix({"continue": 1, "recall": 1, "quote": 1}, DOMAINS)
PARTS, ROOM = 4, 3
STEADY = Curriculum(chunks=(3, 3), ratio=(2.0, 3.0))


@pytest.fixture
def processor():
    return tiny_processor(chunk_size=16, tolerance=4, patches_per_token=ROOM)


def text_of(processor, stretches, roles):
    return decode(processor.tokenizer, [token for s in stretches if s.role in roles for token in s.ids])


def read_back(corpus, processor, samples=40, seed=1, **changes):
    options = {"mix": MIX, "whole": 0.3, "random_strings": 0.0, "tokens": 40, **changes}
    return ReadBack(corpus, processor, STEADY, samples, seed, PARTS, **options)


def test_samples_are_functions_of_seed_and_index(corpus, processor):
    def drawn(seed, index):
        return read_back(corpus, processor, 10, seed)[index].stretches[-1].ids

    assert drawn(1, 4) == drawn(1, 4) != drawn(1, 5) != drawn(2, 4)


def test_what_is_read_back_whole_is_what_the_pages_say(corpus, processor):
    data = read_back(corpus, processor, whole=1.0, tokens=1000)
    for index in range(20):
        row = data[index].stretches
        copied = row[-1]
        pages = [stretch.pages for stretch in row if stretch.pages is not None]
        predicted = [token for stretch in row for token in stretch.predicts if token != IGNORED]
        assert predicted == copied.ids and copied.role == Role.TEXT
        start = 0
        for chunk in pages:
            own = copied.ids[start : start + chunk.tokens]
            assert np.array_equal(processor.draw(own).pixels, chunk.pixels)
            start += chunk.tokens
        assert start == len(copied.ids)


def test_the_guide_leads_to_the_visual_token_that_holds_the_next_token(corpus, processor):
    """Followed by hand: the part of the strip at the guided place is where the page has the token's first letter."""
    width, guided = processor.page_style.row_height, 0
    for index in range(30):
        stretches, where, part = read_back(corpus, processor)[index]
        predicts = [token for stretch in stretches for token in stretch.predicts]
        place, holds = 0, {}
        for stretch in stretches:
            if stretch.pages is not None:
                for number in range(len(stretch.ids)):
                    holds[place + number] = (stretch.pages, number)
            place += len(stretch.ids)
        for asking in np.flatnonzero(where >= 0):
            pages, number = holds[where[asking]]
            patches = np.flatnonzero(pages.ink.reshape(-1))
            own = np.flatnonzero(np.arange(len(patches)) * pages.count // len(patches) == number)
            if part[asking] == PARTS - 1 and pages.count * (ROOM - 1) < len(patches):
                continue  # the last part holds what lies behind the others, anywhere
            offset = part[asking] * (ROOM - 1) * width / PARTS
            patch = patches[own[0] + int(offset // width)]
            row, column = divmod(patch % pages.ink[0].size, pages.ink.shape[2])
            strip = pages.pixels[patch // pages.ink[0].size, row * width : (row + 1) * width]
            word = decode(processor.tokenizer, [predicts[asking]]).strip()
            if word:
                guided += 1
                assert strip[:, column * width : column * width + 3 * width].min() < 128, "there is ink"
                assert asking > where[asking] - 1
    assert guided > 200


def test_guided_characters_are_the_copied_ones(processor):
    text = "the small cat sat down on the mat and then it saw one old dog by the sea"
    source = Tokens.of(text, processor.tokenizer)
    chunk = processor.draw(source.ids)
    strips = Strips.of(processor, PARTS)
    assert strips.room == ROOM - 1
    token, part = strips.places(text, chunk, source.starts)
    assert (np.diff(token) >= 0).all() and token.min() == 0 and token.max() == chunk.count - 1
    assert all((np.diff(part[token == number]) >= 0).all() for number in range(chunk.count))
    placed = layout(text, processor.page_style)
    cat = text.index("cat")
    rank = np.cumsum(chunk.ink.reshape(-1))[placed.row[cat] * placed.style.cols + placed.cells()[cat]] - 1
    assert token[source.starts.tolist().index(cat)] == rank * chunk.count // int(chunk.ink.sum())
    shown = [Stretch(Role.KEPT, [0], predicts=[IGNORED]), *processor.frame(chunk)]
    asked = Stretch(Role.TEXT, source.ids[3:6], predicts=source.ids[4:7])
    where, within = guide_of([*shown, asked], [0], source, source.starts[4:7], processor.tokenizer, strips)
    assert where.tolist() == [-1] * (1 + chunk.count) + (1 + token[4:7]).tolist()
    assert within[-3:].tolist() == part[4:7].tolist()


def test_the_curriculum_raises_history_length_and_ratio(corpus, processor):
    curriculum = Curriculum(visual=(0.0, 1.0), chunks=(1, 5), ratio=(2.0, 3.0), until=0.5)
    assert curriculum.at(0) == (0.0, 1, 2.0) and curriculum.at(0.25) == (0.5, 3, 2.5)
    assert curriculum.at(0.5) == curriculum.at(1) == (1.0, 5, 3.0)
    data = OpticalText(corpus, processor, curriculum, 40, 1, mix=MIX)
    early, late = ([data[index] for index in where] for where in (range(3), range(20, 40)))
    assert not any(s.pages for row in early for s in row.stretches)
    drawn = [sum(s.pages is not None for s in row.stretches) for row in late]
    kept = [s for row in late for s in row.stretches if s.role == Role.KEPT and len(s.ids) > 1 and s.undrawn is None]
    assert max(drawn) >= 4 and min(drawn) >= 1 and not kept


def test_history_that_stays_text_keeps_its_place_and_every_token_counts(corpus, processor):
    half = Curriculum(visual=(0.5, 0.5), chunks=(4, 4), ratio=(2.0, 3.0))
    data = OpticalText(corpus, processor, half, 20, 1, mix=MIX)
    mixed = 0
    for index in range(20):
        row = data[index].stretches
        ids = [token for s in row if s.role in (Role.TEXT, Role.KEPT) for token in s.ids]
        predicted = [token for s in row for token in s.predicts if token != IGNORED]
        assert predicted == ids[1:]
        kinds = {s.role for s in row if len(s.ids) > 1}
        mixed += kinds >= {Role.KEPT, Role.VISUAL}
    assert mixed > 5


def test_only_the_answer_counts(corpus, processor):
    data = Instructions(corpus, processor, STEADY, 30, 1, PARTS, tasks=dict.fromkeys(TASKS, 1.0), domains=DOMAINS)
    guided = 0
    for index in range(30):
        row, where, _ = data[index]
        guided += (where >= 0).sum()
        written = [token for s in row if s.role in (Role.TEXT, Role.KEPT) for token in s.ids]
        predicted = [token for s in row for token in s.predicts if token != IGNORED]
        assert written[-len(predicted) :] == predicted and predicted[-1] == processor.tokenizer.eos_token_id
        before = decode(processor.tokenizer, written[: -len(predicted)])
        assert before.endswith("Assistant:") and before.count("Assistant:") == 1
        assert any(s.role == Role.VISUAL for s in row)
    assert guided > 20


def test_replay_draws_from_the_stages_before(corpus, processor):
    optical = OpticalText(corpus, processor, STEADY, 20, 2, PARTS, mix=MIX)
    read_back = ReadBack(corpus, processor, STEADY, 20, 3, PARTS, mix=MIX, whole=0.2, random_strings=0.5, tokens=40)
    options = {"tasks": {"recall": 1.0}, "domains": DOMAINS, "before": (optical, read_back)}
    data = Instructions(corpus, processor, STEADY, 40, 1, PARTS, replay=0.6, **options)
    kinds = {"instruction": 0, "read back": 0, "optical": 0}
    for index in range(40):
        row = data[index].stretches
        behind = max(number for number, stretch in enumerate(row) if stretch.pages is not None)
        text = any(stretch.role == Role.TEXT for stretch in row[:behind])
        asked = "Assistant:" in text_of(processor, row, (Role.TEXT, Role.KEPT))
        kinds["instruction" if asked else "optical" if text else "read back"] += 1
    assert min(kinds.values()) > 5, kinds


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


def learned(model, loss, steps, rate):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    found = []
    for _ in range(steps):
        parts = loss()
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        found.append({name: value.item() for name, value in parts.items()})
    return found


def fresh_model():
    torch.manual_seed(0)
    return Vist2ForCausalLM.from_backbones(tiny_llm(initializer_range=0.1), tiny_tower(), aligner_heads=4)


def test_reading_back_is_learned_and_guided(corpus, processor):
    """A few steps on one batch: both losses fall, and the tower stays as it is."""
    model = fresh_model()
    data = read_back(corpus, processor, 4)
    batch = data.collate([data[index] for index in range(4)])
    tower = {name: value.clone() for name, value in model.vision_tower.state_dict().items()}
    found = learned(model, lambda: guided_look_loss(model, batch, weight=1.0), 30, 5e-3)
    assert found[-1]["lm_loss"] < 0.8 * found[0]["lm_loss"]
    assert found[-1]["guide_loss"] < 0.8 * found[0]["guide_loss"]
    assert found[-1]["say_loss"] < 0.8 * found[0]["say_loss"]
    assert all(torch.equal(value, tower[name]) for name, value in model.vision_tower.state_dict().items())


def test_what_the_guide_sees_is_the_attention_of_its_head(corpus, processor):
    """Against the maps that the eager kernel returns."""
    model = fresh_model()
    data = read_back(corpus, processor, 3)
    batch = data.collate([data[index] for index in range(3)])
    guide, part = batch.pop("guide"), batch.pop("guide_part")
    rows, places = (guide >= 0).nonzero(as_tuple=True)
    layers, heads = head_of(part[rows, places], model.language_model)
    assert set(layers.tolist()) == {1} and len(set(heads.tolist())) > 1
    wanted = guide[rows, places]
    with attention_calls(model.language_model) as calls:
        output = model(**batch, output_hidden_states=True)
    ((order, attention, read),) = look(calls, Places(rows, places, wanted, layers, heads))
    model.language_model.set_attn_implementation("eager")
    maps = torch.stack(model(**batch, output_attentions=True).attentions, 1)
    assert torch.allclose(attention, maps[rows, layers, heads, places][order], atol=1e-5)
    module = model.language_model.model.layers[1]
    states = module.input_layernorm(output.hidden_states[1][rows, wanted])
    width = module.self_attn.head_dim
    for number, (state, head) in enumerate(zip(states, heads.tolist(), strict=True)):
        group = head // module.self_attn.num_key_value_groups
        value = module.self_attn.v_proj.weight[group * width : (group + 1) * width] @ state
        by_hand = module.self_attn.o_proj.weight[:, head * width : (head + 1) * width] @ value
        assert torch.allclose(read[order.tolist().index(number)], by_hand, atol=1e-5)


def test_alignment_learns_to_find_and_to_name(corpus, processor):
    model = fresh_model()
    data = ChunkPages(corpus, processor, STEADY, 8, 1, PARTS, mix=MIX, random_strings=0.2)
    batch = data.collate([data[index] for index in range(8)])
    aligner = ChunkAlignment(model, PARTS)
    found = learned(aligner, lambda: aligner(**batch), 40, 3e-3)
    assert found[-1]["name_loss"] < 0.8 * found[0]["name_loss"]
    assert found[-1]["find_loss"] < 0.9 * found[0]["find_loss"]


def test_text_in_alignment_is_language_modelling(corpus, processor):
    model = fresh_model()
    data = ChunkPages(corpus, processor, STEADY, 3, 1, PARTS, mix=MIX, random_strings=0.2)
    rows = [data[index] for index in range(3)]
    losses = []
    for row in (rows[0], rows[2]):
        ids = torch.tensor([[processor.tokenizer.bos_token_id, *row["ids"]]])
        logits = model.language_model(ids).logits[0, :-1]
        losses += (-logits.log_softmax(-1).gather(1, ids[0, 1:, None])).flatten().tolist()
    found = ChunkAlignment(model, PARTS)(**data.collate(rows))
    assert found["text_loss"].item() == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_a_part_is_named_by_what_its_head_reads(corpus, processor):
    """Against every head by hand, on the layers' inputs that the model itself returns."""
    model = fresh_model()
    data = ChunkPages(corpus, processor, STEADY, 1, 1, PARTS, mix=MIX, random_strings=0.0)
    row = data[0]
    batch = data.collate([row])
    pages = {name: batch[name] for name in ("pixel_values", "ink_mask", "page_chunks", "visual_counts")}
    count = int(pages["visual_counts"].sum())
    marks = {name: torch.zeros(1, count, dtype=torch.long) for name in ("spans", "documents")}
    roles = torch.full((1, count), int(Role.VISUAL))
    read = model(torch.zeros_like(roles), roles=roles, **marks, **pages, output_hidden_states=True).hidden_states
    losses = []
    for number, token, part in zip(row["ids"], row["token"], row["part"], strict=True):
        if token >= 0:
            layer, head = (int(found) for found in head_of(torch.tensor(int(part)), model.language_model))
            block = model.language_model.model.layers[layer]
            width, group = block.self_attn.head_dim, head // block.self_attn.num_key_value_groups
            state = block.input_layernorm(read[layer][0, token])
            value = block.self_attn.v_proj.weight[group * width : (group + 1) * width] @ state
            added = block.self_attn.o_proj.weight[:, head * width : (head + 1) * width] @ value
            scores = model.language_model.lm_head(model.language_model.model.norm(added))
            losses.append(-scores.log_softmax(-1)[number])
    assert len(losses) > 5
    want = torch.stack(losses).mean()
    assert torch.allclose(ChunkAlignment(model, PARTS)(**batch)["name_loss"], want, atol=1e-4)


def test_only_the_first_token_of_a_part_is_asked_for(corpus, processor):
    whole, cut = (
        ChunkPages(corpus, processor, STEADY, 10, 1, parts, mix=MIX, random_strings=0.5) for parts in (1, PARTS)
    )
    for index in range(10):
        row, finer = whole[index], cut[index]
        asked = row["token"][row["token"] >= 0].tolist()
        assert asked == sorted(set(asked)) and len(asked) > 1
        assert set(asked) == set(finer["token"][finer["token"] >= 0].tolist())
        first = [finer["token"].tolist().index(token) for token in asked]
        assert (row["token"][first] == asked).all()


def test_a_batch_without_pages_is_plain_text():
    model, processor = tiny_vist2(), tiny_processor()
    row = processor.sequence(processor.tokenizer("a few words").input_ids)
    nowhere = torch.full((1, len(row[0].ids) + len(row[-1].ids)), -1)
    packed = processor.pack([[row]])
    batch = {**packed, "guide": nowhere[:, : packed["roles"].shape[1]], "guide_part": nowhere}
    assert guided_look_loss(model, batch, weight=1.0)["loss"].isfinite()
