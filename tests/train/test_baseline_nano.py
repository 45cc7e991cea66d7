"""Baselines trained beside a nano run: the same data read as text, frozen parts, budgets, models that load."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vist
import vist.recipes
from tiny_nano import miniature
from vist import VistForConditionalGeneration
from vist.baselines.text_context import TextContextForConditionalGeneration
from vist.errors import VistError
from vist.fuse.insert import cross_attentions
from vist.recipes.baselines import METHODS, RATIO, SMALL, baselines
from vist.render import PageStyle
from vist.train.alignment import AlignmentPages
from vist.train.baseline_nano import BaselineRecipe, at_budget, train_baseline
from vist.train.context import ContextSamples, ContextShape
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix
from vist.train.guidance import seen_attention
from vist.train.language_model import build_language_model
from vist.train.nano import train_nano
from vist.train.text_context import (
    AlignmentTexts,
    Masker,
    TextAligner,
    TextContextSamples,
    attention_by_token,
    collate_texts,
    guided_token_loss,
)
from vist.train.tokenizer import train_tokenizer

TINY_CEPE = {"encoder": "cepe", "encoder_size": 32, "encoder_layers": 1, "encoder_heads": 2, "chunk_size": 64}
TINY = {
    "pooled": METHODS["pooled"],
    "cepe": ("cepe", TINY_CEPE),
    "tome": ("tome", {"merges": 20, "prune_after": 1}),
}


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train_nano(miniature(), data, out, "text-vit")
    return out


@pytest.mark.parametrize("name", TINY)
def test_a_baseline_starts_from_the_run_and_ends_with_a_model_that_generates(name: str, data: Path, run: Path) -> None:
    shared = {path: path.stat().st_mtime_ns for path in run.glob("*/final/*")}
    recipe = BaselineRecipe(f"baseline-{name}", *TINY[name], miniature(), budget=1.5)
    final = train_baseline(recipe, data, run)
    assert final == run / f"baseline-{name}" / "model" / "final"
    assert {path: path.stat().st_mtime_ns for path in shared} == shared
    model, processor = vist.load(final)
    inputs = processor(context="The cat sat on the mat. " * 40, prompt="The cat", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 4
    steps = [path.name for path in (run / f"baseline-{name}").glob("*/checkpoint-*")]
    assert steps == ["checkpoint-3"] * 4
    before = type(model).from_pretrained(run / f"baseline-{name}" / "read-back" / "final").state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(
        "cross_attn" in key or key.startswith(("encoder.", "resampler", "page_p")) for key in changed
    )


def test_a_baseline_may_start_from_a_finished_model_instead(data: Path, run: Path, tmp_path: Path) -> None:
    """Its LLM and its TextViT are the model's, and nothing that they stand in for is trained."""
    made = train_nano(miniature(), data, run)
    source = VistForConditionalGeneration.from_pretrained(made).state_dict()
    recipe = BaselineRecipe("baseline-vist", *METHODS["vist"], miniature())
    train_baseline(recipe, data, tmp_path, "alignment", run)
    assert not list(tmp_path.glob("language-model/checkpoint-*"))
    aligned = VistForConditionalGeneration.from_pretrained(tmp_path / "baseline-vist" / "alignment" / "final")
    shared = [
        name for name in source if name.startswith(("vision_tower.", "language_model.")) and ".cross_" not in name
    ]
    own = aligned.state_dict()
    assert shared and all(torch.equal(own[name], source[name]) for name in shared)


def test_budgets_scale_the_methods_own_stages_alone() -> None:
    small, full = baselines()["baseline-pooled-small"](), baselines()["baseline-pooled"]()
    assert full.budget == 1 and small.budget == SMALL and small.folder != full.folder
    numbers, scaled = small.nano, at_budget(small.nano, small.budget)
    for name in ("alignment", "read_back", "context", "settling"):
        assert getattr(scaled, name).steps == round(getattr(numbers, name).steps / 6)
    assert scaled.lm == numbers.lm and scaled.reading == numbers.reading
    assert {f"baseline-{name}" for name in METHODS} <= set(vist.recipes.RECIPES)
    with pytest.raises(VistError, match="above 0"):
        BaselineRecipe("x", "vist", {}, numbers, budget=0)
    assert all(baseline().nano.context == numbers.context for baseline in baselines().values())


def test_methods_without_pages_have_no_stage_of_pages(tmp_path: Path) -> None:
    with pytest.raises(VistError, match="text-vit"):
        train_baseline(BaselineRecipe("b", *TINY["pooled"], miniature()), tmp_path, tmp_path, "text-vit")
    with pytest.raises(VistError, match="crystal"):
        train_baseline(BaselineRecipe("b", "crystal", {}, miniature()), tmp_path, tmp_path)


@pytest.fixture(scope="module")
def tokenizer(corpus: PackedCorpus):  # noqa: ANN201
    return train_tokenizer([corpus.document("books", 0)], 300, 512)


@pytest.fixture(scope="module")
def model(tokenizer) -> TextContextForConditionalGeneration:  # noqa: ANN001
    torch.manual_seed(0)
    llm = build_language_model(tokenizer, 64, 2, 256)
    choices = {"ratio": RATIO, "cross_output_gate": True, "cross_subtokens": True}
    return TextContextForConditionalGeneration.from_language_model(llm, **choices)


