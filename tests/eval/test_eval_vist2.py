"""A VIST2 model measured by the same code as a VIST model: conditions, recall, demo, and what its reading means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import vist
from tiny_vist import alice
from tiny_vist2 import tiny_processor, tiny_vist2
from vist.cli.app import app
from vist.cli.inputs import load_reader
from vist.cli.options import Device
from vist.errors import VistError
from vist.eval.conditions import Condition, OtherMethod
from vist.eval.cost import measure_cost
from vist.eval.demo import DemoConfig, run_demo
from vist.eval.lm import condition_loss, evaluate_lm
from vist.eval.provenance import provenance
from vist.eval.reader import Reader
from vist.eval.recall import evaluate_recall, plan_contexts
from vist.eval.report import render_report
from vist.eval.vist2_reader import memory_reader
from vist.eval.windows import cut_windows, with_wrong_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("vist2")
    tiny_vist2().save_pretrained(where)
    tiny_processor().save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def memory(folder: Path) -> Reader:
    return load_reader(str(folder), Device.CPU)


@pytest.fixture(scope="module")
def passages(memory: Reader):
    windows, _ = cut_windows(memory, [alice(4_000)], pages=3, proximal=12, windows=3)
    return with_wrong_texts(memory, windows, 3)


def test_the_visual_condition_is_the_teacher_forced_forward_behind_finished_chunks(memory: Reader, passages) -> None:
    """Against VIST2's own interleaved forward, written out by hand."""
    model, processor = tiny_vist2(), tiny_processor()
    found = condition_loss(memory, Condition.VISUAL, passages, scored=12, batch_size=2)
    for passage, loss, tokens in zip(passages, found.loss, found.context_tokens, strict=True):
        distant = processor.tokenizer(passage.distant, add_special_tokens=False).input_ids
        frames = [s for p in processor.pieces(distant) for s in processor.frame(processor.draw(p.ids))]
        start, prompt = (vist_stretch([memory.start_id]), vist_stretch(list(passage.proximal)))
        batch = processor.pack([[[start, *frames, prompt]]])
        batch.pop("shift_labels")
        with torch.inference_mode():
            scores = model(**batch).logits[0, -len(passage.proximal) - 1 : -1].log_softmax(-1)
        by_hand = -scores.gather(1, torch.tensor(passage.proximal)[:, None]).squeeze(1)[-12:].mean()
        assert loss == pytest.approx(float(by_hand), abs=1e-4)
        assert tokens == sum(len(frame.ids) for frame in frames)


def vist_stretch(ids):
    from vist.fuse.interleave import Role
    from vist.model.vist2_processing import Stretch

    return Stretch(Role.KEPT, ids)


def test_without_context_it_is_the_llm_and_pages_make_a_difference(memory: Reader, passages) -> None:
    result = evaluate_lm(memory, passages, [0, 0, 0], batch_size=2, resamples=100)
    losses = {condition: result.conditions[condition].loss for condition in Condition}
    assert len({tuple(loss) for loss in losses.values()}) == 4
    assert 2.0 <= result.ratio(Condition.VISUAL) <= 3.0
    llm = memory.model.language_model
    ids = torch.tensor([[memory.start_id, *passages[0].proximal]])
    with torch.inference_mode():
        stock = torch.nn.functional.cross_entropy(llm(input_ids=ids).logits[0, :-1][-12:], ids[0, -12:])
    assert losses[Condition.NONE][0] == pytest.approx(float(stock), abs=1e-4)


def test_writing_behind_pages_is_reading_behind_them(memory: Reader, passages) -> None:
    """Greedy tokens are the argmax of the forward pass, also in a batch of contexts of different length."""
    texts = [passages[0].distant, passages[1].distant[:60]]
    context = memory.model.encode_context(**memory.page_inputs(texts))
    visual = {"cross_kv": memory.model.project_context(context.states), "cross_mask": context.mask}
    prompts = memory.text_inputs([memory.ids("the cat"), memory.ids("a much longer question about it")])
    new = memory.model.generate(**prompts, **visual, max_new_tokens=4, min_new_tokens=4, do_sample=False)[:, -4:]
    for number, text in enumerate(texts):
        row = prompts["input_ids"][number][prompts["attention_mask"][number].bool()]
        for place in range(4):
            alone = {"input_ids": torch.cat([row, new[number, :place]])[None]} | memory.page_inputs([text])
            with torch.inference_mode():
                scores = memory.model(**alone, logits_to_keep=1).logits[0, -1].clone()
                scores[memory.tokenizer.eos_token_id] = -torch.inf  # min_new_tokens
            assert int(scores.argmax()) == int(new[number, place])


