"""Writing with pages as memory: it computes what the teacher-forced forward does, and frees what it drops."""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from tiny_vist2 import FAMILIES, some_ids, tiny_processor, tiny_tokenizer, tiny_vist2
from vist.errors import VistError

EOS = tiny_tokenizer().eos_token_id
UNDRAWABLE = tiny_tokenizer()("\u0001\u0002", add_special_tokens=False).input_ids


@pytest.fixture(scope="module")
def model():
    return tiny_vist2()


class Follow(LogitsProcessor):
    """Makes generation write given texts; texts that are over write `filler`."""

    def __init__(self, texts, filler=20):
        self.texts, self.filler = texts, filler

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, -torch.inf)
        place = input_ids.shape[1]
        for row, text in enumerate(self.texts):
            forced[row, text[place] if place < len(text) else self.filler] = 0
        return forced


def written_logits(model, processor, texts, read, **options):
    """Raw logits (B, steps, V) of writing `texts` (left-padded alike) after reading `read` tokens of each."""
    steps = len(texts[0]) - read
    out = model.generate(
        torch.tensor([text[:read] for text in texts]),
        processor=processor,
        max_new_tokens=steps,
        logits_processor=LogitsProcessorList([Follow(texts)]),
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    assert out.sequences.tolist() == [list(text) for text in texts]
    return torch.stack(out.logits, dim=1), out.state


def teacher_logits(model, processor, text):
    """Raw logits of every token of a text but the first, from one forward over text and pages together."""
    batch = processor.interleaved([text])
    places = (batch["shift_labels"][0] != -100).nonzero().flatten()
    assert len(places) == len(text) - 1
    assert batch["shift_labels"][0, places].tolist() == list(text[1:])
    with torch.no_grad():
        return model(**batch).logits[0, places]


def with_surprises(text, special_at, undrawable_at):
    """A text with a special token in the middle and characters that no font has."""
    text = list(text)
    if special_at is not None:
        text[special_at] = EOS
    if undrawable_at is not None:
        text[undrawable_at : undrawable_at + len(UNDRAWABLE)] = UNDRAWABLE
    return text


@settings(max_examples=12)
@given(
    st.integers(2, 14),
    st.integers(0, 5),
    st.floats(1, 6),
    st.integers(1, 50),
    st.sampled_from([None, (300, 301)]),
    st.sampled_from([None, 9, 25]),
    st.sampled_from([None, 18, 33]),
)
def test_incremental_writing_equals_the_full_forward(size, tolerance, ratio, read, borders, special_at, undrawable_at):
    model = tiny_vist2()
    options = {"chunk_size": size, "tolerance": min(tolerance, size - 1), "ratio": ratio, "border_ids": borders}
    processor = tiny_processor(**options)
    processor.check_ratio = lambda rows: None  # some of these ratios are too high for some texts, which is tested below
    texts = [
        with_surprises(some_ids(200)[:52], special_at, undrawable_at),
        with_surprises(some_ids(200, 400)[:52], None, special_at),
    ]
    logits, state = written_logits(model, processor, texts, read)
    for row, text in enumerate(texts):
        teacher = teacher_logits(model, processor, text)
        assert torch.allclose(logits[row], teacher[read - 1 :], atol=1e-4, rtol=1e-4)
        pieces = [piece for piece in processor.pieces(text[:-1]) if piece.kind == "chunk"]
        assert len(state.ledger.chunks[row]) + len([r for r, _ in state.undrawn if r == row]) == len(pieces)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("levels", [1, 2])
def test_it_holds_for_every_family_and_kernel(family, kernel, levels):
    model = tiny_vist2(family, visual_levels=levels)
    model.language_model.set_attn_implementation(kernel)
    text = some_ids(150)[:40]
    logits, _ = written_logits(model, tiny_processor(), [text], 5)
    assert torch.allclose(logits[0], teacher_logits(model, tiny_processor(), text)[4:], atol=1e-4)


def test_a_context_is_read_without_a_mask_and_as_with_one(model, monkeypatch):
    ids = torch.tensor([some_ids(150)[:40]])
    given = []
    monkeypatch.setattr(type(model), "read", spy(type(model).read, given))
    alone = model.start(tiny_processor(), ids)
    monkeypatch.setattr("vist.fuse.interleave.plainly_causal", lambda layout: False)
    masked = model.start(tiny_processor(), ids)
    assert given[0] is None and given[1] is not None
    assert torch.allclose(alone.ledger.logits, masked.ledger.logits, atol=1e-5)
    for one, other in zip(alone.cache.layers, masked.cache.layers, strict=True):
        assert torch.allclose(one.keys, other.keys, atol=1e-5) and torch.allclose(one.values, other.values, atol=1e-5)


def spy(read, given):
    """`Vist2ForCausalLM.read` that notes the mask it is given."""

    def noted(self, embeds, **options):
        given.append(options["attention_mask"])
        return read(self, embeds, **options)

    return noted


def test_a_sliding_window_of_the_backbone_hides_nothing():
    model = tiny_vist2("mistral")
    text = some_ids(150)[:40]
    free = teacher_logits(model, tiny_processor(), text)
    model.language_model.config.sliding_window = 4
    logits, _ = written_logits(model, tiny_processor(), [text], 5)
    assert torch.allclose(logits[0], free[4:], atol=1e-4)


def test_the_memory_holds_pages_and_the_open_chunk_only(model):
    text = some_ids(300)[:90]
    processor = tiny_processor()
    _, state = written_logits(model, processor, [text], 30)
    pieces = processor.pieces(text[:-1])  # the last token is chosen and not yet worked in
    drawn = [processor.draw(piece.ids).count for piece in pieces if piece.kind == "chunk"]
    opened = sum(len(piece.ids) for piece in pieces if piece.kind == "open")
    assert len(drawn) >= 8 and list(state.ledger.chunks[0]) == drawn
    slots = 1 + sum(drawn) + opened  # 1: the special token at the start
    assert state.lengths.tolist() == [slots]
    layers, heads, width, fp32 = 2, 2, 8, 4
    assert state.nbytes <= 2 * layers * heads * width * fp32 * (slots + 1), "one slot may be behind a crop"


def test_dropped_keys_are_freed_from_storage(model):
    """No tensor anywhere keeps the slots of dropped text alive, and the memory grows with the pages' slope."""
    text = some_ids(700)[:180]
    sizes = []
    older = {id(thing) for thing in gc.get_objects() if type(thing) is torch.Tensor}  # of other tests
    for length in (60, 120, 180):
        _, state = written_logits(model, tiny_processor(tolerance=0), [text[:length]], 10)
        gc.collect()
        shape = state.cache.layers[0].keys.shape
        tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and id(thing) not in older]
        alive = [tensor for tensor in tensors if tensor.ndim == 4 and tensor.shape[3] == shape[3]]
        assert alive and max(tensor.shape[2] for tensor in alive) <= shape[2] + 1
        sizes.append(state.nbytes)
        del tensors, alive, state
    per_chunk = 4  # ceil(10 / 3) visual tokens for 10 of text
    slope = (sizes[2] - sizes[0]) / 120
    bytes_per_slot = 2 * 2 * 2 * 8 * 4
    assert slope == pytest.approx(per_chunk / 10 * bytes_per_slot, rel=0.1)
    assert sizes[1] - sizes[0] == pytest.approx(sizes[2] - sizes[1], rel=0.1)


