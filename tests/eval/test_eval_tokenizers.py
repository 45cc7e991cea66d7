"""Tokenizers that put a blank before every text (Llama 2, TinyLlama): pieces of a text are the tokens of the whole."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import vist
from tiny_vist import alice
from vist.eval.conditions import Condition
from vist.eval.likelihood import continuation_scores
from vist.eval.reader import Reader
from vist.eval.recall import RecallContext, ask
from vist.train.facts import Fact

BLANK = "\u2581"
FIRST = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


def llama(prepend: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of Llama 2's make: the blank comes from its normalizer ("always") or its splitter ("first")."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, prepend_scheme="always")  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=FIRST, show_progress=False)
    trained.train_from_iterator([" ".join(alice(20_000).split())], trainer)
    found = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in found["merges"]]
    model = models.BPE(found["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)  # bytes are ordinary tokens here, which a trainer cannot be told
    tokenizer.add_special_tokens(FIRST[:3])
    if prepend == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, prepend_scheme="first")
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
        tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")  # type: ignore[assignment]
    parts = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def reading(tokenizer: Any) -> Reader:
    config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=4_096))
    return Reader(SimpleNamespace(config=config, device=torch.device("cpu")), SimpleNamespace(tokenizer=tokenizer))


@pytest.mark.parametrize("kind", ["always", "first", "vist-nano"])
def test_pieces_are_the_tokens_of_the_whole(kind: str) -> None:
    reader = reading(vist.load("vist-nano")[1].tokenizer if kind == "vist-nano" else llama(kind))
    for before, after in (
        ("The Queen was", " very tired"),
        ("Alice said:", "\n\nThe number of the Rabbit is"),
        ("Label:", " oh"),
        ("Review: so so\nSentiment: bad\n\n", "Review: curious\nSentiment:"),
    ):
        assert reader.ids(before) + reader.following(after) == reader.ids(before + after)
        assert reader.written([reader.following(after)]) == [after]
    if kind != "vist-nano":  # these two are why it takes more than the tokenizer's own two calls
        assert reader.ids("Label:") + reader.ids("\n") != reader.ids("Label:\n")
        assert reader.tokenizer.decode(reader.following(" oh")) != " oh"


def test_a_start_token_before_the_text_changes_nothing_in_the_packaged_model() -> None:
    tokenizer = vist.load("vist-nano")[1].tokenizer
    reader = reading(tokenizer)
    for text in (alice(3_000), " " + alice(500), "\n\n1 a", "<html>  \t x"):
        assert tokenizer(tokenizer.bos_token + text, add_special_tokens=False).input_ids == [
            reader.start_id,
            *reader.ids(text),
        ]


@pytest.mark.parametrize("kind", ["always", "first"])
def test_an_exact_answer_counts_as_exact(kind: str) -> None:
    """What is decoded of an answer has no blank before it, which the measure of recall looks for."""
    reader = reading(llama(kind))
    fact = Fact("number", "The number of Alice is", "4821")

    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([input_ids, torch.tensor([reader.following(" 4821. And")] * len(input_ids))], dim=1)

    reader.model.generate = generate
    context = RecallContext(f"It was late. {fact.statement} So it goes.", (fact,), (0,))
    assert [answer.exact for answer in ask(reader, Condition.FULL, [(context, context)])] == [True]


def test_the_harness_and_the_own_measures_find_the_same_likelihoods(reader: Reader) -> None:
    pytest.importorskip("lm_eval")
    from vist.eval.harness import VistLM

    text, answers = alice(900).rstrip(), [" was tired", " said nothing at all"]
    adapter = VistLM(reader, near_tokens=12)
    distant, near = adapter.split(text)
    requests = [SimpleNamespace(args=(text, answer)) for answer in answers]
    found = [score for score, _ in adapter.loglikelihood(requests, disable_tqdm=True)]
    with torch.inference_mode():
        context = reader.encode_pages(reader.page_inputs([distant]))
        visual = {"cross_kv": reader.model.project_context(context.states), "cross_mask": context.mask}
    labels = [reader.following(answer) for answer in answers]
    own = continuation_scores(reader, [], [reader.following(near)], labels, visual)
    assert found == pytest.approx(own[0].tolist(), abs=1e-3)
