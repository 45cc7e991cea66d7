"""A generation that is interrupted, saved or handed on continues as if nothing had happened."""

import json
import subprocess
import sys

import pytest
import torch
from transformers.cache_utils import DynamicLayer
from transformers.generation.streamers import BaseStreamer

import vist.model.chunked_state as chunked_state
from tiny_vist2 import some_ids, tiny_processor, tiny_vist2, undrawable_tokens
from vist.errors import CheckpointError, VistError
from vist.model.chunked_state import ChunkedState, ViewLayer
from vist.model.vist2 import Vist2ForCausalLM

NEW = 26
SAMPLED = {"do_sample": True, "top_k": 30, "eos_token_id": None, "suppress_tokens": undrawable_tokens()}


@pytest.fixture(scope="module")
def model():
    return tiny_vist2()


@pytest.fixture(scope="module")
def inputs():
    """Two samples of different length, whose chunks end at different steps."""
    return tiny_processor()(["Alice was beginning to get very tired of sitting", "The Queen of"])


@pytest.fixture(scope="module")
def whole(model, inputs):
    torch.manual_seed(3)
    return model.generate(**inputs, processor=tiny_processor(), max_new_tokens=NEW, **SAMPLED)


class Interrupting:
    """Calls through to a function, but the call of a given number is interrupted, before or after it has run."""

    def __init__(self, function, number, after):
        self.function, self.left, self.after = function, number, after

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KeyboardInterrupt
        result = self.function(*args, **kwargs)
        if self.left == 0:
            raise KeyboardInterrupt
        return result

    def __get__(self, instance, owner):
        return lambda *args, **kwargs: self(instance, *args, **kwargs)


PLACES = {
    "the page is encoded": (Vist2ForCausalLM, "encode_chunks", (2, 4)),
    "visual tokens are computed": (ViewLayer, "update", (3, 4, 6)),
    "the exchange begins": (ChunkedState, "begin_exchange", (1, 3)),
    "the exchange is carried out": (chunked_state, "_exchanged", (1, 2, 5)),
    "a token is written": (DynamicLayer, "update", (7, 18, 31)),
    "the state settles": (ChunkedState, "settle", (9, 20)),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_an_interruption_leaves_a_state_that_continues_identically(model, inputs, whole, place, after, monkeypatch):
    owner, name, numbers = PLACES[place]
    for number in numbers:
        torch.manual_seed(3)
        processor = tiny_processor()
        state = model.start(processor, **inputs)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, Interrupting(getattr(owner, name), number, after))
            model.generate(state=state, processor=processor, max_new_tokens=NEW, **SAMPLED)
        written = state.ids.shape[1] - inputs["input_ids"].shape[1]
        assert 0 < written < NEW
        out = model.generate(state=state, processor=processor, max_new_tokens=NEW - written, **SAMPLED)
        assert out.tolist() == whole.tolist()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_exchange_that_is_carried_out_in_part(model, number, after, monkeypatch):
    """One sample, so that every exchange shortens the memory: a layer that is done must not be done again."""
    processor = tiny_processor()
    inputs = processor("Alice was beginning to get very tired of sitting")
    torch.manual_seed(3)
    expected = model.generate(**inputs, processor=processor, max_new_tokens=NEW, **SAMPLED)
    torch.manual_seed(3)
    state = model.start(processor, **inputs)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(chunked_state, "_exchanged", Interrupting(chunked_state._exchanged, number, after))
        model.generate(state=state, processor=processor, max_new_tokens=NEW, **SAMPLED)
    left = NEW - (state.ids.shape[1] - inputs["input_ids"].shape[1])
    assert (
        model.generate(state=state, processor=processor, max_new_tokens=left, **SAMPLED).tolist() == expected.tolist()
    )


def test_an_interruption_by_the_reader_of_the_stream(model, whole):
    class Leaving(BaseStreamer):
        seen = 0

        def put(self, value):
            self.seen += 1
            if self.seen == 15:
                raise KeyboardInterrupt

        def end(self):
            pass

    processor = tiny_processor()
    single = processor("Alice was beginning to get very tired of sitting")
    torch.manual_seed(3)
    expected = model.generate(**single, processor=processor, max_new_tokens=NEW, **SAMPLED)
    torch.manual_seed(3)
    state = model.start(processor, **single)
    with pytest.raises(KeyboardInterrupt):
        model.generate(state=state, processor=processor, max_new_tokens=NEW, streamer=Leaving(), **SAMPLED)
    left = NEW - (state.ids.shape[1] - single["input_ids"].shape[1])
    assert (
        model.generate(state=state, processor=processor, max_new_tokens=left, **SAMPLED).tolist() == expected.tolist()
    )