def test_left_padding_and_borders_at_different_steps(model):
    """Samples of different length in one batch write what they write alone."""
    processor = tiny_processor()
    texts = ["Alice was beginning to get very tired", "The Queen", "a"]
    together = model.generate(**processor(texts), processor=processor, max_new_tokens=40, eos_token_id=None)
    for row, text in enumerate(texts):
        alone = model.generate(**processor(text), processor=processor, max_new_tokens=40, eos_token_id=None)
        assert together[row, -40:].tolist() == alone[0, -40:].tolist()


def test_samples_end_at_their_own_time(model):
    processor = tiny_processor()
    inputs = processor(["Alice was beginning to get very tired", "The Queen"])
    free = model.generate(**inputs, processor=processor, max_new_tokens=30, eos_token_id=None)
    end = int(free[0, -20])
    out = model.generate(**inputs, processor=processor, max_new_tokens=30, eos_token_id=end)
    for row in range(2):
        new = free[row, -30:].tolist()
        stop = new.index(end) + 1 if end in new else 30
        kept = out[row, inputs["input_ids"].shape[1] :].tolist()
        assert kept[:stop] == new[:stop] and set(kept[stop:]) <= {tiny_tokenizer().pad_token_id}


class Collect(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], 0

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended += 1


def test_the_same_seed_gives_the_same_text_streamed_or_not(model):
    processor = tiny_processor()
    inputs, streamer = processor("Alice was beginning"), Collect()
    options = {"processor": processor, "max_new_tokens": 35, "do_sample": True, "temperature": 0.9, "top_k": 50}
    torch.manual_seed(5)
    plain = model.generate(**inputs, **options)
    torch.manual_seed(5)
    streamed = model.generate(**inputs, **options, streamer=streamer)
    torch.manual_seed(6)
    other = model.generate(**inputs, **options)
    assert streamed.tolist() == plain.tolist() != other.tolist()
    assert streamer.tokens == plain[0].tolist() and streamer.ended == 1


