"""Batches of pages and text: what a sample holds, and that ranks, workers and interruptions change nothing."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny_backbones import tiny_tokenizer
from tiny_recipe import write_corpus
from vist.errors import VistError
from vist.render import PageStyle, render
from vist.train.paged import Share, WindowBatches, WindowReader, WindowShape
from vist.train.sources import open_shards
from vist.train.stream import Lane, cut_lanes

TOKENIZER = tiny_tokenizer()
SHAPE = WindowShape(distant=90, proximal=16)
LANES = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def reader() -> WindowReader:
    importance = np.linspace(-2, 2, len(TOKENIZER), dtype=np.float32)
    return WindowReader(TOKENIZER, PageStyle.named("vist"), SHAPE, importance, seed=3)


def batches(corpus: Path, batch_size: int, rank: int = 0, world: int = 1, workers: int = 0) -> WindowBatches:
    segments = cut_lanes(open_shards(corpus), LANES)
    share = Share.of(LANES, batch_size, rank, world)
    return WindowBatches(segments, reader(), share, 8, workers, "known")


def take(found: WindowBatches, count: int) -> list[dict[str, Any]]:
    return list(islice(found, count))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) if torch.is_tensor(one[name]) else one[name] == other[name] for name in one
    )


def test_a_batch_is_windows_as_pages_and_text(corpus: Path) -> None:
    (batch,) = take(batches(corpus, 2), 1)
    segments = cut_lanes(open_shards(corpus), LANES)
    for sample in range(2):
        window = next(Lane(segments[sample], TOKENIZER, 90 + 15))
        assert batch["input_ids"][sample].tolist() == [1, *window.ids[90:]]
        assert batch["context_ids"][sample].tolist() == window.ids[:90].tolist()
        pages = render("".join(window.texts[:90]), "vist")
        assert np.array_equal(batch["pixel_values"][sample, : len(pages)], pages.pixels)
        assert not batch["ink_mask"][sample, len(pages) :].any()
    assert torch.equal(batch["labels"], batch["input_ids"]) and batch["cursors"].keys() == {0, 1}


def test_ends_of_documents_are_never_kept_for_pve(corpus: Path) -> None:
    found = take(batches(corpus, 4), 4)
    assert any((batch["context_ids"] == TOKENIZER.eos_token_id).any() for batch in found)
    for batch in found:
        ends = batch["context_ids"] == TOKENIZER.eos_token_id
        assert not batch["context_keep"][ends].any()
        kept = batch["context_keep"].sum(1)
        assert torch.equal(kept, (~ends).sum(1) - ((~ends).sum(1) * 0.5).round().long())


def test_masking_is_drawn_anew_for_every_window_and_repeatable(corpus: Path) -> None:
    samples = reader(), reader()
    window = next(Lane(cut_lanes(open_shards(corpus), 1)[0], TOKENIZER, 105))
    later = window._replace(cursor=replace(window.cursor, windows=2))
    first, again, other = samples[0].sample(window, 0), samples[1].sample(window, 0), samples[0].sample(later, 0)
    assert torch.equal(first["keep"], again["keep"]) and not torch.equal(first["keep"], other["keep"])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_two_ranks_see_pass_by_pass_what_one_sees(corpus: Path, batch_size: int) -> None:
    whole = take(batches(corpus, 2 * batch_size), 4)
    halves = [take(batches(corpus, batch_size, rank, 2), 4) for rank in range(2)]
    for step, batch in enumerate(whole):
        for name in ("input_ids", "context_ids", "context_keep"):
            assert torch.equal(batch[name], torch.cat([half[step][name] for half in halves]))


def test_workers_change_nothing(corpus: Path) -> None:
    alone = batches(corpus, 2)
    shared = batches(corpus, 2, workers=3)
    assert shared.workers == 2  # of 4 lanes, 3 workers would not always own the same ones
    assert all(same(*pair) for pair in zip(take(alone, 5), take(shared, 5), strict=True))


@pytest.mark.parametrize("done", [1, 3])
def test_batches_go_on_from_a_checkpoint_of_another_number_of_ranks(corpus: Path, done: int) -> None:
    whole = take(batches(corpus, 4), done + 2)
    ranks = [batches(corpus, 2, rank, 2) for rank in range(2)]
    for found in ranks:
        for batch in take(found, done + 2)[:done]:  # two more were drawn ahead and not trained on
            found.used(batch["cursors"])
    resumed = batches(corpus, 4)
    resumed.restore([found.state() for found in ranks])
    assert all(same(*pair) for pair in zip(take(resumed, 2), whole[done:], strict=True))


def test_a_checkpoint_of_other_data_is_refused(corpus: Path) -> None:
    with pytest.raises(VistError, match="made with other training data"):
        batches(corpus, 4).restore([{"fingerprint": "another", "cursors": {}}])


def test_unequal_shares_are_refused() -> None:
    with pytest.raises(VistError, match="global batch of 4 cannot be divided among 3 ranks"):
        Share.of(4, 1, 0, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_worker_meets_comes_back_as_its_sentence(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 9)
    with pytest.raises(VistError, match=r"^A part of the corpus has no text at all \(empty\)"):
        take(batches(tmp_path, 2, workers=workers), 1)
