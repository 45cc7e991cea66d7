"""Other methods beside a model: read on the same texts, in their own way, paired with its conditions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vist
from tiny_vist import alice
from vist.baselines.processing import TextContextProcessor
from vist.baselines.replug import ReplugModel
from vist.baselines.streaming import StreamingModel
from vist.baselines.text_context import TextContextForConditionalGeneration
from vist.cli.beside import load_beside
from vist.cli.options import Device
from vist.errors import VistError
from vist.eval.conditions import Condition, OtherMethod, Passage
from vist.eval.cost import measure_cost
from vist.eval.distance import visual_means
from vist.eval.icl import IclConfig, evaluate_icl
from vist.eval.labelled import Example, LabelledSet
from vist.eval.languages import count_tokens
from vist.eval.lm import condition_loss, evaluate_lm
from vist.eval.qa import QaConfig, evaluate_qa
from vist.eval.reader import Reader
from vist.eval.recall import evaluate_recall, plan_contexts
from vist.eval.retrieval import Question, TextPassage
from vist.eval.stress import check_encoder
from vist.eval.windows import cut_windows, with_wrong_texts
from vist.fuse.insert import cross_attentions


@pytest.fixture(scope="module")
def passages(reader: Reader) -> list[Passage]:
    windows, _ = cut_windows(reader, [alice(12_000)], pages=1, proximal=12, windows=2)
    return with_wrong_texts(reader, windows, 1)


@pytest.fixture(scope="module")
def pooled_folder(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a text context around the tiny reader's own LLM, cross-attention included."""
    folder = tmp_path_factory.mktemp("runs") / "baseline-pooled" / "model" / "final"
    llm = type(reader.model.language_model)(reader.model.config.text_config)
    model = TextContextForConditionalGeneration.from_language_model(llm, ratio=2.5)
    for sublayer in cross_attentions(model.language_model):
        torch.nn.init.normal_(sublayer.o_proj.weight, std=0.5)
    model.save_pretrained(folder)
    TextContextProcessor(reader.tokenizer, style="vist").save_pretrained(folder)
    return folder


def as_text(reader: Reader, model: object) -> Reader:
    return Reader(model, TextContextProcessor(reader.tokenizer, style=reader.style))


def test_a_streaming_cache_that_holds_everything_reads_the_full_text(reader: Reader, passages: list[Passage]) -> None:
    full = condition_loss(reader, Condition.FULL, passages, 12)
    assert not full.dropped_tokens.any()
    longest = int(full.context_tokens.max()) + 13
    streamed = condition_loss(
        as_text(reader, StreamingModel(reader.model.language_model, longest)), Condition.VISUAL, passages, 12
    )
    np.testing.assert_allclose(streamed.loss, full.loss, atol=1e-4)
    assert streamed.context_tokens.tolist() == full.context_tokens.tolist()
    short = as_text(reader, StreamingModel(reader.model.language_model, 20))
    assert abs(condition_loss(short, Condition.VISUAL, passages, 12).loss - full.loss).max() > 1e-3


def test_one_passage_for_the_whole_text_is_the_full_text(reader: Reader, passages: list[Passage]) -> None:
    full = condition_loss(reader, Condition.FULL, passages, 12)
    whole = as_text(reader, ReplugModel(reader.model.language_model, passage_tokens=10_000))
    np.testing.assert_allclose(condition_loss(whole, Condition.VISUAL, passages, 12).loss, full.loss, atol=1e-4)


def test_rows_and_differences_of_methods_beside(reader: Reader, passages: list[Passage], pooled_folder: Path) -> None:
    others = load_beside(reader, f"{pooled_folder}, streaming:20,replug:2", Device.CPU)
    assert list(others) == ["baseline-pooled", "streaming:20", "replug:2"]
    result = evaluate_lm(reader, passages, [0, 0], resamples=100, beside=others)
    assert [method.value for method in result.conditions] == ["none", "visual", "wrong", "full", *others]
    pooled = result.method_dict(OtherMethod("baseline-pooled"))
    assert pooled["ratio"] == pytest.approx(2.5, rel=0.02) and pooled["label"] == "baseline-pooled"
    alone = condition_loss(Reader(*vist.load(pooled_folder)), Condition.VISUAL, passages, result.scored)
    assert pooled["ppl"] == pytest.approx(alone.perplexity)
    pairs = {(row["of"], row["minus"]) for row in result.to_dict()["differences"]}
    assert {("baseline-pooled", "none"), ("visual", "baseline-pooled"), ("visual", "none")} <= pairs
    assert measure_cost(others["streaming:20"], Condition.VISUAL, passages[0], 2, repeats=1).flops > 0
    assert measure_cost(others["replug:2"], Condition.VISUAL, passages[0], 2, repeats=1).tokens_per_s > 0