@pytest.mark.parametrize("first", [1, 9, 13, 20])
def test_saving_and_loading_in_the_middle_continues_identically(model, inputs, whole, first, tmp_path):
    processor = tiny_processor()
    torch.manual_seed(3)
    options = {"processor": processor, **SAMPLED}
    out = model.generate(**inputs, max_new_tokens=first, return_dict_in_generate=True, **options)
    out.state.save(tmp_path)
    torch.manual_seed(99)  # whatever happens in between
    again = ChunkedState.load(tmp_path)
    assert again.lengths.tolist() == out.state.lengths.tolist()
    assert model.generate(state=again, max_new_tokens=NEW - first, **options).tolist() == whole.tolist()


def test_a_state_saved_between_dropping_and_writing(model, whole, inputs, tmp_path, monkeypatch):
    """One sample has exchanged its chunk, the other has not written its token yet."""
    processor = tiny_processor()
    for number in range(1, 4):
        torch.manual_seed(3)
        state = model.start(processor, **inputs)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(ChunkedState, "begin_exchange", Interrupting(ChunkedState.begin_exchange, number, True))
            model.generate(state=state, processor=processor, max_new_tokens=NEW, **SAMPLED)
        assert state.ledger.step.closed
        state.save(tmp_path)
        again = ChunkedState.load(tmp_path)
        left = NEW - (again.ids.shape[1] - inputs["input_ids"].shape[1])
        assert (
            model.generate(state=again, processor=processor, max_new_tokens=left, **SAMPLED).tolist() == whole.tolist()
        )


def test_a_state_goes_on_in_another_process(model, tmp_path):
    processor = tiny_processor()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    inputs = processor("Alice was beginning to get very")
    torch.manual_seed(3)
    whole = model.generate(**inputs, processor=processor, max_new_tokens=16, **SAMPLED)
    torch.manual_seed(3)
    options = {"processor": processor, "max_new_tokens": 9, "return_dict_in_generate": True, **SAMPLED}
    model.generate(**inputs, **options).state.save(tmp_path / "state")
    code = """
import json, sys
from vist import Vist2ForCausalLM, Vist2Processor
from vist.model.chunked_state import ChunkedState
folder = sys.argv[1]
model = Vist2ForCausalLM.from_pretrained(folder + "/model").eval()
processor = Vist2Processor.from_pretrained(folder + "/model")
state = ChunkedState.load(folder + "/state")
options = json.loads(sys.argv[2])
print(model.generate(state=state, processor=processor, max_new_tokens=7, **options).tolist())
"""
    captured = {"capture_output": True, "text": True, "check": True}
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path), json.dumps(SAMPLED)], **captured)
    assert run.stdout.strip() == str(whole.tolist())


def test_a_sample_that_stopped_at_a_string_can_go_on(model):
    processor = tiny_processor()
    ids = torch.tensor([some_ids(80)])
    free = model.generate(ids, processor=processor, max_new_tokens=20, eos_token_id=None)
    options = {"processor": processor, "eos_token_id": None}
    first = model.generate(ids, max_new_tokens=7, return_dict_in_generate=True, **options)
    assert model.generate(state=first.state, max_new_tokens=13, **options).tolist() == free.tolist()
    with pytest.raises(VistError, match="num_return_sequences needs a fresh start"):
        model.generate(state=first.state, max_new_tokens=1, num_return_sequences=2, **options)


def test_a_damaged_or_missing_state(tmp_path):
    with pytest.raises(CheckpointError, match="holds no readable state"):
        ChunkedState.load(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="damaged"):
        ChunkedState.load(tmp_path)


def test_random_numbers_of_another_kind_of_device_are_left_and_said_so(model, inputs, tmp_path):
    model.start(tiny_processor(), **inputs).save(tmp_path)
    state = ChunkedState.load(tmp_path)
    state.rng = torch.zeros(16, dtype=torch.uint8)  # as long as the state of a GPU's generator
    with pytest.warns(UserWarning, match="another kind of device than cpu"):
        model.generate(state=state, processor=tiny_processor(), max_new_tokens=2, **SAMPLED)
    assert state.rng is None
