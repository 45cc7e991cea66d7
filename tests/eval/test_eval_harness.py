"""lm-evaluation-harness: likelihoods against plain forward passes, needles and a multiple choice on local data."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vist
from tiny_vist import alice
from vist.errors import VistError
from vist.eval.reader import Reader

lm_eval = pytest.importorskip("lm_eval")
from vist.eval.harness import VistLM  # noqa: E402  (it needs the harness)


def request(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


def plain(reader: Reader, ids: list[int], scored: int, distant: str = "") -> tuple[float, bool]:
    """One forward pass over everything, no padding, no sharing."""
    row = torch.tensor([[reader.start_id, *ids]])
    pages = dict(reader.processor(context=distant)) if distant else {}
    with torch.inference_mode():
        logits = reader.model(input_ids=row, **pages).logits[0].log_softmax(-1)
    places = range(len(ids) - scored, len(ids))
    greedy = all(int(logits[place].argmax()) == ids[place] for place in places)
    return sum(float(logits[place, ids[place]]) for place in places), greedy


def test_likelihoods_are_those_of_plain_forward_passes(reader: Reader) -> None:
    adapter = VistLM(reader, near_tokens=12, batch_size=3)
    text = alice(900).rstrip()
    distant, near = adapter.split(text)
    assert distant + near == text and 12 <= len(reader.ids(near)) <= 20
    pairs = [(text, " and so"), (text, " it was over"), ("Alice was", " tired"), ("", "Alice"), (text + " ", "and so")]
    found = adapter.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (score, greedy) in zip(pairs, found, strict=True):
        far, close = (distant, near) if context.startswith(text) else ("", context)
        ids = reader.ids(close.rstrip() + (" and so" if context.endswith(" ") else continuation))
        expected = plain(reader, ids, len(ids) - len(reader.ids(close.rstrip())), far)
        assert score == pytest.approx(expected[0], abs=1e-3)
        assert greedy is expected[1]
    assert found[0] == pytest.approx(found[4])  # a blank at the end belongs to the continuation


def test_the_controls_differ_in_the_distant_part_alone(reader: Reader) -> None:
    pair = request(alice(900), " and so")
    none, visual, wrong, full = (
        VistLM(reader, near_tokens=12, condition=name).loglikelihood([pair], disable_tqdm=True)[0][0]
        for name in ("none", "visual", "wrong", "full")
    )
    near = VistLM(reader, near_tokens=12).split(alice(900).rstrip())[1]
    ids = reader.ids(near + " and so")
    assert none == pytest.approx(plain(reader, ids, len(ids) - len(reader.ids(near)))[0], abs=1e-3)
    assert len({round(score, 5) for score in (none, visual, wrong, full)}) == 4


def test_a_rolling_likelihood_scores_every_token_once(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    text = alice(700)
    for near in (64, 500):
        rows = VistLM(reader, near_tokens=near)._stretches(text)
        scored = [token for row in rows for token in row.near[len(row.near) - row.scored :]]
        assert scored == reader.ids(text)
    whole = VistLM(reader, near_tokens=500, condition="none").loglikelihood_rolling([request(text)], disable_tqdm=True)
    assert whole[0] == pytest.approx(plain(reader, reader.ids(text), len(reader.ids(text)))[0], rel=1e-4)


def test_what_does_not_fit_is_cut_and_counted(reader: Reader) -> None:
    adapter = VistLM(reader, near_tokens=12, max_pages=1)
    adapter.loglikelihood([request(alice(6_000), " and"), request("short", " one")], disable_tqdm=True)
    assert adapter.get_model_info()["cut_prompts"] == 1
    with pytest.raises(VistError, match="do not fit"):
        adapter.generate_until([request("Alice", {"max_gen_toks": 1 << 20})], disable_tqdm=True)
    with pytest.raises(VistError, match="near_tokens must be at least 1, got 0"):
        VistLM(reader, near_tokens=0)


def needles(**_: Any) -> dict[str, Any]:
    """RULER's single needle (arXiv 2404.06654) over a packaged book: a number for a word, asked for at the end."""
    import datasets

    rng, rows = random.Random(0), []
    for word in ("harbor", "lantern"):
        number, hay = str(rng.randrange(1000, 9999)), alice(1_100)
        place = hay.index(" ", 500)
        needle = f" One of the special magic numbers for {word} is: {number}."
        ask = f"\nThe special magic number for {word} mentioned in the provided text is"
        rows.append({"input": hay[:place] + needle + hay[place:] + ask, "outputs": [number], "number": number})
    return {"test": datasets.Dataset.from_list(rows)}


def match_all(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """RULER's metric: the share of the outputs that stand in what was written."""
    return {"match": sum(output in results[0] for output in doc["outputs"]) / len(doc["outputs"])}


def choices(**_: Any) -> dict[str, Any]:
    import datasets

    rows = [
        {"question": f"{alice(900)}\nThe Queen", "choices": [" said", " of", " xq"], "gold": n % 3} for n in range(3)
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def test_tasks_of_the_harness_run_on_the_packaged_model() -> None:
    from lm_eval.tasks import TaskManager

    shared = {"dataset_path": "", "test_split": "test", "metadata": {"version": 1.0}}
    needle = shared | {"task": "needle", "custom_dataset": needles, "output_type": "generate_until"}
    needle |= {"doc_to_text": "{{input}}", "doc_to_target": "{{number}}", "process_results": match_all}
    needle |= {"metric_list": [{"metric": "match", "aggregation": "mean", "higher_is_better": True}]}
    needle |= {"generation_kwargs": {"do_sample": False, "temperature": 0.0, "max_gen_toks": 8, "until": ["\n"]}}
    choice = shared | {"task": "choice", "custom_dataset": choices, "output_type": "multiple_choice"}
    choice |= {"doc_to_text": "{{question}}", "doc_to_target": "gold", "doc_to_choice": "choices"}
    choice |= {"target_delimiter": "", "metric_list": [{"metric": "acc", "aggregation": "mean"}]}
    adapter = VistLM(Reader(*vist.load("vist-nano")), near_tokens=48, name="vist-nano")
    found = lm_eval.simple_evaluate(
        model=adapter,
        tasks=[needle, choice],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=10,
        log_samples=True,
    )
    assert 0 <= found["results"]["needle"]["match,none"] <= 1
    assert found["results"]["choice"]["acc,none"] == pytest.approx(1 / 3)  # the same question, another answer each time
    assert found["config"]["condition"] == "visual" and found["config"]["near_tokens"] == 48
    written = [sample["resps"][0][0] for sample in found["samples"]["needle"]]
    model, processor = vist.load("vist-nano")
    distant, near = adapter.split(needles()["test"][0]["input"])
    ids = torch.tensor([[adapter.reader.start_id, *adapter.reader.ids(near)]])
    output = model.generate(input_ids=ids, **processor(context=distant), max_new_tokens=8, do_sample=False)
    text = processor.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert written[0] == text.split("\n")[0]