def test_a_streamer_of_text_runs_over_borders(model):
    processor = tiny_processor()
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    inputs = processor("Alice was")
    out = model.generate(**inputs, processor=processor, max_new_tokens=30, streamer=streamer, eos_token_id=None)
    assert "".join(streamer) == processor.decode(out[0, inputs["input_ids"].shape[1] :])


def test_the_end_of_a_chunk_costs_one_page_and_one_pass(model):
    """What a reader of the stream waits for at a border: the tower once, the LLM once, and no step besides."""
    processor, passes = tiny_processor(), {"tower": 0, "llm": 0}

    def count(name):
        def hook(*_):
            passes[name] += 1

        return hook

    handles = [
        model.vision_tower.register_forward_hook(count("tower")),
        model.language_model.register_forward_hook(count("llm")),
    ]
    _, state = written_logits(model, processor, [some_ids(300)[:90]], 2)
    for handle in handles:
        handle.remove()
    assert passes["tower"] == len(state.ledger.chunks[0]) >= 8
    assert passes["llm"] == 88, "the context in one pass, then one pass for each of 87 tokens, end of chunk or not"


def test_stop_strings_across_a_border(model):
    processor = tiny_processor(tolerance=0)
    text = some_ids(200)[:60]
    border = len(processor.pieces(text)[0].ids) + len(processor.pieces(text)[1].ids)
    wanted = processor.decode(text[border - 2 : border + 2])  # two tokens of one chunk, two of the next
    out = model.generate(
        torch.tensor([text[:3]]),
        processor=processor,
        stop_strings=[wanted],
        max_new_tokens=50,
        logits_processor=LogitsProcessorList([Follow([text])]),
    )
    assert out[0].tolist() == text[: border + 2]
    config = GenerationConfig(stop_strings=[wanted], max_new_tokens=50)
    follow = LogitsProcessorList([Follow([text])])
    again = model.generate(torch.tensor([text[:3]]), config, processor=processor, logits_processor=follow)
    assert again.tolist() == out.tolist()


def test_several_samples_of_one_text(model):
    processor = tiny_processor()
    inputs = processor("Alice was beginning")
    out = model.generate(**inputs, processor=processor, max_new_tokens=25, do_sample=True, num_return_sequences=3)
    assert out.shape[0] == 3 and len({tuple(row) for row in out.tolist()}) > 1


def test_what_cannot_be_drawn_stays_text_and_is_reported(model):
    processor = tiny_processor()
    text = with_surprises(some_ids(200)[:50], None, 24)
    with pytest.warns(UserWarning, match="sample 0 stayed text .* U\\+0001"):
        logits, state = written_logits(model, processor, [text], 10)
    ((sample, found),) = state.undrawn
    assert sample == 0 and "\u0001" in found.text and "U+0001" in found.reason
    assert torch.allclose(logits[0], teacher_logits(model, processor, text)[9:], atol=1e-4)
    read = model.start(processor, torch.tensor([text]))
    assert read.undrawn == state.undrawn