MIX = ExampleMix({"quote": 1, "recall": 1}, {"books": 1})
STYLE = PageStyle.named("vist")


def test_samples_are_those_of_pages_and_the_guide_points_at_the_copied_token(corpus, tokenizer, model) -> None:
    options = {"corpus": corpus, "tokenizer": tokenizer, "style": STYLE, "visual_tokens": 86, "parts": 1, "mix": MIX}
    options |= {"shape": ContextShape(distant=(300, 900), tokens=48, text_share=0.3), "samples": 12}
    options |= {"importance": np.zeros(300, np.float32), "batch_size": 2, "seed": 5}
    pages, texts = ContextSamples(**options), TextContextSamples(model.config, **options)
    guided = right = 0
    for index in range(12):
        page, text = pages[index], texts[index]
        assert page["prompt"].tolist() == text["prompt"].tolist()
        assert ("context" in text) is ("context" in page)
        if "context" not in text:
            continue
        assert page["context"].tolist() == text["context"].tolist()
        for place in np.flatnonzero(text["guide"][:-1] >= 0):
            group = text["guide"][place]
            first, last = int(group * RATIO), int((group + 1) * RATIO)
            guided += 1
            right += text["prompt"][place + 1] in text["context"][first:last]
    assert guided > 40 and right >= 0.9 * guided  # the first token of a copy can be cut differently
    batch = texts.collate([text for text in (texts[index] for index in range(12)) if "context" in text][:2])
    assert batch["context_mask"].sum(1).max() == batch["context_ids"].shape[1]
    assert batch["guide"].shape == batch["input_ids"].shape


def test_alignment_reads_the_texts_of_the_pages(corpus, tokenizer, model) -> None:
    options = {"corpus": corpus, "tokenizer": tokenizer, "mix": MIX, "style": STYLE, "visual_tokens": 86, "parts": 4}
    page, text = (kind(samples=3, seed=2, **options)[1] for kind in (AlignmentPages, _texts(model)))
    assert page["ids"].tolist() == text["ids"].tolist() and text["places"][0] == -1 and not text["masked"][0]
    tokens, parts = text["places"][1:] // 4, text["places"][1:] % 4
    edges = [int(number * RATIO) for number in range(len(tokens))]
    assert tokens.tolist() == [sum(edge <= place for edge in edges) - 1 for place in range(len(tokens))]
    assert len(set(text["places"].tolist())) == len(text["places"])  # every token has a part of its own
    assert (parts[np.flatnonzero(np.diff(tokens)) + 1] == 0).all()  # the first one of a context token the first part


def _texts(model):  # noqa: ANN001, ANN202
    return lambda **options: AlignmentTexts(model.config, **options)


def test_alignment_learns_and_is_handed_over(corpus, tokenizer, model) -> None:
    options = {"corpus": corpus, "tokenizer": tokenizer, "mix": MIX, "style": STYLE, "visual_tokens": 86, "parts": 1}
    texts = AlignmentTexts(model.config, **options, samples=4, seed=2)
    batch = collate_texts([texts[0], texts[1]])
    aligner = TextAligner(model)
    optimizer = torch.optim.Adam(aligner.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        out = aligner(**batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.8 * losses[0]
    aligner.hand_over(model)
    assert torch.equal(cross_attentions(model.language_model)[1].k_proj.weight, aligner.key.weight)


def test_masked_tokens_are_not_seen(corpus, tokenizer) -> None:
    llm = build_language_model(tokenizer, 64, 2, 256)
    model = TextContextForConditionalGeneration.from_language_model(llm, **TINY_CEPE)
    masker, ids = Masker(model).eval(), torch.randint(5, 200, (2, 20))
    masked, places = torch.zeros(2, 20, dtype=torch.bool), torch.ones(2, 20, dtype=torch.long)
    masked[:, [4, 9]] = True
    states = []
    masker.roberta.register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state))
    loss = masker(ids, places, masked)["loss"]
    changed = torch.where(masked, (ids + 1) % 200, ids)
    assert not torch.equal(masker(changed, places, masked)["loss"], loss)  # it is asked for ...
    assert torch.equal(states[0], states[1])  # ... but not read


def test_guidance_adds_up_the_parts_of_a_context_token(model) -> None:
    sublayer = cross_attentions(model.language_model)[1]
    parts = sublayer.num_key_value_heads
    attention = torch.rand(1, 3, 5 * parts + 1)
    want = torch.stack([attention[..., place * parts : (place + 1) * parts].sum(-1) for place in range(5)], dim=-1)
    torch.testing.assert_close(attention_by_token(sublayer, attention), want)
    inputs = {"input_ids": torch.randint(5, 200, (1, 6)), "context_ids": torch.randint(5, 200, (1, 9))}
    inputs |= {"context_mask": torch.ones(1, 9, dtype=torch.bool), "labels": inputs["input_ids"]}
    guide = torch.tensor([[-1, 2, 0, -1, 3, -1]])
    with seen_attention([sublayer]) as seen, torch.no_grad():
        lm_loss = model(**inputs).loss
    chosen = attention_by_token(sublayer, seen[0])[0, [1, 2, 4], [2, 0, 3]]
    out = guided_token_loss(model, {**inputs, "guide": guide}, weight=0.5)
    assert out["loss"].item() == pytest.approx(lm_loss.item() - 0.5 * (chosen + 1e-6).log().mean().item(), rel=1e-4)
