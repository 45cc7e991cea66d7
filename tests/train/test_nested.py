"""A number of visual tokens per batch: what is drawn, where the guide points, and that training changes what it may."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vist.recipes
from tiny_backbones import tiny_model
from tiny_vist import alice
from vist import VistForConditionalGeneration, VistProcessor
from vist.compress.frequency import TokenFrequency
from vist.compress.reducers import Division
from vist.errors import VistError
from vist.recipes.nano import nano
from vist.recipes.nested import nano_nested
from vist.render import PageStyle
from vist.train.context import ContextShape
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix
from vist.train.nano import NanoRun
from vist.train.nested import NestedSamples, TokenRange, merged_guide
from vist.train.nested_nano import STAGES, train_nested
from vist.train.stage import StageConfig
from vist.train.tokenizer import train_tokenizer

DOMAINS = {"books": 1.0, "code": 1.0}
RANGE = TokenRange(least=2, most=64, full_share=0.3)


@pytest.fixture(scope="module")
def tokenizer(corpus: PackedCorpus):  # noqa: ANN201
    return train_tokenizer([corpus.document("books", 0)], 300, 512)


def samples(corpus: PackedCorpus, tokenizer, tokens: TokenRange = RANGE, **shape: object) -> NestedSamples:
    wanted = ContextShape(distant=(300, 2500), tokens=48, **shape)  # type: ignore[arg-type]
    mix, importance = ExampleMix({"recall": 1, "quote": 1}, {"books": 1}), np.zeros(300, np.float32)
    arguments = (corpus, tokenizer, PageStyle.named("vist"), 64, 4, mix, wanted, importance, 64, 4)
    return NestedSamples(*arguments, seed=2, tokens=tokens)


def batch(data: NestedSamples, number: int) -> dict[str, torch.Tensor]:
    return data.collate([data[4 * number + place] for place in range(4)])


def test_the_guide_follows_its_patch_through_the_division() -> None:
    """Every patch and every sub-token: where `Division` puts the patch there the guide points."""
    group, parts = 3, 3  # as many sub-tokens as patches, so a sub-token is a patch where nothing is merged
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 3, 5, 7, 9, 99):
        mask = torch.rand(2, 30, generator=generator) < torch.tensor([[0.9], [0.5]])
        counts = torch.tensor([count, max(1, count - 1)])
        division = Division.of(mask, counts, group)
        whole = -(-mask.sum(1) // group)
        for page in range(2):
            ranks = np.arange(int(mask[page].sum()))
            guide = ranks + (int(whole[0]) * parts if page else 0)
            moved = merged_guide(guide, mask[:, None].numpy(), counts.numpy(), group, parts)
            before = int(division.alive[0].sum()) * parts if page else 0
            assert (moved - before).tolist() == division.place[page][mask[page]].tolist()


def test_a_guide_stays_where_nothing_is_merged() -> None:
    guide, ink = np.array([-1, 0, 5, 11, -1, 23]), np.ones((2, 4, 3), bool)
    assert merged_guide(guide, ink, np.array([6, 9]), 2, 2).tolist() == guide.tolist()
    assert merged_guide(guide, ink, np.array([3, 6]), 2, 2).tolist() == [-1, 0, 2, 5, -1, 17]


def test_batches_differ_in_their_number_and_repeat_themselves(corpus: PackedCorpus, tokenizer) -> None:
    data, again = samples(corpus, tokenizer), samples(corpus, tokenizer)
    batches = [batch(data, number) for number in range(12)]
    counts = [one.get("visual_tokens") for one in batches]
    assert 1 <= sum(count is None for count in counts) <= 7
    drawn = [count.float().log().mean() for count in counts if count is not None]
    assert max(drawn) - min(drawn) > 1
    for one in batches:
        if "visual_tokens" in one:
            assert one["visual_tokens"].shape == one["pixel_values"].shape[:2]
            assert one["visual_tokens"].min() >= 1 and one["visual_tokens"].max() <= 64
    for number in (0, 1, 2):
        other = batch(again, number)
        assert other.keys() == batches[number].keys()
        assert all(torch.equal(other[name], batches[number][name]) for name in other)


def test_guides_stay_within_what_the_model_reads(corpus: PackedCorpus, tokenizer) -> None:
    """The largest guided sub-token of each sample exists in its context, and sub-tokens are counted, not tokens."""
    data = samples(corpus, tokenizer, TokenRange(least=4, most=20, full_share=0))
    torch.manual_seed(0)
    model = tiny_model(size=(224, 224), reducer="local", num_visual_tokens=64)
    one = batch(data, 0)
    read = model.encode_context(one["pixel_values"], one["ink_mask"], one["visual_tokens"])
    guided = one["guide"].amax(1)
    assert (guided < read.mask.sum(1) * 4).all() and (guided > read.mask.sum(1)).any()


def test_batches_of_text_draw_nothing(corpus: PackedCorpus, tokenizer) -> None:
    assert "visual_tokens" not in batch(samples(corpus, tokenizer, text_share=1.0), 0)


@pytest.mark.parametrize("wrong", [(0, 4), (5, 4), (1, 2, 1.5), (1, 2, 0.5, -1)])
def test_ranges_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(VistError, match="give"):
        TokenRange(*wrong)


def miniature():
    return replace(
        nano_nested(),
        domains=DOMAINS,
        mix=ExampleMix({"continue": 1, "recall": 1, "quote": 1}, DOMAINS),
        shape=ContextShape(distant=(200, 900), tokens=32),
        tokens=TokenRange(least=2, most=16, full_share=0),
        nested=StageConfig(steps=2, batch_size=2, learning_rate=1e-2, save_every=1, workers=0),
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model as a `nano` run leaves it, untrained."""
    folder = tmp_path_factory.mktemp("finished") / "model" / "final"
    tokenizer = train_tokenizer([alice(20_000)], 400, 512)
    choices = {"reducer": "local", "num_visual_tokens": 64, "cross_subtokens": True, "num_page_positions": 4}
    model = tiny_model(size=(224, 224), **choices)
    model.language_model.resize_token_embeddings(len(tokenizer))
    model.config.text_config.vocab_size = len(tokenizer)
    model.save_pretrained(folder)
    processor = VistProcessor(tokenizer)
    processor.frequency = TokenFrequency.from_corpus([tokenizer(alice(5_000)).input_ids], len(tokenizer))
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def nested(source: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_nested(miniature(), data, tmp_path_factory.mktemp("run"), source=source.parents[1])


def test_a_finished_model_learns_to_merge_and_nothing_else_moves(source: Path, nested: Path) -> None:
    before = VistForConditionalGeneration.from_pretrained(source).state_dict()
    model = VistForConditionalGeneration.from_pretrained(nested).eval()
    after = model.state_dict()
    new = {"resampler.merge_order.weight", "resampler.merge_level"}
    assert after.keys() - before.keys() == new and all(after[name].any() for name in new)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("cross_attn" in n or n.startswith(("resampler", "page_positions")) for n in changed)
    inputs = VistProcessor.from_pretrained(nested)(context=alice(3_000), prompt="The", ratio=40, adaptive=True)
    out = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_a_finished_run_is_not_run_again(nested: Path, source: Path, data: Path, monkeypatch) -> None:
    monkeypatch.setattr("vist.train.nested_nano.run_stage", lambda *args, **kwargs: pytest.fail("trained again"))
    assert train_nested(miniature(), data, nested.parents[1], source=source) == nested
    assert list(STAGES) == ["nested", "nested-model"]


def test_the_stages_of_nano_draw_on_request(
    source: Path, corpus: PackedCorpus, data: Path, tmp_path, monkeypatch
) -> None:
    """`nested` of a recipe reaches the last two stages alone, and is off in the recipes there are."""
    assert nano().nested is None
    trained = []
    monkeypatch.setattr("vist.train.nano.run_stage", lambda model, samples, *_, **__: trained.append((model, samples)))
    for nested in (None, RANGE):
        run = NanoRun(replace(nano(), domains=DOMAINS, nested=nested), data, tmp_path / str(nested is None))
        processor = VistProcessor.from_pretrained(source)
        processor.tokenizer.save_pretrained(run.final("tokenizer"))
        run.final("frequency").mkdir(parents=True)
        processor.frequency.save(run.final("frequency") / "token_frequency.safetensors")
        for stage in ("read-back", "settling"):
            model = VistForConditionalGeneration.from_pretrained(source)
            arguments = (miniature().mix, miniature().shape, miniature().nested, 1)
            run._train_context(stage, model, *arguments)
    draws = [isinstance(samples, NestedSamples) for _, samples in trained]
    assert draws == [model.config.local_merge for model, _ in trained] == [False, False, False, True]


def test_what_cannot_be_continued_is_refused(source: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(VistError, match="leave --from"):
        vist.recipes.run("nano", data, tmp_path, source=source)
    with pytest.raises(VistError, match="nowhere"):
        vist.recipes.run("nano-nested", data, tmp_path, source=tmp_path / "nowhere")
    bare = tmp_path / "bare"
    VistForConditionalGeneration.from_pretrained(source).save_pretrained(bare)
    VistProcessor(VistProcessor.from_pretrained(source).tokenizer).save_pretrained(bare)
    with pytest.raises(VistError, match="token statistics"):
        train_nested(miniature(), data, tmp_path / "out", source=bare)