def test_zero_new_tokens(model):
    processor = tiny_processor()
    ids = torch.tensor([some_ids(100)])
    assert model.generate(ids, processor=processor, max_new_tokens=0) is ids
    out = model.generate(ids, processor=processor, max_new_tokens=0, return_dict_in_generate=True)
    assert out.sequences.tolist() == out.state.ids.tolist() == ids.tolist()
    longer = model.generate(state=out.state, processor=processor, max_new_tokens=20)
    assert longer.tolist() == model.generate(ids, processor=processor, max_new_tokens=20).tolist()


def test_a_context_that_ends_inside_a_character(model):
    """The open chunk holds half a character; the rest may still come, and if it does not, the chunk stays text."""
    processor = tiny_processor(chunk_size=6, tolerance=0)
    whole = tiny_tokenizer()("Alice saw a 兎 there and then sat down").input_ids
    cut = next(n for n in range(1, len(whole)) if processor.decode(whole[:n]).endswith("\ufffd"))
    logits, state = written_logits(model, processor, [whole], cut)
    assert torch.allclose(logits[0], teacher_logits(model, processor, whole)[cut - 1 :], atol=1e-4)
    for piece in processor.pieces(whole):
        assert "\ufffd" not in processor.decode(piece.ids)
    broken = [*whole[:cut], *tiny_tokenizer()(" and the rest of it", add_special_tokens=False).input_ids]
    _, state = written_logits(model, processor, [broken], 2)
    assert "bytes that are no character" in state.undrawn[0][1].reason


def test_a_chunk_that_overflows_its_page_is_split(model):
    processor = tiny_processor(chunk_size=60, tolerance=0)
    text = some_ids(400)[:100]
    chunk = processor.pieces(text)[1].ids
    drawn = processor.draw(chunk)
    assert len(drawn.pixels) > 1 and drawn.ink.sum() > processor.page_style.rows * processor.page_style.cols
    logits, _ = written_logits(model, processor, [text], 5)
    assert torch.allclose(logits[0], teacher_logits(model, processor, text)[4:], atol=1e-4)


REFUSALS = [
    ({"num_beams": 3}, "beam search"),
    ({"prompt_lookup_num_tokens": 3}, "prompt lookup"),
    ({"assistant_model": object()}, "assisted decoding"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
    ({"guidance_scale": 2.0}, "classifier-free guidance"),
    ({"cache_implementation": "static"}, "a cache of fixed"),
    ({"use_cache": False}, "without a cache"),
    ({"past_key_values": object()}, "pass state="),
    ({"pixel_values": torch.zeros(1)}, "drawn by the processor"),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_other_ways_to_generate_are_refused_in_one_sentence(model, options, message):
    with pytest.raises(VistError, match=message) as caught:
        model.generate(torch.tensor([some_ids(40)]), processor=tiny_processor(), max_new_tokens=3, **options)
    assert "\n" not in str(caught.value)


def test_bad_requests(model):
    ids = torch.tensor([some_ids(40)])
    with pytest.raises(VistError, match="needs processor="):
        model.generate(ids, max_new_tokens=3)
    with pytest.raises(VistError, match="patches_per_token is 9, but the model's aligner has 8"):
        model.generate(ids, processor=tiny_processor(patches_per_token=9), max_new_tokens=3)
    with pytest.raises(VistError, match="nothing to continue"):
        model.generate(processor=tiny_processor(), max_new_tokens=3)
    with pytest.raises(VistError, match="at least one token"):
        model.start(tiny_processor(), torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(VistError, match="cannot give a ratio of 50"):
        ids = torch.tensor([some_ids(200)])
        model.generate(ids, processor=tiny_processor(ratio=50, patches_per_token=2), max_new_tokens=3)