def test_an_llm_saved_without_caching_still_writes_behind_its_cache(memory: Reader, passages) -> None:
    """As the Trainer of transformers saves them: every step feeds one token, and the tokens are the same."""
    context = memory.model.encode_context(**memory.page_inputs([passages[0].distant]))
    visual = {"cross_kv": memory.model.project_context(context.states), "cross_mask": context.mask}
    asked = {**memory.text_inputs([memory.ids("the cat")]), **visual, "max_new_tokens": 4, "min_new_tokens": 4}
    want = memory.model.generate(**asked, do_sample=False)
    llm, fed = memory.model.language_model, []

    def note(_, __, said) -> None:
        fed.append(next(said[name].shape[1] for name in ("input_ids", "inputs_embeds") if said.get(name) is not None))

    hook = llm.register_forward_pre_hook(note, with_kwargs=True)
    llm.config.use_cache = llm.generation_config.use_cache = False
    found = memory.model.generate(**asked, do_sample=False)
    llm.config.use_cache = llm.generation_config.use_cache = True
    hook.remove()
    assert torch.equal(found, want) and fed[-3:] == [1, 1, 1]


def test_rows_beside_the_model_in_lm_recall_and_demo(memory: Reader) -> None:
    beside = {"vist2-nano": memory_reader(tiny_vist2(), tiny_processor(ratio=2.0))}
    contexts = plan_contexts(memory, [alice(6_000)], 2, 1, 3, ("number",))
    rows = evaluate_recall(memory, contexts, 3, 2, beside).rows()
    assert {row["method"] for row in rows} == {"none", "visual", "wrong", "full", "vist2-nano"}
    config = DemoConfig(pages=3, proximal=12, windows=2, contexts=2, facts=1, new_tokens=2)
    result = run_demo(memory, alice(6_000), config, beside=beside)
    assert OtherMethod("vist2-nano") in result.costs
    methods = {row["name"]: row for row in result.methods()}
    assert methods["vist2-nano"]["ratio"] < methods["visual"]["ratio"]
    assert methods["vist2-nano"]["flops"] > methods["none"]["flops"]
    page = render_report(memory, alice(6_000), result, provenance("tiny"), "Alice")
    assert "vist2-nano − no context" in page and page.count('<th scope="col" class="text">vist2-nano</th>') == 1


def test_cost_is_measured_with_pages(memory: Reader, passages) -> None:
    none, visual = (measure_cost(memory, c, passages[0], 2, repeats=1) for c in (Condition.NONE, Condition.VISUAL))
    assert visual.flops > none.flops and visual.ttft_s > 0


def test_commands_take_a_vist2_model_and_a_packaged_one_is_skipped_where_it_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / "book.txt"
    book.write_text(alice(5_000))
    options = ["--pages", "3", "--proximal", "12", "--windows", "2", "--resamples", "100", "--device", "cpu"]
    ran = CliRunner().invoke(app, ["eval", "lm", str(book), "--model", str(folder), "--beside", str(folder), *options])
    assert ran.exit_code == 0, ran.output
    assert "visual context" in ran.output and folder.name in ran.output
    monkeypatch.setattr(vist, "PACKAGED_MODELS", tmp_path)
    ran = CliRunner().invoke(app, ["eval", "recall", str(book), "--model", "vist2-nano"])
    assert ran.exit_code == 1


def test_a_measure_that_draws_pages_itself_says_so(memory: Reader) -> None:
    with pytest.raises(VistError, match="VIST2 model reads chunks"):
        memory.read_pages([[memory.draw("a text")]])
