"""One checkpoint at many ratios: the rows, what they compare, and that they are what the parts give."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tiny_vist import alice
from vist.compress.frequency import TokenFrequency
from vist.errors import VistError
from vist.eval.conditions import Condition
from vist.eval.dial import DialMeasure
from vist.eval.lm import condition_loss
from vist.eval.plots import dial_plot
from vist.eval.reader import Reader
from vist.eval.recall import ask, plan_contexts
from vist.eval.windows import cut_windows, with_wrong_texts
from vist.model.dial import Dial
from vist.model.processing import VistProcessor
from vist.train.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def counted(reader: Reader) -> Reader:
    processor = VistProcessor(reader.tokenizer)
    processor.frequency = TokenFrequency.from_corpus([reader.ids(alice(6_000))], len(reader.tokenizer))
    return replace(reader, processor=processor)


@pytest.fixture(scope="module")
def measure(counted: Reader) -> DialMeasure:
    texts = [alice(9_000), alice(16_000)[8_000:]]
    found, _ = cut_windows(counted, texts, 2, 24, 2)
    contexts = plan_contexts(counted, texts, 2, 2, 2)
    passages = with_wrong_texts(counted, found, 2)
    documents = [window.document for window in found]
    return DialMeasure(counted, passages, documents, contexts, {"other": counted}, resamples=200)


def test_a_model_that_reads_no_pages_is_refused() -> None:
    baseline = Reader(SimpleNamespace(config=SimpleNamespace(model_type="vist_text_context")), None)
    with pytest.raises(VistError, match="'vist_text_context' models do not have; choose a VIST model"):
        DialMeasure(baseline, [], [], [])


def test_every_method_is_read_at_the_ratio_asked_for(measure: DialMeasure, counted: Reader) -> None:
    text = sum(len(counted.ids(passage.distant)) for passage in measure.passages)
    rows = measure.at_ratio(150)
    assert {row["metric"] for row in rows} == {"perplexity", "nats per token", "exact"}
    assert {(row["method"], row["minus"]) for row in rows if row["minus"]} == {
        ("nested", "all"), ("adaptive", "all"), ("adaptive", "nested"), ("nested", "none"), ("nested", "wrong")
    }  # fmt: skip
    read = {row["method"]: row["ratio"] for row in rows if row["minus"] is None}
    assert read["none"] is None
    assert read["all"] == pytest.approx(text / (4 * 2 * len(measure.passages)))
    for method in ("nested", "adaptive", "wrong"):
        assert read[method] == pytest.approx(150, rel=0.25) and read[method] > read["all"]
    assert read["nested"] == pytest.approx(read["adaptive"])


def test_the_figures_are_those_of_reading_once_more_without_the_cache(measure: DialMeasure, counted: Reader) -> None:
    """Losses and answers of one setting, taken by hand from a reader that encodes every page anew."""
    values = {(row["metric"], row["method"]): row for row in measure.at_ratio(150) if row["minus"] is None}
    for method, dial in {"nested": Dial(150.0), "adaptive": Dial(150.0, adaptive=True), "all": Dial()}.items():
        own = counted.dialled(dial)
        loss = condition_loss(own, Condition.VISUAL, measure.passages, 24).loss
        assert values["nats per token", method]["value"] == pytest.approx(loss.mean(), abs=1e-4)
        assert values["perplexity", method]["value"] == pytest.approx(math.exp(loss.mean()), rel=1e-4)
        first, second = measure.contexts
        exact = [answer.exact for answer in ask(own, Condition.VISUAL, [(first, second), (second, first)])]
        assert values["exact", method]["value"] == pytest.approx(np.mean(exact))
    wrong = condition_loss(counted.dialled(Dial(150.0)), Condition.WRONG, measure.passages, 24).loss
    assert values["nats per token", "wrong"]["value"] == pytest.approx(wrong.mean(), abs=1e-4)
    none = condition_loss(counted, Condition.NONE, measure.passages, 24).loss
    assert values["nats per token", "none"]["value"] == pytest.approx(none.mean(), abs=1e-5)


def test_pages_are_encoded_once_for_all_settings(measure: DialMeasure) -> None:
    cache = measure.reader.cache
    measure.at_ratio(150)
    before = cache.misses
    measure.at_ratio(77)
    assert cache.misses == before and cache.hits > 0


def test_another_checkpoint_stands_at_its_own_number(measure: DialMeasure) -> None:
    rows = measure.at_own("other")
    own = {row["metric"]: row["value"] for row in measure.at_ratio(150) if row["method"] == "all" and not row["minus"]}
    for row in rows:
        if row["method"] == "fixed" and row["minus"] is None:
            assert row["checkpoint"] == "other" and row["value"] == pytest.approx(own[row["metric"]])


def test_another_tokenizer_cannot_be_compared(measure: DialMeasure, reader: Reader) -> None:
    stranger = Reader(reader.model, VistProcessor(train_tokenizer([alice(9_000)], 380, 512)))
    with pytest.raises(VistError, match="another tokenizer"):
        replace(measure, fixed={"stranger": stranger})


def test_the_plot_shows_every_method(measure: DialMeasure) -> None:
    rows = measure.at_ratio(150) + measure.at_ratio(77) + measure.at_own("other")
    light, dark = (dial_plot(rows)[theme] for theme in ("light", "dark"))
    assert light.startswith("<?xml") and light != dark
    fewer = dial_plot([row for row in rows if row["method"] != "adaptive"])["light"]
    assert "#8a4fbf" in light and "#8a4fbf" not in fewer


def test_a_restyled_reader_keeps_its_setting_and_statistics(counted: Reader) -> None:
    changed = counted.dialled(Dial(visual_tokens=2, adaptive=True)).restyled("vist-7")
    inputs = changed.page_inputs([alice(4_000)])
    assert inputs["visual_tokens"].tolist() == [2 * inputs["pixel_values"].shape[1]]
    drawn = changed.stack_pages([[changed.draw(alice(4_000))]])
    assert all((drawn[name] == inputs[name]).all() for name in inputs)