def test_recall_of_methods_beside(reader: Reader, pooled_folder: Path) -> None:
    others = load_beside(reader, f"{pooled_folder},streaming:40,replug:2", Device.CPU)
    contexts = plan_contexts(reader, [alice(12_000)], 2, 2, 1)
    result = evaluate_recall(reader, contexts, 1, beside=others)
    assert [method.value for method in result.methods] == ["none", "visual", "wrong", "full", *others]
    assert {row["n"] for row in result.rows() if row["kind"] == "all"} == {4}
    assert {row["method"] for row in result.score_rows(100)} == {method.value for method in result.methods}


def absolute(rows: list[dict], metric: str) -> dict[str, dict]:
    return {row["method"]: row for row in rows if row["minus"] is None and row["metric"] == metric}


def test_in_context_learning_of_methods_beside(reader: Reader, pooled_folder: Path) -> None:
    """A text context beside the model is scored as it is when it is the model itself."""
    others = load_beside(reader, str(pooled_folder), Device.CPU)
    examples = tuple(
        Example(f"{label} thing number {number}", label) for number in range(6) for label in ("red", "blue")
    )
    source = LabelledSet("colours", examples, examples[:4], ("red", "blue"))
    config = IclConfig(encoder_shots=3, decoder_shots=1, examples=4, seeds=(42,), per_draw=4, resamples=200)
    rows = evaluate_icl(reader, source, None, config, others)
    alone = evaluate_icl(others["baseline-pooled"], source, None, config)
    for choice in ("nll_acc", "nll_acc_norm", "nll_acc_calibrated", "nll_acc_calibrated_norm"):
        beside, own = absolute(rows, choice)["baseline-pooled"], absolute(alone, choice)["visual"]
        assert [beside[key] for key in ("value", "context_tokens", "ratio")] == [
            own[key] for key in ("value", "context_tokens", "ratio")
        ]
    assert beside["ratio"] == pytest.approx(2.5, rel=0.1)
    pairs = {(row["method"], row["minus"]) for row in rows}
    assert {("baseline-pooled", "none"), ("visual", "baseline-pooled")} <= pairs
    with pytest.raises(VistError, match="labels after a cache, which 'replug' does not keep"):
        evaluate_icl(reader, source, None, config, load_beside(reader, "replug", Device.CPU))


def test_questions_of_methods_beside(reader: Reader, pooled_folder: Path) -> None:
    others = load_beside(reader, f"{pooled_folder},replug:2", Device.CPU)
    passages = [TextPassage(f"p{n}", "", alice(2_000)[n * 90 :][:90]) for n in range(4)]
    questions = [Question(f"Which {n}?", ("Alice",), f"p{n}") for n in range(2)]
    rows = evaluate_qa(reader, questions, [passages[:3], passages[1:]], [], QaConfig(2, 1, resamples=200), others)
    f1 = absolute(rows, "f1")
    assert list(f1) == ["none", "visual", "wrong", "full", "baseline-pooled", "replug:2"]
    assert f1["baseline-pooled"]["ratio"] == pytest.approx(2.5, rel=0.1)
    assert {("replug:2", "none"), ("visual", "replug:2")} <= {(row["method"], row["minus"]) for row in rows}


def test_measures_that_read_pages_refuse_a_model_that_does_not(pooled_folder: Path) -> None:
    text = Reader(*vist.load(pooled_folder))
    for refused in (
        lambda: check_encoder(text),
        lambda: visual_means(text, ["Alice"]),
        lambda: count_tokens(text, "Alice", len),
    ):
        with pytest.raises(VistError, match="a vision tower, which .* models do not have"):
            refused()


def test_two_methods_of_one_name_are_refused(reader: Reader) -> None:
    with pytest.raises(VistError, match="two methods called 'replug'"):
        load_beside(reader, "replug,replug", Device.CPU)


def test_bad_names_are_told(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(VistError, match="above 0, got 'x'"):
        load_beside(reader, "streaming:x", Device.CPU)
    with pytest.raises(VistError, match="no model folder"):
        load_beside(reader, str(tmp_path / "nowhere"), Device.CPU)
    with pytest.raises(VistError, match="another tokenizer"):
        load_beside(reader, "vist-nano", Device.CPU)
